"""What every rival keeps of the Trainer, what it goes with, what it refuses, and that it helps where it must."""

import json

import pytest
import torch
from commands import refused, rows, write, write_config
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from studies import study
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from trainers import CLASSES, DIM, Toy, config, toy_examples
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from itra_hf import ITRAMixin
from itra_hf.cli import parse_comparison
from itra_hf.comparison import report, rivals
from itra_hf.comparison.rivals import retargeted
from itra_hf.comparison.rivals.choice import RIVALS
from itra_hf.comparison.study import compare
from itra_hf.comparison.summary import Comparison
from itra_hf.comparison.variants import BASELINES

EVERY = [getattr(rivals, name) for name in rivals.__all__]
LOSSES = [each for each in EVERY if issubclass(each, rivals.task_loss.TaskLossTrainer)]
MEANS = [rivals.LogitAdjustedTrainer, rivals.ClassBalancedTrainer, rivals.GeneralizedCrossEntropyTrainer]
UNALIGNED = [rivals.RDropTrainer]


BEST = {"eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True}


def quiet(folder, **settings):
    given = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_steps": 6}
    return TrainingArguments(output_dir=str(folder), **{**given, **settings})


def build(trainer_class, folder, data=None, model=None, arguments=None, **settings):
    data = toy_examples(24) if data is None else data
    return trainer_class(
        model=model or Toy(),
        args=quiet(folder, **settings),
        train_dataset=data,
        eval_dataset=toy_examples(9, 5),
        **(arguments or {}),
    )


def bert(folder):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3}
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(folder, **still)


def weights(trainer):
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


# ---- What it keeps ----


@pytest.mark.parametrize("rival", EVERY)
def test_it_trains_and_evaluates_as_the_stock_trainer(rival, tmp_path):
    trainer = build(rival, tmp_path)
    start = weights(trainer)
    trainer.train()
    assert weights(trainer).isfinite().all()
    assert not torch.equal(weights(trainer), start)
    plain = Trainer(trainer.model, trainer.args, eval_dataset=trainer.eval_dataset)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


@pytest.mark.parametrize("rival", MEANS)
@pytest.mark.parametrize("kind", ["toy", "bert"])
def test_accumulated_batches_are_one_large_batch(rival, kind, model_folder, tmp_path):
    found = []
    for size, times in ((8, 1), (2, 4)):
        model, data = Toy(), toy_examples(8)
        if kind == "bert":
            model = bert(model_folder)
            data = [{"input_ids": [2, 3 + row % 9, 6, 3], "labels": row % 3} for row in range(8)]
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times, "max_steps": 1}
        trainer = build(rival, tmp_path, data, model, **sizes, optim="sgd", learning_rate=0.1)
        trainer.train()
        found.append(weights(trainer))
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("rival", EVERY)
def test_it_trains_a_text_classifier_in_bfloat16_with_left_out_labels(rival, model_folder, tmp_path):
    model = bert(model_folder)
    data = [{"input_ids": [2, 3 + row % 9, 6, 3], "labels": row % 4 if row % 4 < 3 else -100} for row in range(16)]
    trainer = build(rival, tmp_path, data, model, bf16=True, gradient_accumulation_steps=2)
    trainer.train()
    assert weights(trainer).isfinite().all()


