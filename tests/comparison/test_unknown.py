"""Classes left out of training: which, what the runs then see, and how well they are told from the known ones."""

import datasets
import numpy as np
import pytest
import torch
from commands import examples, refused, write, write_config

from itra_hf.cli import parse_comparison
from itra_hf.comparison import assessment, schedule
from itra_hf.comparison import run as running
from itra_hf.comparison.run import build, measure
from itra_hf.comparison.spoiling import UNKNOWN, leave_out_classes
from itra_hf.comparison.unknown import (
    energy_scores,
    mahalanobis_scores,
    neighbour_scores,
    probability_scores,
    unknown_auroc,
)
from itra_hf.text.data import Task

NAMES = ["blue", "green", "red"]  # the classes of `examples`, by id


def task_of(classes, kind="single_label_classification"):
    return Task(kind, [f"class {each}" for each in range(classes)], ["text"], "label")


def splits_of(**labels):
    return datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict({"text": [str(each) for each in values], "labels": list(values)})
            for name, values in labels.items()
        }
    )


def choose_unknown(classes, count, seed):
    """The ids of the classes that are left out where all splits have all of them."""
    splits = splits_of(train=range(classes), test=range(classes))
    _, task = leave_out_classes(splits, task_of(classes), "test", count, seed)
    return np.array([each for each in range(classes) if f"class {each}" not in task.label_names])


# ---- Scores ----


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_probability_and_energy_are_those_of_a_slow_computation(random):
    logits = 5 * random.standard_normal((20, 4))
    exponentials = [[np.exp(value) for value in row] for row in logits]
    assert np.allclose(probability_scores(logits), [max(row) / sum(row) for row in exponentials])
    assert np.allclose(energy_scores(logits), [np.log(sum(row)) for row in exponentials])
    assert np.isfinite(energy_scores(np.array([[1000.0, -1000.0]]))).all()


