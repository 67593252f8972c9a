"""From columns to labels and splits."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import AutoTokenizer

from itra_hf.text.data import DataArguments, cut_validation, encode_labels, infer_task, subset, tokenize


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


def test_classes_that_the_validation_split_takes_whole_are_named(caplog):
    data = Dataset.from_dict({"text": ["x"] * 12, "label": [f"c{index}" for index in range(12)]})
    task = infer_task(arguments(), data)
    splits = cut_validation(encode_labels(data, "train", task, arguments()), task, 0.1, seed=0)
    held = ", ".join(sorted(repr(task.label_names[index]) for index in splits["validation"]["labels"]))
    assert f"All examples of {held} are held out, so they are not learnt" in caplog.text


def test_class_names_that_look_alike_are_told(caplog):
    names = ["red", "red ", "Blue", "blue", "caf\u00e9", "cafe\u0301", "green", "gr\u200been", "black"]
    infer_task(arguments(), Dataset.from_dict({"text": ["x"] * 9, "label": names}))
    told = [record.getMessage() for record in caplog.records if "look alike" in record.getMessage()]
    assert len(told) == 4
    assert "Column 'label' has 'red', 'red ', which look alike and are different classes." in told
    assert "black" not in "".join(told)


def test_texts_without_characters_are_counted(caplog):
    data = Dataset.from_dict({"text": ["x", " ", "y", "", "z"], "label": ["a", "b", "a", "b", "a"]})
    encode_labels(data, "train", infer_task(arguments(), data), arguments())
    assert "has no text in 2 of 5 rows, first in row 2; they are taken as empty texts" in caplog.text


def test_a_text_without_tokens_is_one_of_padding(model_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert tokenizer.num_special_tokens_to_add() == 0
    data = Dataset.from_dict({"text": ["the sky", "", " "], "label": ["a", "b", "a"]})
    task = infer_task(arguments(), data)
    inputs = tokenize(encode_labels(data, "train", task, arguments()), tokenizer, task, 8, None)
    assert inputs["input_ids"][1:] == [[tokenizer.pad_token_id]] * 2
    assert inputs["attention_mask"][:] == [[1, 1], [1], [1]]


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


@pytest.mark.parametrize("topics", [None, [None, None]], ids=["no column", "an empty one"])
def test_another_column_called_labels_is_no_label(topics):
    asked = arguments(label_column_name="topic")
    train = Dataset.from_dict({"text": ["x", "y"], "topic": [1, 2], "labels": [7, 8]})
    test = {"text": ["x", "y"], "labels": [1, 0]} | ({} if topics is None else {"topic": topics})
    task = infer_task(asked, train)
    assert encode_labels(train, "train", task, asked)["labels"][:] == [0, 1]
    assert encode_labels(Dataset.from_dict(test), "test", task, asked).column_names == ["text"]


@pytest.mark.parametrize(
    ("named", "trained", "tested"),
    [(None, "label", "labels"), (None, "labels", "label"), (None, "label", "Label"), ("topic", "topic", "Topic")],
)
def test_a_label_column_that_the_test_data_call_otherwise_is_refused(named, trained, tested):
    asked = arguments(label_column_name=named)
    train, test = (Dataset.from_dict({"text": ["x", "y"], name: [1, 2]}) for name in (trained, tested))
    with pytest.raises(
        ValueError, match=f"no column '{trained}', which the training data has, but one called '{tested}'"
    ):
        encode_labels(test, "test", infer_task(asked, train), asked)


def test_cells_with_the_integer_zero_keep_their_label():
    train = Dataset.from_dict({"text": ["x"] * 3, "label": ["0|1", "2", "0"]})
    task = infer_task(arguments(label_delimiter="|"), train)
    validation = Dataset.from_dict({"text": ["x"] * 2, "label": [0, 2]})
    encoded = encode_labels(validation, "validation", task, arguments(label_delimiter="|"))["labels"][:]
    assert encoded == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