@pytest.mark.parametrize(
    "rival", [each for each in LOSSES if each not in (rivals.GeneralizedCrossEntropyTrainer, rivals.RetargetedTrainer)]
)
def test_label_smoothing_is_the_stock_one(rival, model_folder, tmp_path):
    """With settings that take the rival's own part away, what is left is the Trainer's loss."""
    nothing = {
        rivals.LogitAdjustedTrainer: {"strength": 0.0},
        rivals.EqualizationTrainer: {"strength": 0.0},
        rivals.ClassBalancedTrainer: {"beta": 0.0},
        rivals.SmallLossTrainer: {"wrong": 0.0},
        rivals.TransportTrainer: {"smoothness": 1e6},
        rivals.RDropTrainer: {"strength": 0.0},
        rivals.SupConTrainer: {"weight": 0.0},
        rivals.StagewiseTrainer: {"proximity": 0.0},
    }
    ids = torch.tensor([[2, 3 + row % 9, 6, 3] for row in range(6)])
    inputs, losses = {"input_ids": ids, "labels": torch.arange(6) % 3}, []
    for each, arguments in ((rival, nothing[rival]), (Trainer, {})):
        model = bert(model_folder)
        trainer = build(each, tmp_path, model=model, arguments=arguments, label_smoothing_factor=0.3)
        trainer.model.train()
        losses.append(trainer.compute_loss(trainer.model, dict(inputs)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# ---- With alignment ----


@pytest.mark.parametrize("rival", [each for each in EVERY if each not in UNALIGNED])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_it_is_aligned_by_the_mixin(rival, decay, tmp_path):
    class Mine(ITRAMixin, rival):
        pass

    args = config(tmp_path, companion_decay=decay, max_steps=12, matching_weight=0.5)
    trainer = Mine(model=Toy(), args=args, train_dataset=toy_examples(24))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "matching_loss" in entry]
    assert len(logged) == 12
    assert max(entry["matching_weight"] for entry in logged) > 0
    assert weights(trainer).isfinite().all()


@pytest.mark.parametrize("rival", [each for each in EVERY if each not in UNALIGNED])
def test_without_weight_the_mixin_changes_no_bit(rival, tmp_path):
    class Mine(ITRAMixin, rival):
        pass

    found = []
    for each in (Mine, rival):
        args = config(tmp_path, matching_weight=0.0, max_steps=12)
        trainer = each(model=Toy(), args=args, train_dataset=toy_examples(24))
        trainer.train()
        found.append(weights(trainer))
    assert torch.equal(*found)


@pytest.mark.parametrize("rival", [rivals.SupConTrainer, rivals.TransportTrainer])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_features_are_the_primary_batch_s_also_beside_a_companion(rival, decay, tmp_path):
    seen = []

    class Mine(ITRAMixin, rival):
        def loss_of(self, logits, labels, features):
            seen.append((logits, features))
            return super().loss_of(logits, labels, features)

    args = config(tmp_path, companion_decay=decay, max_steps=3)
    Mine(model=Toy(), args=args, train_dataset=toy_examples(24)).train()
    model = Toy()
    logits, features = seen[0]
    torch.testing.assert_close(model.head(features), logits)


# ---- What it refuses ----


@pytest.mark.parametrize(
    ("rival", "arguments", "message"),
    [
        (rivals.ClassBalancedTrainer, {"beta": 1.0}, "beta=1.0 must be from 0 to below 1"),
        (rivals.GeneralizedCrossEntropyTrainer, {"q": 0.0}, "q=0.0 must be above 0 and at most 1"),
        (rivals.SmallLossTrainer, {"wrong": 1.0}, "wrong=1.0 must be from 0 to below 1"),
        (rivals.SmallLossTrainer, {"ramp": 0}, "ramp=0 must be above 0 and at most 1"),
        (rivals.SmallLossTrainer, {"wrong": "30%"}, "wrong='30%' must be from 0 to below 1"),
        (rivals.SmallLossTrainer, {"wrong": None}, "wrong=None must be from 0 to below 1"),
        (rivals.TransportTrainer, {"smoothness": 0.0}, "smoothness=0.0 must be above 0"),
        (rivals.RetargetedTrainer, {"negative": 1.0}, "negative=1.0 must be from 0 to below 1"),
        (rivals.ExtrapolatedTrainer, {"distance": -1.0}, "distance=-1.0 must be >= 0"),
        (rivals.RetargetedTrainer, {"penalty": -1.0}, "penalty=-1.0 must be >= 0"),
        (rivals.LogitAdjustedTrainer, {"strength": -1.0}, "strength=-1.0 must be >= 0"),
        (rivals.EqualizationTrainer, {"strength": -1.0}, "strength=-1.0 must be >= 0"),
        (rivals.RDropTrainer, {"strength": -1.0}, "strength=-1.0 must be >= 0"),
        (rivals.SupConTrainer, {"weight": 1.5}, "weight=1.5 must be from 0 to 1"),
        (rivals.SupConTrainer, {"temperature": 0}, "temperature=0 must be above 0"),
        (rivals.AveragedTrainer, {"decay": 1.0}, "decay=1.0 must be from 0 to below 1"),
        (rivals.StagewiseTrainer, {"stages": 0}, "stages=0 must be an integer >= 1"),
        (rivals.StagewiseTrainer, {"stages": 2.0}, "stages=2.0 must be an integer >= 1"),
        (rivals.StagewiseTrainer, {"proximity": float("nan")}, "proximity=nan must be >= 0"),
    ],
)
def test_wrong_values_are_refused(rival, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build(rival, tmp_path, arguments=arguments)


@pytest.mark.parametrize("rival", [*MEANS[:2], rivals.StagewiseTrainer, rivals.RetargetedTrainer])
def test_a_stream_is_refused_where_its_length_is_needed(rival, tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(toy_examples(8))

    with pytest.raises(ValueError, match="length"):
        build(rival, tmp_path, Stream())


def test_label_smoothing_without_a_meaning_is_refused(model_folder, tmp_path):
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0\.1 has no meaning for Generalized"):
        build(rivals.GeneralizedCrossEntropyTrainer, tmp_path, model=bert(model_folder), label_smoothing_factor=0.1)


@pytest.mark.parametrize("rival", LOSSES)
@pytest.mark.parametrize(
    "settings", [{"num_labels": 1}, {"num_labels": 3, "problem_type": "multi_label_classification"}]
)
def test_other_labels_than_class_ids_are_refused(rival, settings, model_folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, **settings)
    with pytest.raises(ValueError, match="needs one class id an example"):
        build(rival, tmp_path, toy_examples(6), model)


def test_float_labels_of_a_model_without_config_are_refused_in_words(tmp_path):
    data = [{**each, "labels": [0.0, 1.0, 0.0]} for each in toy_examples(6)]
    with pytest.raises(ValueError, match="GeneralizedCrossEntropyTrainer needs one class id an example in each"):
        build(rivals.GeneralizedCrossEntropyTrainer, tmp_path, data).train()
    with pytest.raises(ValueError, match="LogitAdjustedTrainer counts the classes"):
        build(rivals.LogitAdjustedTrainer, tmp_path, data)


def test_classes_of_a_selection_are_counted(tmp_path):
    data = Dataset.from_list([{"x": [0.0] * DIM, "labels": row % 3} for row in range(9)]).select([0, 1, 3, 4, 6])
    trainer = build(rivals.LogitAdjustedTrainer, tmp_path, data)
    assert trainer.class_counts().tolist() == [3, 2]


def test_classes_in_a_column_of_one_are_counted(tmp_path):
    rows = [{"x": [0.0] * DIM, "labels": [row % 3]} for row in range(8)]
    for data in (rows, Dataset.from_list(rows)):
        assert build(rivals.LogitAdjustedTrainer, tmp_path, data).class_counts().tolist() == [3, 3, 2]
    build(rivals.LogitAdjustedTrainer, tmp_path, rows).train()


@pytest.mark.parametrize("rival", LOSSES)
def test_another_loss_beside_its_own_is_refused(rival, tmp_path):
    with pytest.raises(ValueError, match="compute_loss_func must be left out"):
        build(rival, tmp_path, arguments={"compute_loss_func": lambda *args, **kwargs: 0})


def test_an_average_in_the_best_model_s_place_is_refused(tmp_path):
    with pytest.raises(ValueError, match="load_best_model_at_end=True: AveragedTrainer"):
        build(rivals.AveragedTrainer, tmp_path, **BEST)


def test_batches_of_one_are_refused_where_examples_are_left_out(tmp_path):
    with pytest.raises(ValueError, match="per_device_train_batch_size=1: SmallLossTrainer"):
        build(rivals.SmallLossTrainer, tmp_path, per_device_train_batch_size=1)


def test_a_model_without_dropout_is_told_of_rdrop(model_folder, tmp_path, caplog):
    build(rivals.RDropTrainer, tmp_path, model=bert(model_folder))
    assert "it does nothing" in caplog.text
    model = AutoModelForSequenceClassification.from_pretrained(model_folder)
    caplog.clear()
    build(rivals.RDropTrainer, tmp_path, model=model)
    assert "it does nothing" not in caplog.text


def test_an_adapter_in_the_head_s_place_is_refused_in_words(model_folder, tmp_path):
    adapted = get_peft_model(bert(model_folder), LoraConfig(target_modules=["classifier"]))
    data = [{"input_ids": [2, 3, 6, 3], "labels": row % 3} for row in range(8)]
    with pytest.raises(ValueError, match=r"this one is an adapter's layer\. With LoRA, name it in modules_to_save"):
        build(rivals.RetargetedTrainer, tmp_path, data, adapted).train()


@pytest.mark.parametrize("rival", EVERY)
def test_it_evaluates_without_a_training_set(rival, tmp_path):
    trainer = rival(model=Toy(), args=quiet(tmp_path), eval_dataset=toy_examples(9, 5))
    assert trainer.evaluate()["eval_loss"] > 0
    with pytest.raises(ValueError, match="train"):
        trainer.train()


# ---- One run after another, and parts of runs ----


@pytest.mark.parametrize("rival", EVERY)
def test_a_second_run_knows_nothing_of_the_first(rival, tmp_path):
    trainer = rival(model_init=lambda: Toy(), args=quiet(tmp_path), train_dataset=toy_examples(24))
    found = []
    for _ in range(2):
        trainer.train()
        found.append(weights(trainer))
    assert torch.equal(*found)


def test_every_stage_sees_its_part_and_the_last_one_all(tmp_path):
    class Seeing(rivals.StagewiseTrainer):
        def training_step(self, model, inputs, *args):
            seen[int(self.state.epoch or 0)] += [tuple(row) for row in inputs["x"].tolist()]
            return super().training_step(model, inputs, *args)

    for workers in ({}, {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}):
        seen = {epoch: [] for epoch in range(4)}
        settings = {"max_steps": -1, "num_train_epochs": 4, "per_device_train_batch_size": 8, **workers}
        build(Seeing, tmp_path, toy_examples(64), arguments={"stages": 2}, **settings).train()
        assert [len(set(each)) for each in seen.values()] == [32, 32, 64, 64]
        assert {len(each) for each in seen.values()} == {64}


@pytest.mark.parametrize("settings", [{"max_steps": 3}, {"max_steps": -1, "num_train_epochs": 1.5}])
def test_fewer_epochs_than_stages_are_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="stages=2 needs as many epochs"):
        build(rivals.StagewiseTrainer, tmp_path, **settings).train()


def test_stages_go_on_where_a_checkpoint_was_left(tmp_path):
    settings = {"max_steps": 12, "save_strategy": "steps", "save_steps": 5, "per_device_train_batch_size": 4}
    arguments = {"stages": 2, "proximity": 0.0}
    whole = build(rivals.StagewiseTrainer, tmp_path, arguments=arguments, **settings)
    whole.train()
    resumed = build(rivals.StagewiseTrainer, tmp_path, arguments=arguments, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(weights(whole), weights(resumed))


def test_companions_of_a_stage_are_of_their_examples_classes(tmp_path):
    class Mine(ITRAMixin, rivals.StagewiseTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            assert torch.equal(inputs["labels"], inputs["itra_companion"]["labels"])
            return super().compute_loss(model, inputs, *args, **kwargs)

    args = config(tmp_path, companion="class_matched", max_steps=12)
    Mine(model=Toy(), args=args, train_dataset=toy_examples(24), stages=2).train()


# ---- The second stage's head ----


def test_the_second_stage_is_saved_with_an_adapter(model_folder, tmp_path):
    data = [{"input_ids": [2, 3 + row % 9, 6, 3], "labels": row % 3} for row in range(12)]
    adapted = get_peft_model(bert(model_folder), LoraConfig(task_type="SEQ_CLS", target_modules=["query"], r=2))
    trainer = build(rivals.RetargetedTrainer, tmp_path, data, adapted)
    before = adapted.base_model.model.classifier.modules_to_save["default"].weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, adapted.base_model.model.classifier.modules_to_save["default"].weight)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = PeftModel.from_pretrained(bert(model_folder), str(tmp_path / "saved")).eval()
    ids = torch.tensor([row["input_ids"] for row in data])
    trainer.model.eval()
    torch.testing.assert_close(loaded(ids).logits, trainer.model(ids).logits)


def test_a_head_that_does_not_learn_is_refused_before_the_first_step(model_folder, tmp_path):
    data = [{"input_ids": [2, 3 + row % 9, 6, 3], "labels": row % 3} for row in range(12)]
    adapted = get_peft_model(bert(model_folder), LoraConfig(target_modules=["query"], r=2))
    trainer = build(rivals.RetargetedTrainer, tmp_path, data, adapted)
    with pytest.raises(ValueError, match="this one is a Linear that is frozen"):
        trainer.train()
    assert trainer.state.global_step == 0


@torch.no_grad()
@pytest.mark.parametrize("count", [20, 7])
def test_the_head_is_fitted_to_examples_that_training_drops_too(count, tmp_path):
    trainer = build(rivals.RetargetedTrainer, tmp_path, toy_examples(count), dataloader_drop_last=True)
    rows = retargeted.training_features(trainer)[1]
    assert len(rows) == count
    assert trainer.args.dataloader_drop_last


def test_looking_at_the_head_draws_no_random_numbers(model_folder, tmp_path):
    data, found = [{"input_ids": [2, 3 + row % 9, 6, 3], "labels": row % 3} for row in range(12)], []
    for rival in (rivals.RetargetedTrainer, rivals.ClassBalancedTrainer):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=3)  # with dropout
        trainer = build(rival, tmp_path, data, model)
        trainer.train()
        found.append(trainer.model.bert.encoder.layer[0].output.dense.weight.detach())
    assert torch.equal(*found)  # the classes are of one size, so the weights of ClassBalancedTrainer are 1


@pytest.mark.parametrize("extra", [{"position_ids": torch.arange(4)[None]}, {"names": list("abcdef")}])
def test_rdrop_doubles_what_has_a_row_an_example(extra, model_folder, tmp_path):
    seen = {}

    class Noting(rivals.RDropTrainer):
        def _run(self, model, inputs):
            seen.update(inputs)
            return super()._run(model, {name: value for name, value in inputs.items() if name != "names"})

    trainer = build(Noting, tmp_path, model=bert(model_folder))
    trainer.model.train()
    ids = torch.tensor([[2, 3 + row, 6, 3] for row in range(6)])
    trainer.compute_loss(trainer.model, {"input_ids": ids, "labels": torch.arange(6) % 3, **extra})
    assert len(seen["input_ids"]) == 12
    name, value = next(iter(extra.items()))
    assert len(seen[name]) == (2 if name == "names" else 1) * len(value)


# ---- Planted cases ----


class Wide(Toy):
    """Room enough to learn wrong labels by heart."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(DIM, 256), nn.ReLU())
        self.head = nn.Linear(256, CLASSES)


def balanced_accuracy(rival, folder, data, model, epochs, **arguments):
    tested = toy_examples(600, seed=9, noise=1.3)
    args = {"max_steps": -1, "num_train_epochs": epochs, "learning_rate": 3e-3, "per_device_train_batch_size": 16}
    trainer = build(rival, folder, data, model, arguments, **args)
    trainer.train()
    predicted = trainer.predict(tested).predictions.argmax(axis=1)
    return float((predicted == [each["labels"] for each in tested]).mean())


@pytest.fixture(scope="module")
def long_tail():
    rows = toy_examples(900, seed=3, noise=1.3)
    return [each for each in rows if each["labels"] == 0] + [each for each in rows if each["labels"]][:12]


@pytest.mark.parametrize(
    "rival",
    [
        rivals.LogitAdjustedTrainer,
        rivals.ClassBalancedTrainer,
        rivals.EqualizationTrainer,
        rivals.TransportTrainer,
        rivals.RetargetedTrainer,
    ],
)
def test_it_helps_where_classes_are_rare(rival, long_tail, tmp_path):
    plain = balanced_accuracy(Trainer, tmp_path, long_tail, Toy(), 6)
    assert balanced_accuracy(rival, tmp_path, long_tail, Toy(), 6) > plain + 0.05


@pytest.mark.parametrize("rival", [rivals.GeneralizedCrossEntropyTrainer, rivals.SmallLossTrainer])
def test_it_helps_where_labels_are_wrong(rival, tmp_path):
    rows = toy_examples(120, seed=4, noise=1.3)
    wrong = [{**each, "labels": (each["labels"] + (place % 10 < 3)) % 3} for place, each in enumerate(rows)]
    arguments = {"wrong": 0.3} if rival is rivals.SmallLossTrainer else {"q": 0.7}  # nearly a third are wrong
    plain = balanced_accuracy(Trainer, tmp_path, wrong, Wide(), 150)
    assert balanced_accuracy(rival, tmp_path, wrong, Wide(), 150, **arguments) > plain + 0.05


# ---- In a comparison ----


@pytest.mark.parametrize("kind", RIVALS)
def test_a_command_puts_the_rivals_of_a_kind_into_the_plan(kind, train_file, tmp_path):
    own = '{"ITRA": {}, "label smoothing": {"trainer": "Trainer", "label_smoothing_factor": 0.3}}'
    config_file = write_config(tmp_path, "model", train_file=train_file, variants=own)
    plan = parse_comparison([config_file, "--rivals", kind])
    names = [variant.name for variant in plan.variants if variant.name not in BASELINES]
    assert names == list(dict.fromkeys(["ITRA", "label smoothing", *RIVALS[kind]]))
    smoothing = next(variant for variant in plan.variants if variant.name == "label smoothing")
    assert smoothing.settings == {"label_smoothing_factor": 0.3}  # what the file says comes first


@pytest.mark.parametrize(
    ("kind", "fields", "left_out", "why"),
    [
        ("small", {"max_steps": -1, "num_train_epochs": 1}, "stages", "stages=2 needs as many epochs"),
        ("noise", {"label_smoothing_factor": 0.1}, "generalised cross-entropy", "label_smoothing_factor=0.1 has no"),
        ("noise", {"per_device_train_batch_size": 1}, "small-loss selection", "per_device_train_batch_size=1"),
        ("small", BEST, "averaged weights", "load_best_model_at_end=True"),
    ],
)
def test_a_rival_that_does_not_go_with_the_arguments_is_left_out_and_the_reports_say_so(
    kind, fields, left_out, why, train_file, tmp_path
):
    config_file = write_config(tmp_path, "model", train_file=train_file, **fields)
    plan = parse_comparison([config_file, "--rivals", kind])
    assert {variant.name for variant in plan.variants} >= {"Trainer", "ITRATrainer", *RIVALS[kind]} - {left_out}
    assert left_out not in {variant.name for variant in plan.variants}
    notes = report.notes(study(plan)[0])
    assert any(note.startswith(f'The rivals "{kind}" go without {left_out}: {why}') for note in notes)


def test_without_variants_the_default_stands_beside_the_rivals(train_file, tmp_path):
    plan = parse_comparison([write_config(tmp_path, "model", train_file=train_file), "--rivals", "noise"])
    assert [variant.name for variant in plan.variants] == ["Trainer", "ITRATrainer", *RIVALS["noise"]]
    both = next(variant for variant in plan.variants if variant.name == "ITRA and label smoothing")
    assert (both.aligns, both.settings) == (True, {"label_smoothing_factor": 0.1})


def test_other_kinds_and_labels_are_refused(model_folder, tmp_path, capsys):
    named = write(tmp_path, "train.csv", rows(30))
    config_file = write_config(tmp_path, model_folder, train_file=named)
    assert "rivals='tails' is not one of 'longtail', 'noise', 'small'" in refused(
        ["compare", config_file, "--rivals", "tails"], capsys
    )
    numbers = write(tmp_path, "numbers.csv", rows(30, label=lambda name, index: index / 7))
    config_file = write_config(tmp_path, model_folder, train_file=numbers)
    assert "rivals needs one class an example; this is regression" in refused(
        ["compare", config_file, "--rivals", "small"], capsys
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainer_arguments": {"q": 5}}, "q=5 must be above 0 and at most 1"),
        ({"trainer_arguments": {"q": "30%"}}, "q='30%' must be above 0 and at most 1"),
        ({"trainer_arguments": {"model": 5}}, "'model', which the comparison gives itself"),
        ({"trainer_arguments": {"kwargs": 3}}, "'kwargs', which the comparison gives itself"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 has no meaning for GeneralizedCross"),
    ],
)
def test_what_a_rival_does_not_take_is_refused_before_any_run(settings, message, train_file, tmp_path, capsys):
    variant = {"GCE": {"trainer": "itra_hf.comparison.rivals:GeneralizedCrossEntropyTrainer", **settings}}
    config_file = write_config(tmp_path, "model", train_file=train_file, variants=json.dumps(variant))
    said = refused(["compare", config_file], capsys)
    assert "'GCE'" in said
    assert message in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", RIVALS)
def test_every_rival_runs_in_a_comparison(kind, model_folder, train_file, tmp_path):
    fields = {"train_file": train_file, "max_steps": 8, "use_cpu": True, "output_dir": str(tmp_path / "out")}
    plan = parse_comparison([write_config(tmp_path, model_folder, **fields), "--rivals", kind, "--seeds", "1"])
    comparison = compare(plan)
    assert not comparison.failed
    assert {result["variant"] for result in comparison.results} == {variant.name for variant in plan.variants}


def test_an_aligned_rival_takes_the_rivals_arguments(train_file, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from itra_hf import ITRAMixin\nfrom itra_hf.comparison.rivals import EqualizationTrainer\n\n\n"
        "class Mine(ITRAMixin, EqualizationTrainer): ...\n",
        encoding="utf-8",
    )
    variant = {"mine": {"trainer": f"{file}:Mine", "trainer_arguments": {"strength": 0.5}}}
    config_file = write_config(tmp_path, "model", train_file=train_file, variants=json.dumps(variant))
    mine = parse_comparison([config_file]).variants[-1]
    assert mine.trainer_arguments == {"strength": 0.5}
    assert mine.aligns


def test_labels_of_the_test_file_are_looked_at_before_any_run(model_folder, train_file, tmp_path, capsys):
    tested = write(tmp_path, "test.csv", [*rows(6), {"text": "a leaf", "label": "purple"}])
    config_file = write_config(tmp_path, model_folder, train_file=train_file, test_file=tested)
    said = refused(["compare", config_file, "--output_dir", str(tmp_path / "out")], capsys)
    assert "purple" in said
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(("options", "metric"), [(["--rivals", "longtail"], "f1_macro"), ([], "accuracy")])
def test_long_tails_are_judged_by_macro_f1(options, metric, train_file, tmp_path):
    plan = parse_comparison([write_config(tmp_path, "model", train_file=train_file), *options])
    results = [
        {"train_samples": None, "trained": count, "metrics": {"accuracy": 1, "f1_macro": 1}} for count in (46, 31)
    ]
    comparison = Comparison(plan, results, {})
    assert comparison.metric.name == metric
    assert comparison.sizes[0].title == "all 31 to 46 training examples"


def test_a_loader_of_ones_own_is_refused_where_stages_draw_the_examples(tmp_path):
    class Own(rivals.StagewiseTrainer):
        def get_train_dataloader(self):
            return DataLoader(self.train_dataset, batch_size=4, collate_fn=self.data_collator)

    with pytest.raises(ValueError, match="draws the training examples itself"):
        build(Own, tmp_path, max_steps=12).train()


def test_a_second_stage_without_labels_is_refused_in_words(tmp_path):
    data = [{"x": each["x"]} for each in toy_examples(8)]
    with pytest.raises(ValueError, match="Features are taken with labels, but a batch has only x"):
        build(rivals.RetargetedTrainer, tmp_path, data).train()


@pytest.mark.parametrize("kind", [rivals.GeneralizedCrossEntropyTrainer, rivals.SupConTrainer])
def test_a_model_without_logits_is_refused_in_words(kind, tmp_path):
    class Silent(Toy):
        def forward(self, x, labels=None):
            return {"loss": self.head(self.body(x)).sum()}

    with pytest.raises(ValueError, match=r"needs logits, but Silent gives none|Silent returns no logits"):
        build(kind, tmp_path, model=Silent()).train()
