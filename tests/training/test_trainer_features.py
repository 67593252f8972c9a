"""`ITRATrainer` together with what else a `Trainer` can do: precisions, checkpointing, adapters."""

import copy
import gc
import math
import multiprocessing
import os
import weakref
from unittest.mock import patch

import peft
import pytest
import torch
from datasets import Dataset
from families import build, examples
from measuring import hook_count
from recording import SGD, logged, plain, train
from torch.testing import assert_close
from trainers import DIM, Toy, config, toy_examples
from transformers import Trainer

from itra_hf import ITRATrainer
from itra_hf.losses.matching import MatchingLoss

# ---- Switches that must not change the numbers ----


@pytest.fixture
def restored():
    cudnn, deterministic = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    with patch.dict(os.environ), cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic):
        yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"torch_empty_cache_steps": 1}, {"full_determinism": True}])
def test_housekeeping_changes_no_loss(settings, restored, tmp_path):
    expected = train(tmp_path, build("Bert"), max_steps=8)
    got = train(tmp_path, build("Bert"), max_steps=8, **settings)
    assert torch.are_deterministic_algorithms_enabled() == ("full_determinism" in settings)
    assert logged(got) == logged(expected)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["Bert", "GPT2"])
def test_gradient_checkpointing_changes_no_loss(family, reentrant, tmp_path):
    model, common = plain(family), {"max_steps": 6, **SGD}
    expected = train(tmp_path, copy.deepcopy(model), **common)
    settings = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    got = train(tmp_path, model, **common, **settings)
    assert model.is_gradient_checkpointing
    for key, values in logged(expected).items():
        assert logged(got)[key] == pytest.approx(values, rel=1e-5)
    assert_close(model.state_dict(), expected.model.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compiling_changes_no_loss(tmp_path):
    model, common = plain("GPT2"), {"max_steps": 3, **SGD}
    expected = train(tmp_path, copy.deepcopy(model), **common)
    got = train(tmp_path, model, torch_compile_backend="aot_eager", **common)
    for key, values in logged(expected).items():
        assert logged(got)[key] == pytest.approx(values, rel=1e-4)


@pytest.mark.parametrize("trainer_class", [Trainer, ITRATrainer])
def test_a_dropped_trainer_is_freed_at_once(trainer_class, tmp_path):
    # Left to the garbage collector, the model stays in memory, and loader workers end only after a timeout.
    trainer = trainer_class(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 12))
    trainer.train()
    model = weakref.ref(trainer.model)
    gc.disable()
    try:
        del trainer
        assert model() is None
    finally:
        gc.enable()


def batch_of_features(dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    features = [(scale * torch.randn(rows, DIM, generator=generator)).to(dtype) for rows in (6, 5)]
    labels = [torch.arange(rows) % 3 for rows in (6, 5)]
    return features[0].requires_grad_(), labels[0], features[1], labels[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"alignment": "conditional"},
        {"alignment": "joint"},
        {"alignment": "marginal", "bandwidth": "median"},
        {"alignment": "conditional", "estimator": "unbiased", "kernel": "laplacian"},
    ],
)
def test_the_matching_loss_compiles_into_one_graph(settings):
    torch._dynamo.reset()
    loss, batch, again = MatchingLoss(**settings), batch_of_features(), batch_of_features()
    assert torch._dynamo.explain(loss)(*batch).graph_break_count == 0
    expected, got = loss(*batch), torch.compile(loss, fullgraph=True, backend="aot_eager")(*again)
    expected.backward()
    got.backward()
    assert_close(got, expected)
    assert_close(again[0].grad, batch[0].grad)


@pytest.fixture
def spawning():
    """Windows and macOS start processes so."""
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(usual, force=True)


