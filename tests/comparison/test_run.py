"""Single runs of a comparison, in this process: other kinds of labels, spoiled data, and what has to be alike."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from commands import examples, refused, write, write_config
from filelock import FileLock
from studies import SECOND_BATCH

from itra_hf.cli import parse_comparison
from itra_hf.comparison import assessment, schedule
from itra_hf.comparison.run import build, measure
from itra_hf.comparison.study import check_labels
from itra_hf.comparison.variants import PLAIN, TWICE


def plan_of(folder, model_folder, data, **fields):
    train = write(folder, "train.jsonl", data)
    return parse_comparison([write_config(folder, model_folder, train_file=train, max_steps=2, **fields)])


@pytest.mark.parametrize(
    ("label", "alignment", "present", "absent"),
    [
        (lambda name, i: i / 7, "auto", {"mse", "mae", "r2"}, {"accuracy", "nll", "scatter_ratio"}),
        (lambda name, i: [name, "odd"][: 1 + i % 2], "marginal", {"accuracy", "nll", "f1_macro"}, {"scatter_ratio"}),
        (lambda name, i: name, "conditional", {"accuracy", "nll", "scatter_ratio", "seconds"}, {"mse"}),
    ],
)
def test_other_kinds_of_labels_are_measured_in_their_way(label, alignment, present, absent, model_folder, tmp_path):
    plan = plan_of(tmp_path, model_folder, examples(30, 0, label), alignment=alignment)
    for run in plan.runs():
        if run.seed == 1:
            measured = set(measure(run, tmp_path)["metrics"])
            assert present <= measured
            assert not absent & measured


def test_noise_without_classes_is_refused(model_folder, tmp_path):
    data = examples(30, 0, lambda name, i: i / 7)
    plain, *_ = plan_of(tmp_path, model_folder, data, label_noise=0.1, alignment="marginal").runs()
    with pytest.raises(
        ValueError,
        match="temperature_share need one class an example; this is regression",
    ):
        build(plain, tmp_path)


def test_sizes_noise_and_imbalance_are_those_of_the_plan_and_alike_for_all_variants(model_folder, tmp_path):
    fields = {"max_train_samples": "[20]", "label_noise": 0.5, "seeds": "[1, 2]", **SECOND_BATCH}
    plan = plan_of(tmp_path, model_folder, examples(90, 0), **fields)
    sets = {(run.variant, run.seed): build(run, tmp_path)[0].train_dataset.to_list() for run in plan.runs()}
    assert {len(each) for each in sets.values()} == {20}
    assert sets[PLAIN, 1] == sets[TWICE["batch"], 1] == sets["ITRATrainer", 1] != sets[PLAIN, 2]
    word = {"red": 3, "green": 4, "blue": 5}
    ids = {name: [row["labels"] for row in sets[PLAIN, 1] if word[name] in row["input_ids"]] for name in word}
    clean = {"blue": 0, "green": 1, "red": 2}
    assert sum(label != clean[name] for name, labels in ids.items() for label in labels) == 10


def test_a_measure_that_the_labels_do_not_have_is_refused_before_the_first_run(
    model_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(schedule, "process_context", lambda: pytest.fail("it ran"))
    train = write(tmp_path, "train.csv", examples(30, 0))
    config = write_config(tmp_path, model_folder, train_file=train, metric="mse", seeds="[1]", equal_compute="none")
    assert "metric='mse'" in refused(["compare", config], capsys)


def test_a_best_metric_that_evaluation_does_not_give_is_refused_but_for_trainers_of_the_users(model_folder, tmp_path):
    source = "from itra_hf import ITRATrainer\n\n\nclass Own(ITRATrainer):\n    pass\n"
    (tmp_path / "own.py").write_text(source, encoding="utf-8")
    for trainer, fits in (("ITRATrainer", False), (f"{tmp_path}/own.py:Own", True)):
        variants = {"a": {"trainer": trainer, "metric_for_best_model": "mine"}}
        plan = plan_of(tmp_path, model_folder, examples(30, 0), variants=json.dumps(variants))
        with nullcontext() if fits else pytest.raises(ValueError, match="'a': metric_for_best_model='mine' is"):
            check_labels(plan)


# ---- Alike for all variants ----


@pytest.mark.parametrize("accumulation", [1, 3])
def test_without_a_matching_weight_itra_trains_as_the_plain_trainer_does(accumulation, model_folder, tmp_path):
    fields = {"matching_weight": 0, "gradient_accumulation_steps": accumulation, "optim": "sgd", "max_grad_norm": 0}
    plan = plan_of(tmp_path, model_folder, examples(60, 0), equal_compute="none", learning_rate=1, **fields)
    heads = []
    for run in list(plan.runs())[:2]:
        trainer = build(run, tmp_path)[0]
        trainer.train()
        heads.append(trainer.model.classifier.weight)
    assert torch.allclose(*heads, atol=1e-6)


def test_all_examples_are_tested_where_training_drops_a_last_batch(model_folder, tmp_path):
    test = write(tmp_path, "test.csv", examples(30, 1))
    plan = plan_of(tmp_path, model_folder, examples(60, 0), test_file=test, dataloader_drop_last="true")
    assert measure(next(plan.runs()), tmp_path)["tested"] == 30
    with np.load(tmp_path / "features.npz") as saved:
        assert len(saved["labels"]) == 30


def test_twice_the_steps_are_twice_the_steps(model_folder, tmp_path):
    plan = plan_of(tmp_path, model_folder, examples(30, 0), equal_compute="both", seeds="[1]", **SECOND_BATCH)
    steps = {run.variant: measure(run, tmp_path)["steps"] for run in plan.runs()}
    assert steps == {PLAIN: 2, TWICE["batch"]: 2, TWICE["steps"]: 4, "ITRATrainer": 2}


def test_a_test_file_without_labels_leaves_the_validation_split_to_test_on(model_folder, tmp_path):
    test = write(tmp_path, "test.csv", [{"text": "the sky"}] * 9)
    trainer, tested, *_ = build(next(plan_of(tmp_path, model_folder, examples(30, 0), test_file=test).runs()), tmp_path)
    assert tested.to_list() == trainer.eval_dataset.to_list()


def test_the_best_checkpoint_by_epochs_is_the_one_that_is_tested(model_folder, tmp_path):
    fields = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": "true"}
    run = next(plan_of(tmp_path, model_folder, examples(30, 0), **fields).runs())
    result = measure(run, tmp_path)
    assert any("eval_loss" in entry for entry in result["log"])
    assert not (tmp_path / "trainer").exists()


def test_a_run_that_diverges_fails_with_a_reason(model_folder, tmp_path):
    plan = plan_of(tmp_path, model_folder, examples(30, 0), learning_rate="1e30", max_grad_norm=0, equal_compute="none")
    for run in list(plan.runs())[:2]:
        with pytest.raises((ValueError, FloatingPointError), match=r"not finite|became nan"):
            measure(run, tmp_path)
    off = plan_of(tmp_path, model_folder, examples(30, 0), learning_rate="1e30", max_grad_norm=0, matching_weight=0)
    *_, itra = off.runs()  # nothing watches the features of such a run
    with pytest.raises(FloatingPointError, match="the run diverged"):
        measure(itra, tmp_path)


def test_what_was_trained_and_tested_on_is_told(model_folder, tmp_path):
    told = []
    for test in ({}, {"test_file": write(tmp_path, "test.csv", examples(30, 1))}):
        plan = plan_of(tmp_path, model_folder, examples(60, 0), max_train_samples="[50, 80]", **test)
        first, _, second, *_ = plan.runs()
        told += [measure(run, tmp_path) for run in (first, second)]
    assert [(each["trained"], each["tested"], each["tested_on"]) for each in told] == [
        (50, 6, "validation"),
        (54, 6, "validation"),
        (50, 30, "test"),
        (54, 30, "test"),
    ]


# ---- Two commands ----


@pytest.fixture
def config(model_folder, tmp_path):
    train = write(tmp_path, "train.csv", examples(30, 0))
    return write_config(tmp_path, model_folder, train_file=train, seeds="[1]", output_dir=tmp_path / "out")


def test_a_second_comparison_in_the_same_folder_is_refused(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(schedule, "process_context", lambda: pytest.fail("it ran"))
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        assert f"Another comparison runs in {tmp_path / 'out'}" in refused(["compare", config], capsys)


# ---- What changes under a comparison ----


def test_a_data_file_that_changes_while_the_comparison_runs_fails_the_run(model_folder, tmp_path):
    run = next(plan_of(tmp_path, model_folder, examples(30, 0)).runs())
    write(tmp_path, "train.jsonl", examples(31, 0))
    with pytest.raises(ValueError, match=r"train\.jsonl has changed since the comparison began"):
        build(run, tmp_path)


def test_sizes_beyond_the_data_are_refused_if_more_than_one(model_folder, tmp_path, capsys):
    named = write(tmp_path, "train.jsonl", examples(30, 0))
    config = write_config(tmp_path, model_folder, train_file=named, max_train_samples="[20, 30, 900]")
    assert "max_train_samples=[20, 30, 900] must have one size at most that takes all of the 30" in refused(
        ["compare", config], capsys
    )


# ---- Runs without a step ----


def test_a_run_that_trains_nothing_fails(model_folder, tmp_path):
    fields = {"dataloader_drop_last": True, "per_device_train_batch_size": 64}
    run = next(plan_of(tmp_path, model_folder, examples(30, 0), **fields).runs())
    with pytest.raises(ValueError, match="no step is made of 27 training examples in batches of 64"):
        measure(run, tmp_path)


def test_twice_a_batch_that_the_examples_do_not_fill_is_refused(model_folder, tmp_path):
    fields = {"dataloader_drop_last": True, "per_device_train_batch_size": 20, **SECOND_BATCH}
    plan = plan_of(tmp_path, model_folder, examples(30, 0), **fields)
    run = next(run for run in plan.runs() if run.variant == TWICE["batch"])
    with pytest.raises(ValueError, match="twice the batch is 40, of which 27 training examples fill none"):
        build(run, tmp_path)


# ---- Pictures ----


def test_the_map_of_a_file_that_is_sorted_by_class_has_all_classes(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(assessment, "MOST_FEATURES", 12)
    data = sorted(examples(60, 0), key=lambda row: row["label"])
    run = next(plan_of(tmp_path, model_folder, data, test_file=write(tmp_path, "test.jsonl", data)).runs())
    measure(run, tmp_path)
    with np.load(tmp_path / assessment.FEATURES) as arrays:
        assert len(arrays["features"]) == 12
        assert len(set(arrays["labels"].tolist())) == 3


def test_a_trainer_file_that_seeds_the_generators_does_not_change_the_first_weights(model_folder, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import torch\nfrom transformers import Trainer\n\ntorch.manual_seed(0)\n\n\nclass Own(Trainer):\n    pass\n"
    )
    plan = plan_of(tmp_path, model_folder, examples(30, 0), variants=json.dumps({"own": {"trainer": f"{path}:Own"}}))
    plain, own, *_ = (build(run, tmp_path)[0].model.classifier.weight for run in list(plan.runs())[:2])
    assert torch.equal(plain, own)


def test_alignment_that_does_not_fit_the_labels_is_refused_before_the_first_run(
    model_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(schedule, "process_context", lambda: pytest.fail("it ran"))
    train = write(tmp_path, "train.jsonl", examples(30, 0, lambda name, i: i / 7))
    config = write_config(tmp_path, model_folder, train_file=train, alignment="conditional")
    assert "Variant 'ITRATrainer': alignment='conditional' needs one class a text" in refused(
        ["compare", config], capsys
    )


@pytest.mark.parametrize("variants", [None, {"smoothed": {"trainer": "Trainer", "label_smoothing_factor": 0.1}}])
def test_label_smoothing_without_classes_is_refused_before_the_first_run(
    variants, model_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(schedule, "process_context", lambda: pytest.fail("it ran"))
    train = write(tmp_path, "train.jsonl", examples(30, 0, lambda name, i: i / 7))
    given = {"label_smoothing_factor": 0.1} if variants is None else {"variants": variants}
    config = write_config(tmp_path, model_folder, train_file=train, **given)
    name = "Trainer" if variants is None else "smoothed"
    told = f"Variant '{name}': label_smoothing_factor=0.1 needs one class a text, and this is regression"
    assert told in refused(["compare", config], capsys)
