"""The noise of the gradient against recomputed gradients, and that training never notices."""

import copy

import numpy as np
import peft
import pytest
import torch
from datasets import Dataset
from families import build, examples
from measuring import BOTH, EVALUATED, Noisy, PlainTrainer, assert_unnoticed, trainer_of
from torch import nn
from trainers import CLASSES, DIM, Toy, config, toy_examples
from transformers import Trainer, TrainerCallback

from itra_hf import ITRATrainer
from itra_hf.reports.gradient_noise import GradientNoiseCallback

NAMES = ("gradient_variance", "gradient_noise_to_signal", "held_out_loss_change")
TRAIN, TEST = toy_examples(20, noise=2.0), toy_examples(9, seed=1, noise=2.0)
SGD = {"optim": "sgd", "learning_rate": 0.3}


class Snapshots(TrainerCallback):
    """Keeps the model as it is before each step, and after the last."""

    def __init__(self):
        self.models = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.models.append(copy.deepcopy(model).eval())

    on_train_end = on_step_begin


def toy_trainer(folder, model=None, data=TRAIN, test=TEST, kind=Trainer, callbacks=None, **settings):
    args = config(folder, **{**SGD, **settings})
    return kind(model or Toy(dropout=0.3), args, train_dataset=data, eval_dataset=test, callbacks=callbacks)


def noise_of(trainer):
    """The measurements by the step at which they were logged."""
    lines = [line for line in trainer.state.log_history if "gradient_variance" in line]
    return {line["step"]: {name: line[name] for name in NAMES if name in line} for line in lines}


def measured(trainer, resume=None, **options):
    """Trains with the callback and returns its measurements."""
    trainer.add_callback(GradientNoiseCallback(trainer, **options))
    trainer.train(resume_from_checkpoint=resume)
    return noise_of(trainer)


def loss_of(model, rows):
    batch = torch.stack([row["x"] for row in rows]), torch.tensor([row["labels"] for row in rows])
    return nn.functional.cross_entropy(model(batch[0])["logits"], batch[1])


def drawn(data, step, count, size=4):
    """The documented draws: a function of the seed and the step."""
    generator = np.random.default_rng([42, step])
    return [[data[i] for i in generator.choice(len(data), size, replace=False)] for _ in range(count)]


def slow_noise(model, step, part, batches):
    gradients = []
    for rows in drawn(TRAIN, step + 1, batches):
        model.zero_grad()
        loss_of(model, rows).backward()
        gradients.append(torch.cat([p.grad.flatten() for name, p in model.named_parameters() if part in name]).numpy())
    variance = np.var(np.array(gradients, dtype=np.float64), axis=0, ddof=1).sum()
    signal = (np.mean(gradients, axis=0) ** 2).sum() - variance / batches
    return {"gradient_variance": variance} | ({"gradient_noise_to_signal": variance / signal} if signal > 0 else {})


@pytest.mark.parametrize("kind", [Trainer, ITRATrainer, PlainTrainer])
@pytest.mark.parametrize(("name", "part"), [(None, "head"), ("body", "body"), ("0.weight", "body.0.weight")])
def test_noise_is_that_of_recomputed_gradients(name, part, kind, tmp_path):
    snapshots = Snapshots()
    trainer = toy_trainer(tmp_path, kind=kind, callbacks=[snapshots], max_steps=5)
    got = measured(trainer, every=2, batches=3, parameters=name)
    assert list(got) == [1, 3, 5]
    (held_out,) = drawn(TEST, 0, 1)
    for step, figures in got.items():
        before, after = snapshots.models[step - 1 : step + 1]
        change = (loss_of(after, held_out) - loss_of(before, held_out)).item()
        expected = slow_noise(before, step - 1, part, batches=3) | {"held_out_loss_change": change}
        assert figures == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert change != 0


class Mean(nn.Module):
    """Its gradient on a batch is `w` minus the batch's mean."""

    def __init__(self, start):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(start, dtype=torch.float32))

    def forward(self, x, labels=None):
        return {"loss": (self.w - x).square().sum(dim=1).mean() / 2, "logits": x[:, :CLASSES] * self.w.sum()}