@pytest.mark.slow
def test_spawned_workers_give_the_same_losses(spawning, tmp_path):
    data, common = Dataset.from_list(examples("Bert", 12)), {"max_steps": 6}  # two epochs
    expected = train(tmp_path, plain(), data, **common)
    common |= {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    got = train(tmp_path, plain(), data, **common)
    assert logged(got) == logged(expected)


# ---- Precision ----


def test_bf16_autocast_stays_near_float32(tmp_path):
    model, common = plain(), {"max_steps": 10, "optim": "sgd"}
    expected = logged(train(tmp_path, copy.deepcopy(model), **common))
    got = logged(train(tmp_path, model, bf16=True, **common))
    assert got["matching_loss"] != expected["matching_loss"]  # autocast was on
    assert got["matching_loss"] == pytest.approx(expected["matching_loss"], rel=0.02)
    assert got["matching_weight"] == pytest.approx(expected["matching_weight"], rel=0.05)


def test_a_model_in_bf16_trains_and_is_evaluated(tmp_path):
    model = build("Bert").to(torch.bfloat16)
    trainer = train(tmp_path, model, max_steps=6, bf16_full_eval=True)
    assert all(math.isfinite(value) for values in logged(trainer).values() for value in values)
    assert max(logged(trainer)["matching_weight"]) > 0
    assert math.isfinite(trainer.evaluate(examples("Bert", 8, seed=1))["eval_loss"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alignment", ["conditional", "joint", "marginal"])
def test_large_features_in_half_precision(alignment, dtype):
    loss, (features, labels, others, other_labels) = MatchingLoss(alignment), batch_of_features(dtype, scale=4e3)
    assert features.detach().float().norm(dim=1).max() > 1e4
    with torch.autocast("cpu", dtype=dtype):
        value = loss(features, labels, others, other_labels)
    (gradient,) = torch.autograd.grad(value, features)
    exact = loss(features.detach().double(), labels, others.double(), other_labels)
    assert value.item() == pytest.approx(exact.item(), rel=1e-3)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_large_features_train_under_autocast(tmp_path):
    model = Toy()
    model.body.register_forward_hook(lambda module, args, output: 1e4 * output)
    with torch.no_grad():
        model.head.weight.mul_(1e-4)
    log = logged(train(tmp_path, model, toy_examples(24), max_steps=6, bf16=True, learning_rate=1e-5))
    assert all(math.isfinite(value) for values in log.values() for value in values)
    assert min(log["matching_loss"]) > 0


def test_a_gradient_scaler_sees_one_loss(tmp_path):
    gradients, scaler = [], torch.amp.GradScaler("cpu")
    for scaled in (False, True):
        model = plain()
        trainer = ITRATrainer(model, config(tmp_path, matching_weight=0.5), train_dataset=examples("Bert", 12))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batch = next(iter(trainer.get_train_dataloader()))
        for trainer.state.global_step in range(2):  # the balance comes from the step before
            optimizer.zero_grad()
            loss = trainer.compute_loss(model.train(), batch)
            (scaler.scale(loss) if scaled else loss).backward()
        if scaled:
            scaler.unscale_(optimizer)
        assert loss > model(**{name: value for name, value in batch.items() if name != "itra_companion"}).loss + 1e-3
        gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-8)
    before, scale = copy.deepcopy(model.state_dict()), scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == scale  # no overflow
    assert not torch.equal(model.state_dict()["classifier.weight"], before["classifier.weight"])


# ---- Adapters ----


@pytest.mark.parametrize(
    ("adapter", "mark"),
    [
        (peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"], modules_to_save=["classifier"]), "lora_"),
        (peft.LoraConfig(task_type="SEQ_CLS", r=4, use_dora=True, target_modules=["query", "value"]), "lora_"),
        (peft.IA3Config(task_type="SEQ_CLS", target_modules=["key"], feedforward_modules=[]), "ia3_"),
    ],
    ids=["lora", "dora", "ia3"],
)
def test_adapters_learn_and_the_base_stays(adapter, mark, tmp_path):
    model = peft.get_peft_model(build("Bert"), adapter)
    before = copy.deepcopy(model.state_dict())
    log = logged(train(tmp_path, model, max_steps=4))
    assert min(log["matching_loss"]) > 0
    assert max(log["matching_weight"]) > 0
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert moved <= trained
    assert any(mark in name for name in moved)
    assert any("classifier" in name for name in moved)
    assert hook_count(model) == 0
