"""Data sets by name: folders, whose files are read as `train_file` is."""

import gzip
import json
import os
import zipfile

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from itra_hf.text.data import DataArguments, encode_labels, infer_task, load_splits

MARKERS = ["NA", "null", "None", "nan", "007", "true", "1e5"]


def folder_with(tmp_path, files, name="data"):
    folder = tmp_path / name
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    return str(folder)


def load(tmp_path, folder, **fields):
    return load_splits(DataArguments(dataset_name=folder, **fields), str(tmp_path / "cache"))


def table(cells, delimiter=","):
    return f"text{delimiter}label\n" + "".join(f"{cell}{delimiter}{cell}\n" for cell in cells)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_cells_of_a_folders_files_are_their_characters(ending, tmp_path):
    content = table(MARKERS, "\t" if ending == "tsv" else ",")
    if ending == "jsonl":
        content = "".join(json.dumps({"text": cell, "label": cell}) + "\n" for cell in MARKERS)
    splits = load(tmp_path, folder_with(tmp_path, {f"train.{ending}": content, f"test.{ending}": content}))
    assert {name: data[:] for name, data in splits.items()} == {
        name: {"text": MARKERS, "label": MARKERS} for name in ("train", "test")
    }
    assert str(splits["test"].split) == "test"


def test_several_files_of_a_split_are_one_after_the_other(tmp_path):
    files = {"train/a.csv": table(["x"]), "train/b.csv": "label,text\n2,y\n", "test/c.csv": table(["z"])}
    splits = load(tmp_path, folder_with(tmp_path, files))
    assert splits["train"][:] == {"text": ["x", "y"], "label": ["x", "2"]}
    files["train/b.csv"] = "text,topic\ny,2\n"
    with pytest.raises(ValueError, match=r"b\.csv has the columns 'text', 'topic', and .*a\.csv"):
        load(tmp_path, folder_with(tmp_path, files))


@pytest.mark.parametrize("name", ["exp[2]", "what?", "a*", "{a}"])
def test_the_folder_that_was_named_is_read(name, tmp_path):
    for other in ("exp2", "whats", "ab"):
        folder_with(tmp_path, {"train.csv": table(["other"])}, other)
    folder = folder_with(tmp_path, {"train.csv": table(["mine"]), "test.csv": table(["also"])}, name)
    splits = load(tmp_path, folder)
    assert [data["text"][:] for data in splits.values()] == [["mine"], ["also"]]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_new_content_under_the_old_time_is_read(ending, tmp_path):
    folder = folder_with(tmp_path, {})
    os.makedirs(folder)
    for text in ("old", "new"):
        path, data = f"{folder}/train.{ending}", Dataset.from_dict({"text": [text], "label": ["a"]})
        getattr(data, {"csv": "to_csv", "jsonl": "to_json", "parquet": "to_parquet"}[ending])(path)
        os.utime(path, (1, 1))
        assert load(tmp_path, folder)["train"]["text"][:] == [text]


def test_the_folder_one_is_in_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(folder_with(tmp_path, {"train.csv": table(["mine"])}))
    assert load(tmp_path, ".")["train"]["text"][:] == ["mine"]


def test_errors_name_the_file_of_the_folder(tmp_path):
    folder = folder_with(tmp_path, {"train.csv": "text,label\nx,a,b\n"})
    with pytest.raises(ValueError, match=r"data/train\.csv, row 1: it has 3 fields"):
        load(tmp_path, folder)


CARD = """---
configs:
- config_name: first
  data_files: one.csv
- config_name: second
  data_files: two.csv
  sep: ";"
---
"""


def test_configurations_and_their_delimiters(tmp_path):
    files = {"README.md": CARD, "one.csv": table(["x"]), "two.csv": table(["y"], ";")}
    folder = folder_with(tmp_path, files)
    for name, cell in (("first", "x"), ("second", "y")):
        assert load(tmp_path, folder, dataset_config_name=name)["train"]["text"][:] == [cell]


