"""Settings of `itra-hf`: the config file, what overrides it, and how bad ones are told."""

import pytest
from commands import refused, rows, write, write_config

from itra_hf.cli import parse
from itra_hf.text.config_files import read_config


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
        (
            {"validation_file": "{folder}/other.csv"},
            "the label 'violet', which is not one of those known: 'blue', 'green'",
        ),
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
        ({"model_name_or_path": "{folder}/no-model"}, "no-model': there is no such folder"),
        ({"model_name_or_path": "./no-model"}, "model_name_or_path='./no-model': there is no such folder"),
        (
            {"train_file": "{folder}/float.csv", "label_smoothing_factor": 0.1},
            "label_smoothing_factor=0.1 needs one class",
        ),
        ({"feature": "nowhere"}, "feature='nowhere' is neither"),
        ({"learning_rate": -1}, "learning rate"),
        ({"per_device_train_batch_size": 0}, "batch_size"),
        ({"metric_for_best_model": "acuracy"}, "metric_for_best_model='acuracy' is not what evaluation gives: loss, "),
        (
            {"dataloader_drop_last": True, "per_device_train_batch_size": 64},
            "dataloader_drop_last=True drops all of the 27 training examples, for a batch over all processes is of 64",
        ),
        ({"matching_loss": "{folder}/bad.py:fails"}, "bad.py:fails' fails on features ["),
        ({"matching_loss": "{folder}/bad.py:rows"}, "bad.py:rows' must return a scalar"),
        ({"deepspeed": "nowhere.json"}, "deepspeed"),
        ({"train_file": "{folder}"}, "is a folder; name one file in it, or the folder as dataset_name"),
        ({"train_file": "{folder}/*.csv"}, "patterns are not looked up"),
        ({"train_file": "{folder}/empty.csv"}, "Column 'text' of the training data has no text in any row"),
    ],
)
def test_bad_settings_end_with_one_clear_line(fields, message, model_folder, tmp_path, capsys):
    write(tmp_path, "train.csv", rows(30))
    write(tmp_path, "other.csv", [{"text": "x", "label": "violet"}])
    write(tmp_path, "bare.csv", [{"text": "x"}])
    write(tmp_path, "blank.csv", [{"text": "x", "label": label} for label in ("a", "", "b")])
    write(tmp_path, "hot.jsonl", [{"text": "x", "label": label} for label in ([0, 1, 0], [1, 0, 0])])
    write(tmp_path, "float.csv", [{"text": "x", "label": i + 0.5} for i in range(9)])
    write(tmp_path, "empty.csv", [{"text": " " * (i % 2), "label": "ab"[i % 2]} for i in range(9)])
    (tmp_path / "train.xlsx").write_text("")
    (tmp_path / "bad.py").write_text("def fails(x, y):\n    1 / 0\n\n\ndef rows(x, y):\n    return x.sum(1)\n")
    fields = {key: value.format(folder=tmp_path) if isinstance(value, str) else value for key, value in fields.items()}
    config = write_config(tmp_path, model_folder, **{"train_file": str(tmp_path / "train.csv"), **fields})
    assert message in refused(["train", config], capsys)


def test_config_file_problems(tmp_path, capsys):
    assert "There is no config file" in refused(["train", str(tmp_path / "no.yaml")], capsys)
    for text, message in (
        ("- a\n", "must hold lines `field: value`, not list"),
        ("a: [", "is not valid YAML"),
        ("seed: 1\nuse_cpu: true\nseed: 2\n", "'seed' is there twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_config(str(tmp_path / "bad.yaml"))
    merged = "base: &base {x: 1}\na: {inner: &d {<<: *base, x: 2}}\nb: {<<: *d}\n'1': a\n1: b\n"
    (tmp_path / "merged.yaml").write_text(merged)
    assert len(read_config(str(tmp_path / "merged.yaml"))) == 5
    (tmp_path / "bad.yaml").write_text("output_dir: é\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"bad\.yaml' is not valid YAML in UTF-8"):
        read_config(str(tmp_path / "bad.yaml"))
    assert parse(["--model_name_or_path", "m", "--train_file", "a.csv", "--output_dir", "o", "--run_name", "b.yaml"])
    assert parse(["--model_name_or_path=m", "--train_file=a.csv", "--output_dir=o", "--run_name=b.yaml"])
    for late in (["--train_file", "a.csv", "mine.yaml"], ["--config", "mine.yaml"]):
        assert "The config file comes first, before the fields: `mine.yaml" in refused(["train", *late], capsys)
    said = refused(["inspect", "model", "--train_flie", "a.csv"], capsys)
    assert "'--train_flie' is no field. Did you mean 'train_file'?" in said
    assert "usage: itra-hf train" in refused(["evaluate"], capsys)
