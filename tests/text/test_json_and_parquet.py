"""JSON strings are strings whatever they look like, and Parquet strings whatever their layout."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from tabular import USED, columns

from itra_hf.text.files import read_files


def test_json_strings_stay_strings_and_numbers_numbers(tmp_path):
    rows = [
        {"text": "2020-01-01T00:00:00", "label": 1, "other": {"a": 1}},
        {"text": None, "label": 2.5, "other": [1, "a"]},
        {"text": "1", "late": True},
    ]
    expected = {
        "text": ["2020-01-01T00:00:00", None, "1"],
        "label": [1.0, 2.5, None],
        "other": ['{"a": 1}', '[1, "a"]', None],
        "late": [None, None, True],
    }
    lines = "\n".join(map(json.dumps, rows))
    spread = "\n".join(json.dumps(row, indent=1) for row in rows)
    for name, content in (("a.jsonl", lines), ("b.json", json.dumps(rows)), ("c.json", spread)):
        assert columns(tmp_path, name, content) == expected


@pytest.mark.parametrize("other", ["1.5", "NaN"])
@pytest.mark.parametrize("times", [1, 10_000])
def test_large_numbers_among_fractions_in_a_column_that_is_not_used_are_kept_as_text(other, times, tmp_path):
    content = '{"text": "x", "id": 9007199254740993}\n' * times + '{"text": "y", "id": ' + other + "}\n"
    assert columns(tmp_path, "a.jsonl", content)["id"] == ["9007199254740993"] * times + [other]


@pytest.mark.parametrize("orient", ["list", "index", "dict"])
def test_json_objects_of_columns(orient, tmp_path):
    data = {"text": ["a", "b"], "label": [0, 1]}
    content = data if orient == "list" else {name: dict(enumerate(values)) for name, values in data.items()}
    assert columns(tmp_path, "a.json", json.dumps(content, indent=1 if orient == "index" else None)) == data


def string_view():
    """The type, or one like it where this pyarrow doesn't write it."""
    try:
        pq.write_table(pa.table({"text": pa.array(["a"], pa.string_view())}), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError:
        return pa.large_string()
    return pa.string_view()


@pytest.mark.parametrize(
    "text",
    [
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", "b"], pa.large_string()),
        pa.array(["a", "b"], string_view()),
    ],
)
def test_parquet_strings_of_any_layout_are_strings(text, tmp_path):
    unknown = pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"text": text, "label": text, "unknown": unknown}), tmp_path / "a.parquet")
    data = read_files([str(tmp_path / "a.parquet")], USED, str(tmp_path / "cache"))
    assert [data["text"][:], data["label"][:]] == [["a", "b"], ["a", "b"]]


def test_parquet_keeps_declared_classes(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["x", "a"])})
    Dataset.from_dict({"text": ["t"], "label": [1]}, features=features).to_parquet(tmp_path / "a.parquet")
    assert read_files([str(tmp_path / "a.parquet")], USED, str(tmp_path / "cache")).features == features


def test_parquet_columns_that_datasets_wrote_and_others_changed_are_read(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["x", "a"])})
    Dataset.from_dict({"text": ["t"], "label": [1]}, features=features).to_parquet(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet").append_column(
        "odd", pa.array([[("a", 1)]], pa.map_("string", "int8"))
    )
    table = table.set_column(0, "text", pa.array(["t"], string_view()))
    pq.write_table(table, tmp_path / "b.parquet")
    data = read_files([str(tmp_path / "b.parquet")], USED, str(tmp_path / "cache"))
    assert data.features == features


def shards(folder, *tables):
    """The split that these tables make up, in files of their own."""
    paths = []
    for number, each in enumerate(tables):
        paths.append(str(folder / f"{number}.parquet"))
        if isinstance(each, Dataset):
            each.to_parquet(paths[-1])
        else:
            pq.write_table(pa.table(each), paths[-1])
    return read_files(paths, USED, str(folder / "cache"))


@pytest.mark.parametrize(
    ("first", "second", "column", "types"),
    [
        ({"text": ["x"], "label": [1]}, {"text": ["y"], "label": ["007"]}, "label", ("string", "int64")),
        ({"text": ["x"], "label": ["07"]}, {"text": ["y"], "label": [7]}, "label", ("int64", "string")),
        ({"text": ["x"], "label": [1]}, {"text": ["y"], "label": [1.5]}, "label", ("float64", "int64")),
        ({"text": ["x"], "label": [1]}, {"text": [5], "label": [1]}, "text", ("int64", "string")),
        ({"text": ["x"], "label": [1]}, {"text": ["y"]}, "label", ("nothing", "int64")),
        ({"text": ["x"]}, {"text": ["y"], "label": [1]}, "label", ("int64", "nothing")),
    ],
)
def test_parquet_files_of_a_split_must_agree_on_the_columns_that_are_used(first, second, column, types, tmp_path):
    with pytest.raises(ValueError, match=rf"1\.parquet: column {column!r} has") as caught:
        shards(tmp_path, first, second)
    positions = [str(caught.value).index(each) for each in (types[0], "0.parquet", types[1])]
    assert positions == sorted(positions)


def test_parquet_files_of_a_split_must_have_their_classes_in_one_order(tmp_path):
    def classes(*names):
        features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
        return Dataset.from_dict({"text": ["x"], "label": [0]}, features=features)

    assert shards(tmp_path, classes("a", "b"), classes("a", "b"))["label"][:] == [0, 0]
    with pytest.raises(
        ValueError, match=r"has ClassLabel\(names=\['b', 'a'\]\), and in .*ClassLabel\(names=\['a', 'b'\]\)"
    ):
        shards(tmp_path, classes("a", "b"), classes("b", "a"))


def test_columns_that_are_not_used_may_differ_between_parquet_files(tmp_path, caplog):
    first = {"text": ["x"], "label": ["a"], "id": [1], "gone": [1], "note": pa.nulls(1)}
    second = {"label": ["b"], "text": ["y"], "id": ["1"], "note": ["z"]}
    third = {"text": pa.nulls(1), "label": ["c"], "id": [2], "gone": [2], "note": pa.nulls(1)}
    data = shards(tmp_path, first, second, third)
    assert data[:] == {"label": ["a", "b", "c"], "text": ["x", "y", None], "note": [None, "z", None]}
    assert "column 'id' has Value('string'), and in" in caplog.text
    assert "column 'gone' has nothing, and in" in caplog.text
    assert caplog.text.count("; it is left out") == 2


def test_a_column_of_nothing_may_be_absent_from_another_parquet_file(tmp_path, caplog):
    data = shards(tmp_path, {"text": ["x"], "label": ["a"], "note": pa.nulls(1)}, {"text": ["y"], "label": ["b"]})
    assert (data["text"][:], data["label"][:]) == (["x", "y"], ["a", "b"])
    assert data.column_names == ["text", "label"]
    assert "column 'note' has nothing, and in" in caplog.text
