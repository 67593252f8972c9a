"""From columns to labels and splits."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from itra_hf.text.data import DataArguments, cut_validation, encode_labels, infer_task, subset


def arguments(**fields):
    return DataArguments(train_file="x.csv", **fields)


def test_validation_split_is_stratified_and_keeps_single_examples(caplog):
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10 + ["once"]
    data = Dataset.from_dict({"text": [str(i) for i in range(101)], "label": labels})
    task = infer_task(arguments(), data)
    splits = cut_validation(encode_labels(data, "train", task, arguments()), task, 0.2, seed=0)
    assert np.bincount(splits["validation"]["labels"][:], minlength=4).tolist() == [12, 6, 2, 0]
    assert np.bincount(splits["train"]["labels"][:]).tolist() == [48, 24, 8, 1]
    assert not set(splits["train"]["text"][:]) & set(splits["validation"]["text"][:])
    assert "20 of 101 training examples are held out for it, stratified by class" in caplog.text


def test_validation_split_of_few_examples_is_random(caplog):
    data = Dataset.from_dict({"text": ["x"] * 6, "label": ["a", "b", "c"] * 2})
    task = infer_task(arguments(), data)
    splits = cut_validation(encode_labels(data, "train", task, arguments()), task, 0.2, seed=0)
    assert sorted(len(split) for split in splits.values()) == [2, 4]
    assert "at random" in caplog.text


def test_label_names_are_sorted_and_integers_keep_their_order():
    for labels, names in (([10, 9, 2], ["2", "9", "10"]), (["b", "a", "10"], ["10", "a", "b"])):
        data = Dataset.from_dict({"text": ["x"] * 3, "label": labels})
        assert infer_task(arguments(), data).label_names == names


def test_multi_hot_columns_of_class_labels():
    features = Features({"text": Value("string"), "labels": Sequence(ClassLabel(names=["a", "b"]))})
    data = Dataset.from_dict({"text": ["x"] * 3, "labels": [[0], [1, 0], []]}, features=features)
    task = infer_task(arguments(), data)
    assert encode_labels(data, "train", task, arguments())["labels"][:] == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


def test_subset_is_random_but_fixed():
    data = Dataset.from_dict({"x": list(range(50))})
    first = subset(data, 5, 1)["x"][:]
    assert first == subset(data, 5, 1)["x"][:] != subset(data, 5, 2)["x"][:]
    assert len(subset(data, 100, 1)) == 50


@pytest.mark.parametrize(
    ("labels", "message"),
    [([None, "a"], "Row 1 of the training data has no label"), (["a", "a"], "holds one label only"), ([], "no rows")],
)
def test_labels_that_teach_nothing_are_refused(labels, message):
    data = Dataset.from_dict({"text": ["x"] * len(labels), "label": labels})
    with pytest.raises(ValueError, match=message):
        infer_task(arguments(), data)


@pytest.mark.parametrize("hidden", ["", -1])
def test_a_test_split_without_any_label_gets_predictions_only_and_a_partial_one_is_refused(hidden):
    names = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    features = names if hidden == -1 else None
    kinds = ([0, 1], [-1, -1], [-1, 0]) if hidden == -1 else (["a", "b"], ["", ""], ["", "a"])
    train, test, partial = (
        Dataset.from_dict({"text": ["x"] * len(labels), "label": labels}, features=features) for labels in kinds
    )
    task = infer_task(arguments(), train)
    assert "labels" not in encode_labels(test, "test", task, arguments()).column_names
    with pytest.raises(ValueError, match="Row 1 of the test data has no label"):
        encode_labels(partial, "test", task, arguments())


def test_cells_with_the_integer_zero_keep_their_label():
    train = Dataset.from_dict({"text": ["x"] * 3, "label": ["0|1", "2", "0"]})
    task = infer_task(arguments(label_delimiter="|"), train)
    validation = Dataset.from_dict({"text": ["x"] * 2, "label": [0, 2]})
    encoded = encode_labels(validation, "validation", task, arguments(label_delimiter="|"))["labels"][:]
    assert encoded == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
