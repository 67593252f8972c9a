"""JSON strings are strings whatever they look like, and Parquet strings whatever their layout."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from test_files import USED, columns

from itra_hf.files import read_files


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


@pytest.mark.parametrize("orient", ["list", "index", "dict"])
def test_json_objects_of_columns(orient, tmp_path):
    data = {"text": ["a", "b"], "label": [0, 1]}
    content = data if orient == "list" else {name: dict(enumerate(values)) for name, values in data.items()}
    assert columns(tmp_path, "a.json", json.dumps(content, indent=1 if orient == "index" else None)) == data


@pytest.mark.parametrize(
    "text",
    [
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", "b"], pa.large_string()),
        pa.array(["a", "b"], pa.string_view()),
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
