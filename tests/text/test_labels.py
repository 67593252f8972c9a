"""Labels as the model would learn them: which classes or numbers, and which columns are refused."""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from itra_hf.text.data import DataArguments, encode_labels, infer_task, load_splits, tokenize

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def put(folder, ending, labels, split="train", texts=None):
    path = folder / f"{split}.{ending}"
    texts = [f"t{row}" for row in range(len(labels))] if texts is None else texts
    if ending == "parquet":
        pq.write_table(pa.table({"text": texts, "label": labels}), path)
    elif ending == "jsonl":
        rows = zip(texts, labels, strict=True)
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    else:
        rows = zip(texts, labels, strict=True)
        path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(path)


def learned(folder, ending, labels, tests=None, **fields):
    """The kind of problem, the class names, and the encoded labels of training and test rows."""
    files = {"train_file": put(folder, ending, labels)}
    if tests is not None:
        files["test_file"] = put(folder, ending, tests, "test")
    args = DataArguments(**files, **fields)
    splits = load_splits(args, str(folder / "cache"))
    task = infer_task(args, splits["train"])
    splits = {name: encode_labels(data, name, task, args) for name, data in splits.items()}
    encoded = [data["labels"][:] if "labels" in data.column_names else None for data in splits.values()]
    return task.problem_type, task.label_names, *encoded


def refused(folder, ending, labels, tests=None, **fields):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the callers look at the message
        learned(folder, ending, labels, tests, **fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["01", "1", "2"], ["01", "1", "2"]),
        (["007", "012", "K1"] * 4000 + ["007", "012"] * 3000, ["007", "012", "K1"]),
        (["true", "unknown", "false"], ["false", "true", "unknown"]),
        (["True", "true", "TRUE"], ["TRUE", "True", "true"]),
        (["NA", "null", "None"], ["NA", "None", "null"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["2", "1"], ["1", "2"]),
        (["+1", "-1"], ["+1", "-1"]),
        (["2020-01-02", "2020-01-01"], ["2020-01-01", "2020-01-02"]),
        ([" a", "a", "a "], [" a", "a", "a "]),
        (["1_0.5", "2.5"], ["1_0.5", "2.5"]),
        (["1.5", "high"], ["1.5", "high"]),
        (["1", "nan"], ["1", "nan"]),
        (['"a, b"', "😀"], ["a, b", "😀"]),
        ([str(n) for n in range(3000)], [str(n) for n in range(3000)]),
    ],
)
def test_class_names_are_the_cells(labels, names, tmp_path):
    problem, found, encoded = learned(tmp_path, "csv", labels)
    assert (problem, found) == (SINGLE, names)
    assert [names[label] for label in encoded] == [label.strip('"') for label in labels]


def test_what_a_cell_means_does_not_depend_on_other_files(tmp_path):
    assert learned(tmp_path, "csv", ["true", "false", "unknown"], ["true", "false"])[-1] == [1, 0]
    assert learned(tmp_path, "csv", ["1", "01", "x"], ["1", "01"])[-1] == [1, 0]
    assert learned(tmp_path, "csv", ["1", "2.50", "x"], ["2.50", "1"])[-1] == [1, 0]


@pytest.mark.parametrize(
    ("ending", "labels", "numbers"),
    [
        ("csv", ["1.5", " 2", "-3e-1", ".5 "], [1.5, 2, -0.3, 0.5]),
        ("csv", ["1e5", "2"], [1e5, 2]),
        ("jsonl", [1.5, 2, -3], [1.5, 2, -3]),
        ("parquet", pa.array([1.5, 2], pa.float32()), [1.5, 2]),
    ],
)
def test_decimal_numbers_are_targets(ending, labels, numbers, tmp_path):
    assert learned(tmp_path, ending, labels) == (REGRESSION, ["LABEL_0"], pytest.approx(numbers))