def test_the_estimates_are_unbiased(tmp_path):
    points = torch.stack([row["x"] for row in TRAIN]).numpy().astype(np.float64)
    trainer = toy_trainer(tmp_path, Mean([2.0] * DIM), max_steps=300, learning_rate=0.0)
    got = list(measured(trainer, every=1, batches=2, parameters="w").values())
    variances, signals = np.array([(f[NAMES[0]], f[NAMES[0]] / f[NAMES[1]]) for f in got]).T
    # of the mean of 4 out of 20, drawn without putting back
    variance = points.var(axis=0, ddof=1).sum() / 4 * (1 - 4 / 20)
    for values, expected in ((variances, variance), (signals, ((2 - points.mean(axis=0)) ** 2).sum())):
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(300)
        assert values.std() / np.sqrt(300) < 0.05 * expected
    assert {figures["held_out_loss_change"] for figures in got} == {0.0}


def test_no_ratio_where_the_noise_drowns_the_signal(tmp_path):
    centre = torch.stack([row["x"] for row in TRAIN]).mean(dim=0)
    trainer = toy_trainer(tmp_path, Mean(centre), max_steps=40, learning_rate=0.0)
    got = measured(trainer, every=1, batches=2, parameters="w")
    ratios = [figures.get("gradient_noise_to_signal") for figures in got.values()]
    assert 5 < ratios.count(None) < 35
    assert all(ratio is None or ratio > 0 for ratio in ratios)


def test_examples_that_agree_have_no_noise(tmp_path):
    got = measured(toy_trainer(tmp_path, Toy(), TRAIN[:1] * 20, max_steps=1))[1]
    assert got["gradient_variance"] == pytest.approx(0, abs=1e-6)
    assert got["gradient_noise_to_signal"] == pytest.approx(0, abs=1e-6)
    assert got["held_out_loss_change"] != 0


@pytest.mark.parametrize("test", [None, {"here": TEST}, TEST[:3], tuple({"x": row["x"]} for row in TEST)])
def test_the_held_out_batch_comes_from_what_there_is(test, tmp_path):
    snapshots = Snapshots()
    got = measured(toy_trainer(tmp_path, test=test, callbacks=[snapshots], max_steps=1))[1]
    size, data = (3, TEST[:3]) if isinstance(test, list) else (4, TEST if isinstance(test, dict) else TRAIN)
    (held_out,) = drawn(data, 0, 1, size)
    before, after = (loss_of(model, held_out).item() for model in snapshots.models)
    assert got["held_out_loss_change"] == pytest.approx(after - before, rel=1e-4)


def test_parameters_that_a_batch_may_not_need(tmp_path):
    class Gated(Toy):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(DIM, CLASSES)

        def forward(self, x, labels=None):
            outputs = super().forward(x, labels)
            extra = self.extra(x).square().mean() if x.sum() > 12 else 0.0
            return {**outputs, "loss": outputs["loss"] + extra} if labels is not None else outputs

    got = measured(toy_trainer(tmp_path, Gated(), max_steps=4), every=1, parameters="e")
    assert all(np.isfinite(figures["gradient_variance"]) for figures in got.values())
    got = measured(toy_trainer(tmp_path, Gated(), [{**row, "x": -row["x"].abs()} for row in TRAIN]), parameters="extra")
    assert got[1]["gradient_variance"] == 0


# ---- As a setting ----


@BOTH
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_series_is_logged_beside_the_losses(accumulation, kind, tmp_path):
    settings = {"max_steps": 6, "gradient_accumulation_steps": accumulation, "logging_steps": 2}
    trainer = trainer_of(kind, tmp_path, gradient_noise_steps=3, **settings)
    trainer.train()
    assert list(noise_of(trainer)) == [1, 4]
    assert [line["step"] for line in trainer.state.log_history if "loss" in line] == [2, 4, 6]
    other = trainer_of(Trainer, tmp_path, **settings)
    got = measured(other, every=3)
    for name in NAMES[:2]:  # those of the task loss, before the first step
        assert noise_of(trainer)[1][name] == got[1][name]
    assert got[4] != got[1]
    off = trainer_of(kind, tmp_path, max_steps=1)
    off.train()
    assert not noise_of(off)


def summed_loss(outputs, labels, num_items_in_batch=None):
    loss = nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
    return loss / num_items_in_batch


@BOTH
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "dataloader_num_workers": 1},
        {"eval_dataset": None},
        {"eval_compactness": True, **EVALUATED},
        {"bf16": True},
        {"label_smoothing_factor": 0.1},
        {"compute_loss_func": summed_loss},
        {"train_dataset": Noisy(examples("Bert", 24)), "eval_dataset": Noisy(examples("Bert", 9))},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_training_is_bit_for_bit_the_same(settings, kind, tmp_path):
    assert_unnoticed(kind, tmp_path, {"gradient_noise_steps": 2}, max_steps=5, **settings)


