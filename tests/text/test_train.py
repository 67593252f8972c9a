"""`itra-hf train`, on a tiny model and files that the tests write."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import refused, results, rows, save_model, write, write_config
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from places import EXAMPLES
from transformers import LlamaConfig, LlamaForCausalLM, pipeline

from itra_hf.cli import main, parse
from itra_hf.text.config_files import read_config
from itra_hf.text.data import DataArguments, cut_validation, encode_labels, infer_task, load_splits, subset


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_trains_from_any_file_kind_and_saves_a_plain_model(ending, model_folder, tmp_path):
    train = write(tmp_path, f"train.{ending}", rows(60))
    test = write(tmp_path, f"test.{ending}", rows(9))
    config = write_config(tmp_path, model_folder, train_file=train, test_file=test, max_steps=120, learning_rate="5e-3")
    main(["train", config])
    assert results(tmp_path, "test")["test_accuracy"] == 1.0
    assert results(tmp_path)["eval_f1_macro"] == 1.0
    lines = (tmp_path / "out" / "test_predictions.csv").read_text().splitlines()
    assert lines[:3] == ["index,prediction", "0,red", "1,green"]
    classify = pipeline("text-classification", str(tmp_path / "out"))
    assert classify("the sky is blue")[0]["label"] == "blue"
    assert classify.model.config.id2label == {0: "blue", 1: "green", 2: "red"}


@pytest.mark.parametrize(
    ("labels", "problem", "names", "metric"),
    [
        (lambda name, i: i % 3 + 5, "single_label_classification", ["5", "6", "7"], "eval_f1_macro"),
        (lambda name, i: ["even", name] if i % 2 else [name], "multi_label_classification", None, "eval_f1_micro"),
        (lambda name, i: i / 30, "regression", ["LABEL_0"], "eval_mae"),
    ],
)
def test_integer_several_and_float_labels(labels, problem, names, metric, model_folder, tmp_path):
    train = write(tmp_path, "train.jsonl", rows(30, labels))
    main(["train", write_config(tmp_path, model_folder, train_file=train)])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == problem
    expected = names or ["blue", "even", "green", "red"]
    assert list(config.get("id2label", {"0": "LABEL_0"}).values()) == expected
    assert metric in results(tmp_path)


def test_delimited_cells_are_several_labels(model_folder, tmp_path):
    train = write(tmp_path, "train.csv", rows(30, lambda name, i: f"{name}; even" if i % 2 else name))
    config = write_config(tmp_path, model_folder, train_file=train, label_delimiter="';'")
    main(["train", config])
    assert "eval_f1_micro" in results(tmp_path)


def test_text_pairs_and_column_names(model_folder, tmp_path):
    data = [{"premise": row["text"], "hypothesis": "a sky", "gold": row["label"]} for row in rows(30)]
    train = write(tmp_path, "train.csv", data)
    config = write_config(
        tmp_path, model_folder, train_file=train, text_column_names="premise,hypothesis", label_column_name="gold"
    )
    _, data_args, _ = parse([config])
    task = infer_task(data_args, load_splits(data_args)["train"])
    assert task.text_columns == ["premise", "hypothesis"]
    main(["train", config])
    assert "eval_accuracy" in results(tmp_path)


def test_decoder_without_padding_token(tmp_path):
    model = save_model(tmp_path / "llama", LlamaForCausalLM, LlamaConfig)
    train = write(tmp_path, "train.csv", rows(30))
    main(["train", write_config(tmp_path, model, train_file=train)])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == 2


def test_a_data_set_folder_with_named_splits(model_folder, tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zero", "one", "two"])})
    data = [{"text": row["text"], "label": i % 3} for i, row in enumerate(rows(30))]
    splits = {name: Dataset.from_list(data, features=features) for name in ("train", "validation", "test")}
    for name, split in DatasetDict(splits).items():
        split.to_parquet(str(tmp_path / "data" / f"{name}.parquet"))
    config = write_config(tmp_path, model_folder, dataset_name=str(tmp_path / "data"))
    main(["train", config, "--max_train_samples", "20", "--max_eval_samples", "6", "--max_predict_samples", "9"])
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(saved["id2label"].values()) == ["zero", "one", "two"]
    assert len((tmp_path / "out" / "test_predictions.csv").read_text().splitlines()) == 10


def test_test_file_without_labels_gets_predictions_only(model_folder, tmp_path):
    train = write(tmp_path, "train.csv", rows(30))
    test = write(tmp_path, "test.csv", [{"text": row["text"]} for row in rows(6)])
    main(["train", write_config(tmp_path, model_folder, train_file=train, test_file=test)])
    assert "test_accuracy" not in results(tmp_path, "test")
    assert len((tmp_path / "out" / "test_predictions.csv").read_text().splitlines()) == 7


# ---- Settings ----


def test_command_line_overrides_the_file(model_folder, tmp_path):
    path = write_config(
        tmp_path,
        model_folder,
        train_file="x.csv",
        learning_rate="5e-4",
        label_names="[one, two]",
        eval_steps="null",
    )
    model_args, data_args, training_args = parse([path, "--matching_weight", "0.7", "--train_file", "y.csv"])
    assert model_args.model_name_or_path == model_folder
    assert model_args.trust_remote_code is False
    assert data_args.train_file == "y.csv"
    assert training_args.learning_rate == 5e-4
    assert training_args.matching_weight == 0.7
    assert training_args.label_names == ["one", "two"]
    assert training_args.disable_tqdm is True
    assert training_args.save_strategy == "no"  # YAML's false, if read as usual
    assert training_args.eval_steps is None


def test_fields_alone_need_no_file(model_folder, tmp_path):
    arguments = ["--model_name_or_path", model_folder, "--train_file", "a.csv", "--output_dir", str(tmp_path)]
    assert parse(arguments)[1].train_file == "a.csv"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"matching_wieght": 0.1}, "unknown field 'matching_wieght'. Did you mean 'matching_weight'?"),
        ({"xyzzy": 1}, "unknown field 'xyzzy'. `itra-hf train --help` lists the fields."),
        ({"matching_weight": -1}, "matching_weight=-1.0 must be from 0 to 10 "),
        ({"alignment": "both"}, "alignment='both' is not one of 'auto', 'conditional', 'joint', 'marginal'"),
        ({"train_file": "nowhere.csv"}, "There is no file 'nowhere.csv'"),
        ({"train_file": "{folder}/train.xlsx"}, "not in one of .csv, .tsv, .json, .jsonl, .parquet"),
        ({"dataset_name": "both"}, "Give either dataset_name or train_file"),
        ({"text_column_names": "body"}, "no column 'body'; it has: 'text', 'label', 'id'"),
        ({"label_column_name": "text"}, "Column 'text' can't be both text and label"),
        ({"label_column_name": "topic"}, "no column 'topic'; it has: 'text', 'label', 'id'"),
        ({"validation_file": "{folder}/other.csv"}, "the label 'violet', which is not one of those known: blue, green"),
        ({"validation_file": "{folder}/bare.csv"}, "The validation data has no column 'label'; it has: 'text'"),
        ({"train_file": "{folder}/blank.csv"}, "Row 2 of the training data has no label in column 'label'"),
        ({"train_file": "{folder}/hot.jsonl"}, "lists of different label names or ids, not 0/1 vectors"),
        (
            {"train_file": "{folder}/float.csv", "alignment": "conditional"},
            "alignment='conditional' needs one class a text",
        ),
        ({"text_column_names": "[a, b]"}, "'text_column_names' takes one value, not the list ['a', 'b']"),
        ({"learning_rate": ""}, "'learning_rate' needs a value"),
        ({"max_steps": "many"}, "'max_steps' can't be 'many'"),
        ({"label_delimiter": "''"}, "label_delimiter='' must be a character or more"),
        ({"max_seq_length": 0}, "max_seq_length=0 must be at least 1"),
        ({"model_name_or_path": "{folder}/no-model"}, "no-model"),
    ],
)
def test_bad_settings_end_with_one_clear_line(fields, message, model_folder, tmp_path, capsys):
    write(tmp_path, "train.csv", rows(30))
    write(tmp_path, "other.csv", [{"text": "x", "label": "violet"}])
    write(tmp_path, "bare.csv", [{"text": "x"}])
    write(tmp_path, "blank.csv", [{"text": "x", "label": label} for label in ("a", "", "b")])
    write(tmp_path, "hot.jsonl", [{"text": "x", "label": label} for label in ([0, 1, 0], [1, 0, 0])])
    write(tmp_path, "float.csv", [{"text": "x", "label": i + 0.5} for i in range(9)])
    (tmp_path / "train.xlsx").write_text("")
    fields = {key: value.format(folder=tmp_path) if isinstance(value, str) else value for key, value in fields.items()}
    config = write_config(tmp_path, model_folder, **{"train_file": str(tmp_path / "train.csv"), **fields})
    assert message in refused(["train", config], capsys)


def test_config_file_problems(tmp_path, capsys):
    assert "There is no config file" in refused(["train", str(tmp_path / "no.yaml")], capsys)
    for text, message in (
        ("- a\n", "must hold lines `field: value`, not list"),
        ("a: [", "is not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_config(str(tmp_path / "bad.yaml"))
    assert "usage: itra-hf train" in refused(["evaluate"], capsys)


# ---- Data ----


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


# ---- As a user starts it ----


DDP = EXAMPLES / "accelerate" / "ddp.yaml"
LAUNCHERS = {1: ["--cpu", "--num_machines", "1"], 2: ["--config_file", str(DDP), "--main_process_port", "0"]}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_launched_with_processes(processes, model_folder, tmp_path):
    train = write(tmp_path, "train.csv", rows(31))
    config = write_config(tmp_path, model_folder, train_file=train, per_device_train_batch_size=4)
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCHERS[processes]]
    command += ["--num_processes", str(processes), "-m", "itra_hf", "train", config, "--use_cpu", "true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    logged = [line for line in done.stdout.splitlines() if "'matching_weight'" in line]
    assert len(logged) == 4  # by the main process alone
    # 4 steps with 4 of the 27 examples that are not held out, a process: in one process an epoch takes 7, in two 4.
    assert results(tmp_path, "train")["epoch"] == pytest.approx({1: 4 / 7, 2: 1.0}[processes])
    assert results(tmp_path)["eval_accuracy"] >= 0


def test_a_seed_fixes_the_head_and_the_result(model_folder, tmp_path):
    train = write(tmp_path, "train.csv", rows(30))
    results_of = []
    for name in ("first", "second"):
        main(["train", write_config(tmp_path, model_folder, train_file=train), "--output_dir", str(tmp_path / name)])
        results_of.append((tmp_path / name / "model.safetensors").read_bytes())
        torch.rand(7)  # whatever ran before must not matter
    assert results_of[0] == results_of[1]
