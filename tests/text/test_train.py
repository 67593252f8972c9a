"""`itra-hf train`, on a tiny model and files that the tests write."""

import json
import os
import subprocess
import sys

import pytest
import torch
from commands import results, rows, save_model, write, write_config
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from places import EXAMPLES
from transformers import LlamaConfig, LlamaForCausalLM, pipeline

from itra_hf.cli import main, parse
from itra_hf.text.data import infer_task, load_splits


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
