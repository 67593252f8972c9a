"""`itra-hf train` and `compare` on files that are odd, broken or changed."""

import csv
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from commands import WORDS, refused, write_config
from datasets import Dataset
from tabular import TABLE, put

from itra_hf.cli import main, parse, parse_comparison
from itra_hf.comparison.run import build
from itra_hf.text.data import Task, subset
from itra_hf.text.train import _write_predictions, build_trainer


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "text,label\nà,a\n".encode("latin-1"),
            "row 1: there are bytes that are not utf-8; set file_encoding",
        ),
        ("a.csv", "text,label\nx,a\n".encode("utf-16"), "set file_encoding to utf-16"),
        ("a.csv", "", "is empty"),
        ("a.csv", TABLE + "x,a\ny,b,c\n", "row 2: it has 3 fields, and the header 2"),
        ("a.csv", TABLE + "x,a,1\ny,b,1\n", "row 1: it has 3 fields, and the header 2"),
        ("a.csv", "text;label\nx;a\n", "it has: 'text;label'. Set label_column_name, or csv_delimiter"),
        ("a.csv", TABLE + "x,1.5\ny,0.2\nz,nan\n", "Row 3 of the training data has 'nan'"),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"text": \n', "row 2 (line 2): it is broken JSON"),
        ("a.jsonl", '{"text": "x", "label": 1.5}\n{"text": "y", "label": NaN}\n', "Row 2 of the training data has nan"),
        (
            "a.jsonl",
            '{"text": ["x"], "label": "a"}\n{"text": ["y"], "label": "b"}\n',
            "Column 'text' of the training data",
        ),
        ("a.jsonl", '{"text": "x", "label": {}}\n{"text": "y", "label": {}}\n', "column 'label' has an object"),
        ("a.parquet", "no", "can't be read as Parquet"),
    ],
)
@pytest.mark.parametrize("given", ["train_file", "dataset_name"])
def test_files_that_can_not_be_used_end_with_one_clear_line(given, name, content, message, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    path = put(tmp_path / "data", name, content)
    source = {given: path if given == "train_file" else str(tmp_path / "data")}
    if given == "dataset_name" and not content:
        pytest.skip("datasets takes a folder of nothing but empty files for one without data, and says so")
    lines = refused(["train", write_config(tmp_path, "no-model", cache_dir=str(tmp_path / "cache"), **source)], capsys)
    (line,) = [line for line in lines.splitlines() if line.startswith("itra-hf: error: ")]
    assert message in line
    assert "Traceback" not in lines


def sentences(count, label):
    return [(f"{WORDS[row % 6]} {WORDS[row % 9]}", label(row)) for row in range(count)]


def test_settings_of_files_reach_the_model(model_folder, tmp_path):
    rows = sentences(30, lambda row: ["1.1", "1.10", "à"][row % 3])
    path = put(
        tmp_path, "a.csv", "".join(f"{text};{label}\n" for text, label in [("text", "label"), *rows]).encode("cp1252")
    )
    fields = {"csv_delimiter": '";"', "file_encoding": "cp1252", "problem_type": "single_label_classification"}
    model_args, data_args, args = parse([write_config(tmp_path, model_folder, train_file=path, **fields)])
    trainer, splits, _ = build_trainer(data_args, model_args, args)
    assert trainer.model.config.id2label == {0: "1.1", 1: "1.10", 2: "à"}
    assert sorted(splits["train"]["labels"][:] + splits["validation"]["labels"][:]) == sorted([0, 1, 2] * 10)


@pytest.mark.parametrize("most", [12, None])
def test_predictions_name_the_rows_of_the_test_file(most, model_folder, tmp_path):
    train = put(
        tmp_path, "a.csv", TABLE + "".join(f"{text},{label}\n" for text, label in sentences(30, lambda row: row % 2))
    )
    size = f"max_predict_samples: {most}\n" if most else ""
    config = write_config(tmp_path, model_folder, train_file=train, test_file=train, max_steps=1)
    with open(config, "a", encoding="utf-8") as file:
        file.write(size)
    main(["train", config])
    with open(tmp_path / "out" / "test_predictions.csv", encoding="utf-8") as file:
        found = [int(row["index"]) for row in csv.DictReader(file)]
    assert found == subset(Dataset.from_dict({"row": np.arange(30)}), most, 42)["row"][:]


@pytest.mark.parametrize(("name", "cell"), [("a", "c|a"), ("a|b", '["c", "a|b"]')])
def test_several_predicted_labels_can_be_told_apart(name, cell, tmp_path):
    logits = SimpleNamespace(predictions=np.array([[1.0, 1.0]]))
    task = Task("multi_label_classification", ["c", name], ["text"], "label")
    _write_predictions(str(tmp_path / "out.csv"), logits, task, [0])
    with open(tmp_path / "out.csv", encoding="utf-8") as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == [cell]


def test_a_test_file_whose_cells_are_all_empty_has_predictions_alone(model_folder, tmp_path):
    rows = sentences(30, lambda row: ["a", "b", "a|b", ""][row % 4])
    train = put(tmp_path, "a.csv", TABLE + "".join(f"{text},{label}\n" for text, label in rows))
    test = put(tmp_path, "b.csv", "text,label,__row__\nred,,7\nblue,,7\n")
    fields = {"train_file": train, "test_file": test, "label_delimiter": '"|"', "max_steps": 1}
    main(["train", write_config(tmp_path, model_folder, **fields)])
    assert "test_f1_micro" not in json.loads((tmp_path / "out" / "test_results.json").read_text(encoding="utf-8"))
    assert len((tmp_path / "out" / "test_predictions.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_compare_reads_new_content_under_the_old_time(model_folder, tmp_path):
    keys, ids = [], []
    for word in ("red", "blue"):
        rows = [(word, row % 2) for row in range(20)]
        path = put(tmp_path, "a.csv", TABLE + "".join(f"{text},{label}\n" for text, label in rows))
        os.utime(path, (1, 1))
        config = write_config(tmp_path, model_folder, train_file=path, seeds="[1]", equal_compute="none")
        run = next(parse_comparison([config]).runs())
        keys.append(run.key)
        ids.append({each for row in build(run, tmp_path / "run")[0].train_dataset["input_ids"][:] for each in row})
    assert keys[0] != keys[1]
    assert ids == [{3}, {5}]


def test_compare_knows_a_folders_files_by_their_content(model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "exp[1]"
    folder.mkdir()
    keys = []
    for word in ("red", "blue", "red"):
        os.utime(put(folder, "train.csv", f"{TABLE}{word},a\n{word},b\n"), (1, 1))
        config = write_config(tmp_path, model_folder, dataset_name="'~/exp[1]'", seeds="[1]", equal_compute="none")
        keys.append(next(parse_comparison([config]).runs()).key)
    assert keys[0] == keys[2] != keys[1]


def test_the_log_says_what_the_labels_are_taken_for(tmp_path, capsys, caplog):
    path = put(tmp_path, "a.jsonl", "".join(json.dumps({"text": "x", "label": n / 2}) + "\n" for n in range(9)))
    refused(["train", write_config(tmp_path, "no-model", train_file=path)], capsys)
    assert "Column 'label' is taken as regression: numbers to predict. If it isn't, set problem_type." in caplog.text