@pytest.mark.parametrize(
    ("ending", "labels", "fields", "expected"),
    [
        ("csv", ["1.1", "1.10", "1E5"], {"problem_type": SINGLE}, (SINGLE, ["1.1", "1.10", "1E5"], [0, 1, 2])),
        ("csv", ["2", "1"], {"problem_type": REGRESSION}, (REGRESSION, ["LABEL_0"], [2, 1])),
        ("csv", ["2", "1"], {"do_regression": True}, (REGRESSION, ["LABEL_0"], [2, 1])),
        ("csv", ["nan", "1.5"], {"problem_type": SINGLE}, (SINGLE, ["1.5", "nan"], [1, 0])),
        ("jsonl", [2, 1], {"problem_type": REGRESSION, "do_regression": True}, (REGRESSION, ["LABEL_0"], [2, 1])),
        ("jsonl", ["2.5", "1"], {"problem_type": REGRESSION}, (REGRESSION, ["LABEL_0"], [2.5, 1])),
        ("jsonl", [1.5, 2, 2.0], {"problem_type": SINGLE}, (SINGLE, ["1.5", "2", "2.0"], [0, 1, 2])),
        ("parquet", pa.array([1.1, 2.0], pa.float32()), {"problem_type": SINGLE}, (SINGLE, ["1.1", "2.0"], [0, 1])),
        ("jsonl", [["a"], ["a", "b"]], {"problem_type": MULTI}, (MULTI, ["a", "b"], [[1, 0], [1, 1]])),
        ("csv", ["a|b", "a"], {"label_delimiter": "|"}, (MULTI, ["a", "b"], [[1, 1], [1, 0]])),
        ("csv", ["10 | 9", "", "|9|9"], {"label_delimiter": "|"}, (MULTI, ["9", "10"], [[1, 1], [0, 0], [1, 0]])),
        ("jsonl", [["10"], ["9"]], {}, (MULTI, ["9", "10"], [[0, 1], [1, 0]])),
        ("jsonl", [[0, 1], [1], [0]], {}, (MULTI, ["0", "1"], [[1, 1], [0, 1], [1, 0]])),
        ("jsonl", ["10", "9"], {}, (SINGLE, ["9", "10"], [1, 0])),
        ("jsonl", ["0.5", "0.7"], {}, (SINGLE, ["0.5", "0.7"], [0, 1])),
        ("jsonl", [True, False], {}, (SINGLE, ["False", "True"], [1, 0])),
        ("jsonl", [-1, 2, 1], {}, (SINGLE, ["-1", "1", "2"], [0, 2, 1])),
        ("parquet", pa.array(["b", "a"]).dictionary_encode(), {}, (SINGLE, ["a", "b"], [1, 0])),
        ("parquet", [decimal.Decimal("1.10"), decimal.Decimal("0.50")], {}, (SINGLE, ["0.50", "1.10"], [1, 0])),
        ("parquet", pa.array([[0], [2, 0]], pa.large_list(pa.int64())), {}, (MULTI, ["0", "2"], [[1, 0], [1, 1]])),
    ],
)
def test_the_kind_of_problem_is_as_asked_or_inferred(ending, labels, fields, expected, tmp_path, caplog):
    assert learned(tmp_path, ending, labels, **fields) == expected
    asked = "problem_type" in fields or "do_regression" in fields
    assert ("set problem_type" in caplog.text) != asked