def test_smoothed_labels_and_items_count_as_in_training(tmp_path):
    plain, smoothed, summed = (
        trainer_of(PlainTrainer, tmp_path, gradient_noise_steps=1, max_steps=1, **settings)
        for settings in ({}, {"label_smoothing_factor": 0.1}, {"compute_loss_func": summed_loss})
    )
    for trainer in (plain, smoothed, summed):
        trainer.train()
    for name in NAMES[:2]:
        assert noise_of(summed)[1][name] == pytest.approx(noise_of(plain)[1][name], rel=1e-4)
    assert noise_of(smoothed)[1]["gradient_variance"] < 0.9 * noise_of(plain)[1]["gradient_variance"]


@BOTH
@pytest.mark.parametrize("saved", [2, 3])
def test_a_resumed_run_measures_the_same(saved, kind, tmp_path):
    settings = {"kind": kind, "max_steps": 6, "save_strategy": "steps", "save_steps": saved, "gradient_noise_steps": 2}
    whole, resumed = (toy_trainer(tmp_path, **settings) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{saved}"))
    assert noise_of(resumed) == noise_of(whole)
    assert list(noise_of(whole)) == [1, 3, 5]


@pytest.mark.parametrize("training", [True, False])
def test_model_gradients_and_random_state_stay(training, tmp_path):
    trainer = toy_trainer(tmp_path, kind=PlainTrainer)
    callback = GradientNoiseCallback(trainer, every=1)
    model = trainer.model.train(training)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    weights, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for event in (callback.on_train_begin, callback.on_step_begin, callback.on_step_end):
        event(trainer.args, trainer.state, trainer.control)
        assert all(module.training == training for module in model.modules())
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", [Trainer, ITRATrainer])
def test_the_saved_head_of_an_adapted_model(kind, tmp_path):
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=["classifier"])
    trainer = trainer_of(kind, tmp_path, model=peft.get_peft_model(build("Bert"), lora))
    callback = GradientNoiseCallback(trainer, every=1)
    trainer.add_callback(callback)
    trainer.train()
    heads = [p for name, p in trainer.model.named_parameters() if "modules_to_save" in name]
    assert [id(p) for p in callback._chosen] == [id(p) for p in heads]
    assert min(figures["gradient_variance"] for figures in noise_of(trainer).values()) > 0


# ---- What is refused ----


@pytest.mark.parametrize(("name", "value", "least"), [("every", 0, 1), ("every", 1.5, 1), ("batches", 1, 2)])
def test_numbers_that_do_not_do(name, value, least, tmp_path):
    with pytest.raises(ValueError, match=f"{name}={value} must be an integer >= {least}"):
        GradientNoiseCallback(toy_trainer(tmp_path), **{name: value})


@pytest.mark.parametrize("steps", [-1, 2.5, True])
def test_settings_that_are_no_number_of_steps(steps, tmp_path):
    with pytest.raises(ValueError, match=f"gradient_noise_steps={steps} must be an integer >= 0"):
        config(tmp_path, gradient_noise_steps=steps)


def test_streams_and_shards_are_refused(tmp_path):
    stream = Dataset.from_list(examples("Bert", 12)).to_iterable_dataset()
    with pytest.raises(ValueError, match="needs a training set with a length"):
        GradientNoiseCallback(trainer_of(Trainer, tmp_path, train_dataset=stream))
    for kind in (ITRATrainer, PlainTrainer):
        with pytest.raises(ValueError, match="needs a training set with a length"):
            trainer_of(kind, tmp_path, train_dataset=stream, gradient_noise_steps=1).train()
    for name in ("is_fsdp_enabled", "is_deepspeed_enabled"):
        trainer = toy_trainer(tmp_path)
        setattr(trainer, name, True)
        with pytest.raises(ValueError, match="sharded by FSDP or DeepSpeed"):
            GradientNoiseCallback(trainer)


@pytest.mark.parametrize("parameters", ["tail", "head", None])
def test_parameters_that_are_not_there_or_frozen(parameters, tmp_path):
    model = Toy()
    if parameters != "tail":
        model.head.requires_grad_(False)
    trainer = toy_trainer(tmp_path, model)
    with pytest.raises(ValueError, match=rf"parameters={parameters!r} names no trainable .*body\.0\.weight") as raised:
        measured(trainer, parameters=parameters)
    assert ("head.weight" in str(raised.value)) == (parameters == "tail")
    assert trainer.state.global_step == 0
