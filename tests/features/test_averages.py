"""The running average of the weights, and companions that run through it."""

import copy

import peft
import pytest
import torch
from accelerate import Accelerator, DistributedType
from families import build, examples
from torch import nn
from torch.testing import assert_close
from trainers import AVERAGED, DIM, Toy, config, toy_examples
from transformers import Trainer, TrainerCallback

from itra_hf import ITRAMixin, ITRATrainer
from itra_hf.features.averages import AveragedWeights, decay_in
from itra_hf.processes import holds_shards


class Recording(ITRATrainer):
    """Keeps the weights before each micro-batch, and the averages that its companion ran through."""

    def compute_loss(self, model, *args, **kwargs):
        loss = super().compute_loss(model, *args, **kwargs)
        if not hasattr(self, "seen"):
            self.seen = []
        weights = {name: each.detach().clone() for name, each in self.model.named_parameters() if each.requires_grad}
        averages = {name: each.clone() for name, each in self._itra_average.weights.items()}
        self.seen.append((self.state.global_step, weights, averages))
        return loss


def train(trainer_class, folder, model, data, **settings):
    if "companion" not in settings:
        settings = {**AVERAGED, **settings}
    trainer = trainer_class(model, config(folder, **settings), train_dataset=data)
    trainer.train()
    return trainer


def slow_averages(seen, decay):
    """The averages by their definition, from the weights before each step; a decay may depend on it."""
    average, last = None, None
    for step, weights, _ in seen:
        if average is None:
            average = {name: each.double() for name, each in weights.items()}
        elif step != last:
            kept = decay(step) if callable(decay) else decay
            average = {name: kept * average[name] + (1 - kept) * each.double() for name, each in weights.items()}
        last = step
        yield average


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("decay", [0.5, 0.97])
def test_the_average_follows_its_definition_once_an_optimizer_step(decay, accumulation, tmp_path):
    settings = {"max_steps": 5, "gradient_accumulation_steps": accumulation, "companion_decay": decay}
    trainer = train(Recording, tmp_path, Toy(), toy_examples(40), **settings)
    assert [step for step, *_ in trainer.seen] == [step for step in range(5) for _ in range(accumulation)]
    for (_, weights, averages), expected in zip(trainer.seen, slow_averages(trainer.seen, decay), strict=True):
        assert averages.keys() == weights.keys()
        for name, each in expected.items():
            assert averages[name].dtype == torch.float32
            assert_close(averages[name].double(), each, rtol=1e-5, atol=1e-7)
    assert not any(torch.equal(weights[name], averages[name]) for name in weights)


@pytest.mark.parametrize("steps", [1, 5, 12])
def test_an_open_decay_looks_back_a_quarter_of_the_run(steps, tmp_path):
    trainer = train(Recording, tmp_path, Toy(), toy_examples(40), max_steps=steps, companion_decay=None)
    assert decay_in(None, steps, steps) == pytest.approx(1 - 1 / (steps / 4 + 1))
    planned = slow_averages(trainer.seen, lambda step: 1 - 1 / (min(steps / 4, step) + 1))
    for (_, _, averages), expected in zip(trainer.seen, planned, strict=True):
        for name, each in expected.items():
            assert_close(averages[name].double(), each, rtol=1e-5, atol=1e-7)


def test_a_run_that_stops_early_averages_over_what_it_did(tmp_path):
    class Stops(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 6

    args = config(tmp_path, max_steps=1000, companion_decay=None)
    trainer = Recording(Toy(), args, train_dataset=toy_examples(40), callbacks=[Stops()])
    trainer.train()
    *_, (_, _, found) = trainer.seen
    mean = sum(weights["head.weight"].double() for _, weights, _ in trainer.seen) / len(trainer.seen)
    assert len(trainer.seen) == 6
    assert_close(found["head.weight"].double(), mean, rtol=1e-5, atol=1e-7)


def test_an_open_decay_is_that_of_the_epochs_where_no_steps_are_set(tmp_path):
    settings = {"max_steps": -1, "num_train_epochs": 3, "companion_decay": None}
    trainer = train(Recording, tmp_path, Toy(), toy_examples(40), **settings)
    assert trainer.state.global_step == 30
    *_, (_, _, found) = trainer.seen
    *_, expected = slow_averages(trainer.seen, lambda step: decay_in(None, step, 30))
    assert_close(found["head.weight"].double(), expected["head.weight"], rtol=1e-5, atol=1e-7)


def test_the_companion_runs_through_the_averages(tmp_path):
    model, run = build("Bert"), AveragedWeights(0.5)
    run.follow(model, 0, 2)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn_like(each), alpha=0.1)
    run.follow(model, 1, 2)
    lagging = copy.deepcopy(model).eval()
    lagging.load_state_dict(run.weights, strict=False)
    ids = torch.tensor([row["input_ids"] for row in examples("Bert", 4)])
    before = {name: each.clone() for name, each in model.state_dict().items()}
    model.train()
    with run.running(model):
        found = model(input_ids=ids).logits
    assert_close(found, lagging(input_ids=ids).logits)
    assert not torch.allclose(found, model.eval()(input_ids=ids).logits, atol=1e-3)
    assert not found.requires_grad
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