@pytest.mark.parametrize(
    ("ending", "labels", "fields", "message"),
    [
        (
            "csv",
            ["1.5", "0.2", "nan", "0.7"],
            {},
            "Row 3 of the training data has 'nan' in column 'label', which is no num",
        ),
        ("csv", ["1.5", "N/A"], {}, "Row 2 of the training data has 'N/A'"),
        ("csv", ["1.5", "-inf"], {}, "set problem_type to single_label_classification"),
        ("csv", ["1.5", "1e999"], {}, "Row 2 of the training data has '1e999'"),
        ("csv", ["1.5", ""], {}, "Row 2 of the training data has no label in column 'label'"),
        ("csv", ["a", "b"], {"problem_type": REGRESSION}, "Row 1 of the training data has 'a'"),
        ("csv", ["1_0", "1"], {"do_regression": True}, "Row 1 of the training data has '1_0'"),
        ("jsonl", [1.5, float("nan")], {}, "Row 2 of the training data has nan"),
        ("jsonl", [1.5, float("inf")], {}, "Row 2 of the training data has inf"),
        ("parquet", [1.5, float("nan")], {}, "Row 2 of the training data has nan"),
        ("parquet", [1.5, float("-inf")], {}, "Row 2 of the training data has -inf"),
        ("parquet", [1.5, 1e39], {}, "Row 2 of the training data has 1e+39"),
        ("parquet", [1.5, None], {}, "Row 2 of the training data has no label"),
        ("parquet", [1.5, 2.5, float("nan")], {"problem_type": SINGLE}, "Row 3 of the training data has no label"),
        ("jsonl", [[0, 1], [1, 0]], {}, "holds [0, 1] and the like; several labels a text are lists of different"),
        ("jsonl", [[True, False], [False, True]], {}, "lists of bool; several labels a text are lists of different"),
        ("jsonl", [["0", "1"], ["1", "0"]], {"problem_type": MULTI}, "not 0/1 vectors"),
        ("jsonl", [["2"], ["1", "0", "1"]], {}, "Row 2 of the training data, in column 'label', holds a list with a"),
        ("jsonl", [[0.0, 1.0]], {}, "lists of double; several labels a text"),
        ("jsonl", [["a", None], ["b"]], {}, "Row 1 of the training data, in column 'label', holds a list with a label"),
        ("csv", ["0|1", "1|0"], {"label_delimiter": "|"}, "not 0/1 vectors"),
        ("csv", ["0|0|1", "1|0|0"], {"label_delimiter": "|"}, "not 0/1 vectors"),
        ("csv", ["True|False", "False|False"], {"label_delimiter": "|"}, "not 0/1 vectors"),
        (
            "jsonl",
            [["a"], ["b"]],
            {"problem_type": SINGLE},
            "does not go with column 'label', which has several labels",
        ),
        ("csv", ["a", "b"], {"problem_type": MULTI}, "has one label a text. A list of labels is several, and so is"),
        ("csv", ["a", "a"], {}, "holds one label only: ['a']"),
        ("csv", [], {}, "The training data has no rows"),
        ("jsonl", [{"a": 1}, {"b": 1}], {}, "column 'label' has an object"),
        ("jsonl", [[["a"]], [["b"]]], {}, "column 'label' has a list of lists"),
        ("parquet", [{"a": 1}, {"a": 2}], {}, "Column 'label' of the training data holds struct<a: int64>"),
        ("parquet", [[["a"]]], {}, "Column 'label' of the training data holds lists of list<item: string>"),
        ("parquet", [b"a", b"b"], {}, "Column 'label' of the training data holds binary"),
        ("parquet", [[b"a"]], {}, "Column 'label' of the training data holds lists of binary"),
        ("parquet", [datetime.date(2020, 1, 1)], {}, "Column 'label' of the training data holds date32[day]"),
        ("parquet", [datetime.datetime(2020, 1, 1)], {}, "Column 'label' of the training data holds timestamp[us]"),
    ],
)
def test_labels_that_can_not_be_learned_are_named(ending, labels, fields, message, tmp_path):
    assert message in refused(tmp_path, ending, labels, **fields)


TEXTS = [[["a"], ["b"]], [{"a": 1}, {"a": 2}], [1, 2], [1.5, 2.5], [True, False]]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("texts", TEXTS)
def test_texts_that_are_no_strings_are_named_with_their_type(ending, texts, tmp_path):
    args = DataArguments(train_file=put(tmp_path, ending, ["a", "b"], texts=texts))
    with pytest.raises(ValueError, match=r"[Cc]olumn 'text' .*(list|object|struct|int64|double|bool)"):
        load_and_encode(args, tmp_path)


@pytest.mark.parametrize(("texts", "kind"), [([b"a", b"b"], "binary"), ([datetime.date(2020, 1, 1)] * 2, "date32")])
def test_bytes_and_dates_are_no_texts(texts, kind, tmp_path):
    args = DataArguments(train_file=put(tmp_path, "parquet", ["a", "b"], texts=texts))
    with pytest.raises(ValueError, match=f"Column 'text' of the training data holds {kind}"):
        load_and_encode(args, tmp_path)


def load_and_encode(args, folder):
    data = load_splits(args, str(folder / "cache"))["train"]
    return encode_labels(data, "train", infer_task(args, data), args)