def card(options):
    return f"---\nconfigs:\n- config_name: default\n  data_files: a.csv\n{options}---\n"


@pytest.mark.parametrize("options", ["  sep: '\\t'\n", '  keep_default_na: false\n  delimiter: "\\t"\n'])
def test_options_of_a_card_that_change_no_cell_are_honoured(options, tmp_path):
    folder = folder_with(tmp_path, {"README.md": card(options), "a.csv": table(MARKERS, "\t")})
    assert load(tmp_path, folder)["train"][:] == {"text": MARKERS, "label": MARKERS}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("  quoting: 3\n", "sets quoting, which is not honoured"),
        ("  header: null\n  names: [text, label]\n", "sets header, names, which is not honoured"),
        ("  sep: '||'\n", r"sep='\|\|' must be one character"),
        ("  encoding: rot13\n", "encoding='rot13' is no encoding of text"),
    ],
)
def test_options_of_a_card_that_are_not_honoured_are_refused(options, message, tmp_path):
    folder = folder_with(tmp_path, {"README.md": card(options), "a.csv": table(MARKERS)})
    with pytest.raises(ValueError, match=message):
        load(tmp_path, folder)


@pytest.mark.parametrize("ending", ["csv.gz", "jsonl.gz", "zip"])
def test_packed_files_are_refused_before_anything_is_guessed(ending, tmp_path):
    folder = folder_with(tmp_path, {"train.jsonl" if "json" in ending else "train.csv": table(MARKERS)})
    if ending == "zip":
        with zipfile.ZipFile(f"{folder}/test.zip", "w") as packed:
            packed.writestr("test.csv", table(MARKERS))
    else:
        content = table(MARKERS) if ending == "csv.gz" else json.dumps({"text": "007", "label": "a"})
        with open(f"{folder}/test.{ending}", "wb") as file:
            file.write(gzip.compress(content.encode()))
    with pytest.raises(ValueError, match=rf"test\.{ending} is packed, or has an ending that is not known; unpack it"):
        load(tmp_path, folder)


def test_declared_types_are_kept_and_empty_cells_are_no_numbers(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["b", "a"]), "size": Value("int64")})
    card = f"---\ndataset_info:\n  features:\n{_yaml(features)}---\n"
    folder = folder_with(tmp_path, {"README.md": card, "train.csv": "text,label,size\nNA,a,7\n,b,\n"})
    data = load(tmp_path, folder)["train"]
    assert data.features == features
    assert data[:] == {"text": ["NA", ""], "label": [1, 0], "size": [7, None]}
    folder = folder_with(tmp_path, {"README.md": card, "train.csv": "text,label,size\nx,c,7\n"}, "other")
    with pytest.raises(ValueError, match="not what its card declares"):
        load(tmp_path, folder)


def _yaml(features):
    kinds = {"text": "string", "size": "int64"}
    lines = [f"  - name: {name}\n    dtype: {kinds[name]}\n" for name in ("text", "size")]
    lines.insert(
        1, "  - name: label\n    dtype:\n      class_label:\n        names:\n          '0': b\n          '1': a\n"
    )
    return "".join(lines)


def test_other_kinds_of_folders_go_through_datasets(tmp_path):
    folder = str(tmp_path / "arrow")
    Dataset.from_dict({"text": ["x", "y"], "label": ["b", "a"]}).save_to_disk(folder)
    os.remove(f"{folder}/dataset_info.json")
    os.remove(f"{folder}/state.json")
    args = DataArguments(dataset_name=folder)
    data = load_splits(args, str(tmp_path / "cache"))["train"]
    assert encode_labels(data, "train", infer_task(args, data), args)["labels"][:] == [1, 0]


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    folder = folder_with(tmp_path, {"train.csv": table(["x"]), "test.csv": table(["y"])})
    with pytest.raises(ValueError, match="has no split 'dev'; it has: train, test"):
        load(tmp_path, folder, validation_split_name="dev")