class Aliased(Toy):
    """Has a layer under two names, and two layers that share a weight."""

    def __init__(self):
        super().__init__()
        self.again = self.body
        self.twin = nn.Linear(*reversed(self.head.weight.shape))
        self.twin.weight = self.head.weight


def test_layers_under_two_names_and_shared_weights_keep_their_parameters(tmp_path):
    model = Aliased()
    before = {name: id(each) for name, each in model.named_parameters(remove_duplicate=False)}
    first = {name: each.detach().clone() for name, each in model.named_parameters()}
    trainer = train(Recording, tmp_path, model, toy_examples(40), max_steps=5)
    assert {name: id(each) for name, each in model.named_parameters(remove_duplicate=False)} == before
    assert not any(torch.equal(each, first[name]) for name, each in model.named_parameters() if "twin.bias" not in name)
    average, x = AveragedWeights(0.5), torch.randn(3, DIM)
    average.weights = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    with average.running(model):
        assert float(model(x=x)["logits"].abs().max()) == 0  # through both names
    assert trainer.seen


class Counting(Toy):
    """Counts its calls in one buffer, in place, and remembers the last batch in another, which it replaces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x, labels=None):
        self.calls += 1
        self.last = x.sum()
        return super().forward(x, labels)


def test_the_companion_leaves_the_buffers_alone(tmp_path):
    sums = []

    class Watching(Recording):
        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            sums.append((float(self.model.last), float(inputs["x"].sum())))
            return loss

    trainer = train(Watching, tmp_path, Counting(), toy_examples(40), max_steps=5)
    assert float(trainer.model.calls) == 5
    assert all(last == pytest.approx(own) for last, own in sums)


def test_weights_in_low_precision_are_averaged_in_float32():
    model, average = nn.Linear(2, 2).bfloat16(), AveragedWeights(0.999)
    first = model.weight.detach().float()
    average.follow(model, 0, 50)
    with torch.no_grad():
        model.weight.fill_(1.0)
        for step in range(1, 50):
            average.follow(model, step, 50)
    found = average.weights["weight"]
    assert found.dtype == torch.float32
    assert_close(found, 1 - 0.999**49 * (1 - first), rtol=1e-5, atol=1e-6)
    with average.running(model):
        assert model(input=torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_run_that_fails_gives_the_weights_back():
    model, average = Aliased(), AveragedWeights(0.5)
    average.weights = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    before = {name: id(each) for name, each in model.named_parameters(remove_duplicate=False)}
    wide = torch.randn(3, DIM + 1)
    with pytest.raises(RuntimeError, match="shapes"), average.running(model):
        model(x=wide)
    assert {name: id(each) for name, each in model.named_parameters(remove_duplicate=False)} == before
    assert model.training


def test_weights_that_start_or_stop_learning_enter_and_leave(tmp_path):
    model, average = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), AveragedWeights(0.5)
    model[0].requires_grad_(False)
    average.follow(model, 0, 3)
    assert set(average.weights) == {"1.weight", "1.bias"}
    model.requires_grad_(True)
    average.follow(model, 1, 3)
    assert len(average.weights) == 4
    assert torch.equal(average.weights["0.weight"], model[0].weight)
    model[1].requires_grad_(False)
    average.follow(model, 2, 3)
    assert set(average.weights) == {"0.weight", "0.bias"}


def test_of_an_adapted_model_adapters_and_head_are_averaged(tmp_path):
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=["classifier"])
    model = peft.get_peft_model(build("Bert"), lora)
    trainer = train(Recording, tmp_path, model, examples("Bert", 22))
    names = trainer.seen[-1][2]
    assert names
    assert all("lora_" in name or "classifier" in name for name in names)


def test_a_run_lets_go_of_its_copy_of_the_weights(tmp_path):
    trainer = train(Recording, tmp_path, Toy(), toy_examples(12))
    assert trainer.seen[-1][2]
    assert not trainer._itra_average.weights


def test_a_rising_weight_takes_over_in_the_fourth_epoch(tmp_path):
    settings = {"weight_mode": "rising", "matching_weight": 1.0, "max_steps": 60}
    trainer = train(ITRATrainer, tmp_path, Toy(), toy_examples(40, noise=0.1), learning_rate=0.1, **settings)
    weights = [line["matching_weight"] for line in trainer.state.log_history if "matching_weight" in line]
    assert 0 < max(weights[2:30]) < min(weights[30:]) / 10  # 10 steps an epoch


def test_a_second_run_starts_an_average_of_its_own(tmp_path):
    trainer = train(Recording, tmp_path, Toy(), toy_examples(12))
    trainer.seen.clear()
    trainer.train()
    _, weights, averages = trainer.seen[0]
    assert all(torch.equal(weights[name], averages[name]) for name in weights)


@pytest.mark.parametrize("settings", [{"matching_weight": 0.0}, {"companion": "memory"}, {"companion_decay": 0.0}])
def test_runs_that_need_no_average_have_none(settings, tmp_path):
    if "companion" not in settings:
        settings = {**AVERAGED, **settings}
    assert ITRATrainer(Toy(), config(tmp_path, **settings), train_dataset=toy_examples(12))._itra_average is None


def test_the_stock_forward_pass_of_the_primary_batch_stays_as_it_is(tmp_path):
    rows = []

    class Watching(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            rows.append(len(inputs["input_ids"]))
            return super().compute_loss(model, inputs, *args, **kwargs)

    class Both(ITRAMixin, Watching):
        pass

    stock = Trainer(build("Bert"), config(tmp_path / "a", max_steps=6), train_dataset=examples("Bert", 22))
    stock.train()
    unnoticeable = {"weight_mode": "constant", "matching_weight": 1e-30, "max_steps": 6}
    ours = train(Both, tmp_path / "b", build("Bert"), examples("Bert", 22), **unnoticeable)
    assert set(rows) == {4, 2}
    for name, each in stock.model.state_dict().items():
        assert torch.equal(each, ours.model.state_dict()[name])


# ---- Checkpoints and sharded weights ----


def test_a_checkpoint_without_an_average_starts_one_and_says_so(tmp_path, caplog):
    saving = {"save_strategy": "steps", "save_steps": 2}
    train(ITRATrainer, tmp_path, Toy(), toy_examples(40), companion="memory", **saving)
    args = config(tmp_path, **AVERAGED, max_steps=5)
    trainer = Recording(Toy(), args, train_dataset=toy_examples(40))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert "The running average of the weights starts anew" in caplog.text
    _, weights, averages = trainer.seen[0]
    assert all(torch.equal(weights[name], averages[name]) for name in weights)


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("distributed_type", DistributedType.NO, False),
        ("distributed_type", DistributedType.MULTI_GPU, False),
        ("distributed_type", DistributedType.FSDP, True),
    ],
)
def test_sharded_weights_are_known(attribute, value, expected, monkeypatch):
    monkeypatch.setattr(Accelerator, attribute, value)
    assert holds_shards(Accelerator(cpu=True), nn.Linear(2, 2)) is expected


def test_weights_that_were_spread_when_they_were_loaded_are_known():
    model = nn.Linear(2, 2)
    model.weight._local_tensor = model.weight.detach()  # as a distributed tensor has
    assert holds_shards(Accelerator(cpu=True), model)


def test_sharded_weights_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("itra_hf.features.averages.holds_shards", lambda accelerator, model: True)
    with pytest.raises(ValueError, match=r"companion_decay=0.9 averages the weights, which it can't where .*ZeRO-3"):
        ITRATrainer(Toy(), config(tmp_path, **AVERAGED), train_dataset=toy_examples(12))
    ITRATrainer(Toy(), config(tmp_path), train_dataset=toy_examples(12))