class Pairs:
    """A tokenizer that keeps the texts."""

    def num_special_tokens_to_add(self, pair):
        return 3

    def __call__(self, *texts, truncation, max_length):
        assert truncation
        assert max_length < 2**31  # what tokenizers hold
        return {"pairs": [*zip(*texts, strict=True)]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "label,text,other\nx,a,\ny,b\n"),
        ("a.jsonl", '{"label": "x", "text": "a", "other": null}\n{"label": "y", "text": "b"}\n'),
    ],
)
def test_a_missing_second_text_is_empty(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    args = DataArguments(train_file=str(tmp_path / name), text_column_names="text,other")
    data = load_splits(args, str(tmp_path / "cache"))["train"]
    task = infer_task(args, data)
    joined = tokenize(encode_labels(data, "train", task, args), Pairs(), task, 8, 1)
    assert joined["pairs"][:] == [["a", ""], ["b", ""]]


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (["a", ""], "Row 2 of the test data has no label"),
        (["a", "c", "c"], "Row 2 of the test data has the label 'c', which is not one of those known: 'a', 'b'."),
        (["a "], "Row 1 of the test data has the label 'a '"),
        ([], "The test data has no rows"),
    ],
)
def test_labels_of_other_splits_that_do_not_fit(tests, message, tmp_path):
    assert message in refused(tmp_path, "csv", ["a", "b"], tests)


def test_a_split_with_another_number_of_labels_a_text_and_ids_out_of_range(tmp_path):
    assert "has several labels a text, unlike the training data" in refused(tmp_path, "jsonl", ["a", "b"], [["a"]])
    features = Features({"text": Value("string"), "label": ClassLabel(names=["x", "y"])})
    data = Dataset.from_dict({"text": ["t"] * 2, "label": [0, 1]}, features=features)
    task = infer_task(DataArguments(train_file="x.csv"), data)
    plain = Dataset.from_dict({"text": ["t"], "label": ["z"]})
    with pytest.raises(ValueError, match="Row 1 of the test data has the label 'z'"):
        encode_labels(plain, "test", task, DataArguments(train_file="x.csv"))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_hidden_labels_of_the_test_split_leave_it_without(ending, tmp_path):
    hidden = ["", ""] if ending == "csv" else [float("nan"), None]
    labels = ["1.5", "2.5"] if ending == "csv" else [1.5, 2.5]
    assert learned(tmp_path, ending, labels, hidden)[-1] is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problem_type": "classes"}, "problem_type='classes' is not one of 'single_label_classification', 'multi"),
        ({"problem_type": SINGLE, "do_regression": True}, "do_regression=True contradicts problem_type='single"),
        ({"problem_type": REGRESSION, "label_delimiter": "|"}, "label_delimiter splits cells into several labels"),
        ({"csv_delimiter": ";;"}, "csv_delimiter=';;' must be one character"),
        ({"csv_delimiter": '"'}, "must be one character, neither a quotation mark nor a line end"),
        ({"file_encoding": "latin-0"}, "file_encoding='latin-0' is no encoding of text"),
        ({"file_encoding": "rot13"}, "file_encoding='rot13' is no encoding of text"),
        ({"file_encoding": "base64"}, "file_encoding='base64' is no encoding of text"),
    ],
)
def test_settings_that_contradict_or_are_unknown(fields, message):
    with pytest.raises(ValueError, match=r"problem_type|label_delimiter|csv_delimiter|file_encoding") as caught:
        DataArguments(train_file="x.csv", **fields)
    assert message in str(caught.value)


def test_missing_texts_are_said(caplog):
    args = DataArguments(train_file="a.jsonl", text_column_names="text,other")
    data = Dataset.from_dict({"text": ["x", None, None, "y"], "other": ["x", "x", None, None], "label": [0, 1, 0, 1]})
    encode_labels(data, "train", infer_task(args, data), args)
    (message,) = [record.message for record in caplog.records if "no text" in record.message]
    assert message.startswith("Column 'text' of the training data has no text in 2 of 4 rows, first in row 2;")
    assert tokenize(data, Pairs(), infer_task(args, data), 10**20, None)["pairs"][1] == ["", "x"]
    empty = Dataset.from_dict({"text": [None, None], "other": ["x", "x"], "label": [0, 1]})
    with pytest.raises(ValueError, match="Column 'text' of the training data has no text in any row"):
        encode_labels(empty, "train", infer_task(args, empty), args)


@pytest.mark.parametrize("name", ["labels", "__row__"])
def test_a_text_column_by_a_name_that_is_needed_is_refused(name):
    data = Dataset.from_dict({name: ["x", "y"], "label": [0, 1]})
    args = DataArguments(train_file="a.csv", text_column_names=name)
    with pytest.raises(ValueError, match=f"A text column can't be called '{name}'"):
        infer_task(args, data)
