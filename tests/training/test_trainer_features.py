"""`ITRATrainer` together with what else a `Trainer` can do: searches, precisions, checkpointing, adapters."""

import copy
import gc
import math
import multiprocessing
import os
import weakref
from unittest.mock import patch

import optuna
import peft
import pytest
import torch
from datasets import Dataset
from families import build, examples
from torch import nn
from torch.testing import assert_close
from trainers import DIM, Toy, config, toy_examples
from transformers import Trainer, TrainerCallback

from itra_hf import ITRATrainer
from itra_hf.losses.matching import MatchingLoss

SERIES = ("loss", "task_loss", "matching_loss", "matching_weight")
SGD = {"optim": "sgd", "learning_rate": 0.5}  # Adam would blow rounding errors of vanishing gradients up


def plain(family="Bert"):
    """A classifier without dropout."""
    model = build(family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def train(folder, model, data=None, callbacks=None, **settings):
    family = type(getattr(model, "base_model", model)).__name__.removesuffix("Model")
    data = data or Dataset.from_list(examples(family if family == "GPT2" else "Bert", 26))
    trainer = ITRATrainer(model, config(folder, **settings), train_dataset=data, callbacks=callbacks)
    trainer.train()
    return trainer


def logged(trainer):
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == trainer.args.max_steps
    return {key: [line[key] for line in lines] for key in SERIES}


def hook_count(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# ---- Searches ----


class CountHooks(TrainerCallback):
    def __init__(self):
        self.counts = set()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.counts.add(hook_count(model))


def test_a_search_uses_its_values_and_no_trial_leaks_into_the_next(tmp_path):
    data, common, trials, models = examples("Bert", 26), {"weight_mode": "constant", "max_steps": 6}, [], []
    count = CountHooks()
    given = {"model_init": lambda: build("Bert"), "train_dataset": data}
    search = ITRATrainer(args=config(tmp_path, **common), eval_dataset=data[:8], callbacks=[count], **given)

    def space(trial):
        return {
            "matching_weight": trial.suggest_float("matching_weight", 0.1, 0.9),
            "alignment": trial.suggest_categorical("alignment", ["conditional", "joint", "marginal"]),
        }

    def objective(metrics):
        trials.append((search._trial.params, logged(search)))
        models.append(search.model)
        return metrics["eval_loss"]

    search.hyperparameter_search(
        space, objective, n_trials=3, backend="optuna", sampler=optuna.samplers.RandomSampler(seed=2)
    )
    assert len({settings["alignment"] for settings, _ in trials}) > 1
    assert count.counts == {1}  # the feature's tap, on the new model
    assert [hook_count(model) for model in models] == [0, 0, 0]
    for index, (settings, log) in enumerate(trials):
        assert log["matching_weight"] == pytest.approx([settings["matching_weight"]] * 6)
        fresh = ITRATrainer(args=config(tmp_path / str(index), **common, **settings), **given)
        fresh.train()
        assert logged(fresh) == log


def test_a_trial_may_leave_settings_behind_that_do_nothing_in_the_next(tmp_path):
    seen, data = [], examples("Bert", 26)
    given = {"model_init": lambda: build("Bert"), "train_dataset": data, "eval_dataset": data[:8]}
    search = ITRATrainer(args=config(tmp_path), **given)

    def space(trial):
        return {"companion": "memory", "memory_size": 16} if trial.number == 0 else {"companion": "sample"}

    def objective(metrics):
        seen.append((search.args.companion, search._itra_companion))
        return metrics["eval_loss"]

    search.hyperparameter_search(space, objective, n_trials=2, backend="optuna")
    assert seen == [("memory", "memory"), ("sample", "sample")]


@pytest.mark.slow
def test_auto_find_batch_size_ends_like_a_run_of_that_size(tmp_path):
    model, common = plain(), {"max_steps": 5, **SGD}
    expected = train(tmp_path, copy.deepcopy(model), per_device_train_batch_size=10, **common)

    def refuse(module, args, kwargs):
        if len(args[0] if args else kwargs["input_ids"]) > 20:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    handle = model.bert.register_forward_pre_hook(refuse, with_kwargs=True)
    found = train(tmp_path, model, per_device_train_batch_size=16, auto_find_batch_size=True, **common)
    handle.remove()
    assert found.state.train_batch_size == 10  # twice that, both batches, is what fits
    assert logged(found) == logged(expected)
    assert_close(model.state_dict(), expected.model.state_dict(), rtol=0, atol=0)
    assert hook_count(model) == 0


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