@pytest.mark.parametrize("dim", [3, 40])  # fewer and more than there are training examples
def test_mahalanobis_is_that_of_a_slow_computation(dim, random):
    labels = np.array([4, 0, 7] * 10)
    train = random.standard_normal((30, dim)) * np.linspace(0.2, 3, dim) + 100 + labels[:, None]
    features = random.standard_normal((12, dim)) + 103
    means = {each: np.mean([x for x, y in zip(train, labels, strict=True) if y == each], axis=0) for each in (0, 4, 7)}
    centred = [x - means[y] for x, y in zip(train, labels, strict=True)]
    empirical = sum(np.outer(x, x) for x in centred) / 30
    scale = np.trace(empirical) / dim
    apart = ((empirical - scale * np.eye(dim)) ** 2).sum()
    spread = sum(((np.outer(x, x) - empirical) ** 2).sum() for x in centred) / 30**2
    shrinkage = min(spread, apart) / apart  # Ledoit and Wolf's
    precision = np.linalg.inv((1 - shrinkage) * empirical + shrinkage * scale * np.eye(dim))
    expected = [-min((x - mean) @ precision @ (x - mean) for mean in means.values()) for x in features]
    assert np.allclose(mahalanobis_scores(features, train, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("count", [3, 5, 30])
def test_neighbours_are_those_of_a_slow_computation(count, random):
    train, features = random.standard_normal((count, 6)), 9 * random.standard_normal((8, 6))
    unit = [x / np.sqrt((x**2).sum()) for x in train]
    distances = [sorted(np.sqrt(((x / np.sqrt((x**2).sum()) - y) ** 2).sum()) for y in unit) for x in features]
    assert np.allclose(neighbour_scores(features, train), [-row[min(5, count) - 1] for row in distances])


def test_auroc_is_the_chance_that_a_known_example_scores_higher(random):
    logits = random.standard_normal((9, 3)), random.standard_normal((7, 3))
    features = random.standard_normal((9, 5)).astype(np.float32), random.standard_normal((7, 5)).astype(np.float32)
    train, labels = random.standard_normal((12, 5)).astype(np.float32), np.arange(12) % 3
    own = {
        "unknown_probability": [probability_scores(each) for each in logits],
        "unknown_energy": [energy_scores(each) for each in logits],
        "unknown_neighbours": [neighbour_scores(each.astype(float), train.astype(float)) for each in features],
        "unknown_mahalanobis": [
            mahalanobis_scores(each.astype(float), train.astype(float), labels) for each in features
        ],
    }
    found = unknown_auroc(*logits, *features, train, labels)
    assert list(found) == list(own)
    for name, (known, unknown) in own.items():
        assert found[name] == pytest.approx(np.mean([[a > b for b in unknown] for a in known]))


def test_what_lies_far_from_the_training_features_is_told_apart_and_the_direction_is_right(random):
    train, labels = np.eye(4)[np.arange(40) % 4] + 0.05 * random.standard_normal((40, 4)), np.arange(40) % 4
    known, unknown = train[:12] + 0.01, np.full((6, 4), -0.5) + 0.05 * random.standard_normal((6, 4))
    found = unknown_auroc(9 * known, 0.1 * unknown, known, unknown, train, labels)
    assert found == dict.fromkeys(found, 1.0)
    turned = unknown_auroc(0.1 * unknown, 9 * known, unknown, known, train, labels)
    assert turned == dict.fromkeys(turned, 0.0)


# ---- Which classes, and the rows ----


def test_the_classes_are_those_of_the_seed_and_all_of_them_in_turn():
    assert choose_unknown(20, 5, 3).tolist() == choose_unknown(20, 5, 3).tolist()
    chosen = [choose_unknown(6, 2, seed) for seed in range(40)]
    assert all(len(set(each)) == 2 and (np.diff(each) > 0).all() for each in chosen)
    assert set(np.concatenate(chosen)) == set(range(6))


def test_known_classes_are_numbered_anew_in_their_order_and_unknown_rows_are_kept_of_the_tested_split():
    labels = {"train": [0, 1, 2, 3, 4] * 3, "validation": [4, 3, 2, 1, 0], "test": [2, 2, 0, 1, 3, 4, 4]}
    unknown = choose_unknown(5, 2, seed=1).tolist()
    known = [each for each in range(5) if each not in unknown]
    parts, task = leave_out_classes(splits_of(**labels), task_of(5), "test", 2, seed=1)
    assert task.label_names == [f"class {each}" for each in known]
    for name, values in labels.items():
        assert parts[name]["text"][:] == [str(each) for each in values if each in known]
        assert parts[name]["labels"][:] == [known.index(each) for each in values if each in known]
    assert parts["unknown"]["text"][:] == [str(each) for each in labels["test"] if each in unknown]


def test_a_split_without_the_rows_that_are_needed_is_refused():
    message = "unknown_classes=1 leaves fewer than two of the 2 classes that both the training and the test split have"
    with pytest.raises(ValueError, match=message):
        leave_out_classes(splits_of(train=[0, 1, 2, 3], test=[0, 2]), task_of(4), "test", 1, 0)
    (unknown,) = choose_unknown(4, 1, seed=0)
    splits = splits_of(train=[0, 1, 2, 3], validation=[unknown], test=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="the validation split has no example of the known classes"):
        leave_out_classes(splits, task_of(4), "test", 1, 0)


@pytest.mark.parametrize("seed", range(8))
def test_classes_without_rows_are_not_among_those_left_out(seed):
    splits = splits_of(train=[0, 1, 2, 4], test=[0, 1, 2, 3])
    parts, task = leave_out_classes(splits, task_of(6), "test", 1, seed)
    assert len(parts["unknown"]) == 1
    assert len(task.label_names) == 5
    assert len(set(parts["train"]["labels"][:])) == 3


def test_one_example_a_class_has_no_spread_to_measure_by(random):
    arrays = random.standard_normal((5, 3)), random.standard_normal((4, 3))
    found = unknown_auroc(*arrays, *arrays, random.standard_normal((3, 3)), np.arange(3))
    assert sorted(found) == ["unknown_energy", "unknown_neighbours", "unknown_probability"]


# ---- Runs ----


def plan_of(folder, model_folder, keep=NAMES, **fields):
    """A comparison of the examples of some of the classes, in files of each split."""
    folder.mkdir(exist_ok=True)
    files = {
        f"{name}_file": write(folder, f"{name}.jsonl", [row for row in examples(*size) if row["label"] in keep])
        for name, size in {"train": (90, 0), "validation": (30, 1), "test": (60, 2)}.items()
    }
    fields = {"max_steps": 4, "learning_rate": 1e-3, "equal_compute": "none", **files, **fields}
    return parse_comparison([write_config(folder, model_folder, **fields)])


def test_the_run_is_one_on_the_known_classes_alone_with_the_new_measures_beside(model_folder, tmp_path):
    fields = {"max_train_samples": "[20]", "label_noise": 0.2, "class_imbalance": 2, "seeds": "[1]"}
    (unknown,) = choose_unknown(3, 1, seed=1)
    known = [name for name in NAMES if name != NAMES[unknown]]
    for run, alone in zip(
        plan_of(tmp_path / "all", model_folder, unknown_classes=1, **fields).runs(),
        plan_of(tmp_path / "known", model_folder, keep=known, **fields).runs(),
        strict=True,
    ):
        found, expected = measure(run, tmp_path / "all"), measure(alone, tmp_path / "known")
        told = {name: found["metrics"].pop(f"unknown_{name}") for name in ("probability", "energy")}
        told |= {name: found["metrics"].pop(f"unknown_{name}") for name in ("mahalanobis", "neighbours")}
        assert all(0 <= value <= 1 for value in told.values())
        assert (found["trained"], found["tested"], found["tested_on"]) == (20, 40, "test")
        for each in (found, expected):
            del each["metrics"]["seconds"], each["metrics"]["peak_memory"]
        assert found["metrics"] == expected["metrics"]
        assert {"accuracy", "f1_macro", "nll", "calibration_error", "scatter_ratio"} <= set(found["metrics"])


def test_the_scores_get_logits_and_features_of_the_right_rows(model_folder, tmp_path, monkeypatch):
    got, made = [], []
    monkeypatch.setattr(assessment, "unknown_auroc", lambda *arrays: got.append(arrays) or {})
    monkeypatch.setattr(running, "build", lambda *args: made.append(build(*args)) or made[-1])
    measure(next(plan_of(tmp_path, model_folder, unknown_classes=1, max_train_samples="[21]").runs()), tmp_path)
    ((known, unknown, known_features, unknown_features, train_features, labels),) = got
    trainer, tested, task, others = made[0]
    left_out = others[UNKNOWN]
    assert trainer.model.config.num_labels == len(task.label_names) == 2
    assert (len(known), len(unknown), len(train_features)) == (40, 20, 21)
    assert labels.tolist() == trainer.train_dataset["labels"][:]
    for data, logits, features in ((tested, known, known_features), (left_out, unknown, unknown_features)):
        trainer.model.eval()
        for row, expected, feature in zip(data, logits, features, strict=True):
            with torch.no_grad():
                assert np.allclose(trainer.model(torch.tensor([row["input_ids"]])).logits[0], expected, atol=1e-5)
                scored = trainer.model.classifier(torch.tensor(feature))
            assert np.allclose(scored, expected, atol=1e-5)


def test_all_variants_of_a_seed_leave_out_the_same(model_folder, tmp_path):
    plan = plan_of(
        tmp_path, model_folder, unknown_classes=1, seeds="[1, 2, 3, 4]", companion="sample", equal_compute="both"
    )
    names = {}
    for run in plan.runs():
        *_, task, others = build(run, tmp_path)
        names.setdefault(run.seed, set()).add(tuple(task.label_names))
        assert len(others[UNKNOWN]) == 20
    assert all(len(each) == 1 for each in names.values())
    assert len(set.union(*names.values())) > 1


def test_without_a_test_file_the_unknown_rows_are_those_held_out(model_folder, tmp_path):
    train = write(tmp_path, "train.jsonl", examples(90, 0))
    plan = parse_comparison([write_config(tmp_path, model_folder, train_file=train, max_steps=1, unknown_classes=1)])
    trainer, tested, _, others = build(next(plan.runs()), tmp_path)
    assert (len(trainer.train_dataset), len(tested), len(others[UNKNOWN])) == (54, 6, 3)
    assert tested is trainer.eval_dataset


@pytest.mark.parametrize("most", [12, 30])
def test_the_test_split_is_cut_to_size_before_it_is_divided(most, model_folder, tmp_path):
    run = next(plan_of(tmp_path, model_folder, unknown_classes=1, max_predict_samples=most).runs())
    _, tested, _, others = build(run, tmp_path)
    assert len(tested) + len(others[UNKNOWN]) == most


# ---- Refusals before the first run ----


@pytest.mark.parametrize(
    ("label", "count", "message"),
    [
        (
            lambda name, i: name,
            2,
            "unknown_classes=2 leaves fewer than two of the 3 classes to train on; at most 1 can",
        ),
        (lambda name, i: i / 7, 1, "unknown_classes=1 needs one class an example; this is regression"),
        (lambda name, i: [name, "odd"][: 1 + i % 2], 1, "unknown_classes=1 needs one class an example; this is multi"),
    ],
)
def test_labels_that_unknown_classes_do_not_go_with_are_refused(
    label, count, message, model_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(schedule, "process_context", lambda: pytest.fail("it ran"))
    train = write(tmp_path, "train.jsonl", examples(30, 0, label))
    config = write_config(tmp_path, model_folder, train_file=train, unknown_classes=count, output_dir=tmp_path / "out")
    assert message in refused(["compare", config], capsys)
