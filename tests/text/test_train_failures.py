"""`itra-hf train` where something is wrong or not there yet: diverged runs, checkpoints, tokenizers, lengths, paths."""

import json
import logging
from pathlib import Path

import pytest
import torch
from commands import refused, results, rows, save_model, write, write_config
from families import EOS, FAMILIES, OTHER_FAMILIES, build
from trainers import config
from transformers import BertConfig, BertForSequenceClassification, BertModel, GPT2Config, GPT2Model, TrainerCallback

from itra_hf import ITRATrainer
from itra_hf.cli import main, parse, parse_comparison
from itra_hf.features.models import has_finite_weights
from itra_hf.text.inspect import InspectionArguments
from itra_hf.text.models import most_positions
from itra_hf.text.train import build_trainer, finetune

DIVERGES = {"learning_rate": "1e30", "max_grad_norm": 0, "optim": "sgd", "matching_weight": 0.0}


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


# ---- A model that is a classifier already ----


def save_classifier(folder, names):
    folder = save_model(folder, BertForSequenceClassification, BertConfig, pad_token="[PAD]")
    model = BertForSequenceClassification.from_pretrained(
        folder, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def test_a_head_for_another_number_of_labels_is_replaced_if_asked_for(tmp_path, capsys):
    train = write(tmp_path, "train.csv", rows())
    folder = save_classifier(tmp_path / "sentiment", ["bad", "good"])
    error = refused(["train", write_config(tmp_path, folder, train_file=train)], capsys)
    assert "has a head for 2 labels, and the data have 3: 'blue', 'green', 'red'" in error
    assert "ignore_mismatched_sizes=True" in error
    main(["train", write_config(tmp_path, folder, train_file=train, ignore_mismatched_sizes=True)])
    assert BertForSequenceClassification.from_pretrained(tmp_path / "out").config.id2label[2] == "red"


@pytest.mark.parametrize(
    "names", [["red", "green", "blue"], ["blue", "green", "red"], ["LABEL_0", "LABEL_1", "LABEL_2"]]
)
def test_a_head_of_other_labels_goes_on_with_a_warning(names, tmp_path, caplog):
    train = write(tmp_path, "train.csv", rows())
    folder = save_classifier(tmp_path / "colours", names)
    main(["train", write_config(tmp_path, folder, train_file=train)])
    told = "was trained for 'red', 'green', 'blue'; its head goes on for 'blue', 'green', 'red', in this order"
    assert (told in caplog.text) == (names[0] == "red")


# ---- Runs that diverge ----


@pytest.mark.parametrize("settings", [DIVERGES, {**DIVERGES, "matching_weight": 1.0, "companion": "split"}])
def test_a_diverged_run_is_told_and_leaves_the_model_that_was_there(settings, model_folder, tmp_path, capsys):
    train = write(tmp_path, "train.csv", rows())
    main(["train", write_config(tmp_path, model_folder, train_file=train)])
    good = contents(tmp_path / "out")
    assert {"model.safetensors", "README.md", "eval_results.json"} <= set(good)
    with pytest.raises(SystemExit) as stop:
        main(["train", write_config(tmp_path, model_folder, train_file=train, **settings)])
    assert stop.value.code == 1
    assert "itra-hf: error: " in capsys.readouterr().err.splitlines()[-1]
    assert contents(tmp_path / "out") == good


def test_a_diverged_run_pushes_nothing(model_folder, tmp_path, monkeypatch, capsys):
    pushes = []
    monkeypatch.setattr(ITRATrainer, "push_to_hub", lambda *args, **kwargs: pushes.append(args))
    monkeypatch.setattr(ITRATrainer, "init_hf_repo", lambda *args, **kwargs: None)
    train = write(tmp_path, "train.csv", rows())
    config = write_config(tmp_path, model_folder, train_file=train, push_to_hub=True, **DIVERGES)
    with pytest.raises(SystemExit):
        main(["train", config])
    assert "The run diverged" in capsys.readouterr().err
    assert not pushes


def test_checkpoints_with_broken_weights_are_not_pushed(tmp_path, monkeypatch, caplog):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            next(model.parameters()).data.fill_(torch.nan)

    pushed = []
    monkeypatch.setattr("transformers.Trainer._push_from_checkpoint", lambda self, folder: pushed.append(folder))
    trainer = ITRATrainer(build("Bert"), config(tmp_path))
    trainer.args.hub_strategy, trainer.push_in_progress = "every_save", None
    trainer._push_from_checkpoint("checkpoint-1")
    Break().on_step_end(None, None, None, model=trainer.model)
    assert not has_finite_weights(trainer.model)
    trainer._push_from_checkpoint("checkpoint-2")
    assert pushed == ["checkpoint-1"]
    assert any("was not pushed" in record.message for record in caplog.records)


def test_a_model_is_saved_where_its_evaluation_fails(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ITRATrainer, "evaluate", lambda self: 1 / 0)
    train = write(tmp_path, "train.csv", rows())
    parts = parse([write_config(tmp_path, model_folder, train_file=train)])
    trainer, splits, task, *_ = build_trainer(parts[1], parts[0], parts[2])
    with pytest.raises(ZeroDivisionError):
        finetune(trainer, splits, task, {})
    assert (tmp_path / "out" / "model.safetensors").is_file()


# ---- Checkpoints ----


@pytest.mark.parametrize("exists", [False, True])
def test_resuming_without_a_checkpoint_starts_anew(exists, model_folder, tmp_path, caplog):
    if exists:
        (tmp_path / "out").mkdir()
    train = write(tmp_path, "train.csv", rows())
    settings = {"train_file": train, "save_strategy": "steps", "save_steps": 2, "resume_from_checkpoint": "true"}
    main(["train", write_config(tmp_path, model_folder, **settings)])
    assert sum("so training starts anew" in record.message for record in caplog.records) == 1
    caplog.clear()
    main(["train", write_config(tmp_path, model_folder, **{**settings, "max_steps": 6})])
    assert not any("so training starts anew" in record.message for record in caplog.records)
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert [line["step"] for line in history if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_resuming_from_a_folder_that_is_not_there(model_folder, tmp_path, capsys):
    train = write(tmp_path, "train.csv", rows())
    main(["train", write_config(tmp_path, model_folder, train_file=train, resume_from_checkpoint="false")])
    config = write_config(tmp_path, model_folder, train_file=train, resume_from_checkpoint="nowhere/checkpoint-3")
    assert "There is no checkpoint 'nowhere/checkpoint-3'" in refused(["train", config], capsys)


def test_resuming_from_a_folder_without_a_checkpoint(model_folder, tmp_path, capsys):
    train = write(tmp_path, "train.csv", rows())
    fields = {"train_file": train, "resume_from_checkpoint": str(tmp_path)}
    config = write_config(tmp_path, model_folder, **fields)
    assert "is no checkpoint, for it has no trainer_state.json" in refused(["train", config], capsys)
    (tmp_path / "checkpoint-3").mkdir()
    assert f"did you mean '{tmp_path / 'checkpoint-3'}'?" in refused(["train", config], capsys)


# ---- Tokenizers and lengths ----


@pytest.mark.parametrize(("texts", "least"), [("text", 3), ("text,text", 4)])
def test_a_length_that_leaves_no_room_for_text_is_refused(texts, least, tmp_path, capsys):
    folder = save_model(tmp_path / "model", BertModel, BertConfig, pad_token="[PAD]")
    content = json.loads(Path(folder, "tokenizer.json").read_text(encoding="utf-8"))
    special = {"[PAD]": 0, "</s>": 2}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [_special("[PAD]"), _text("A"), _special("</s>")],
        "pair": [_special("[PAD]"), _text("A"), _special("</s>"), _text("B"), _special("</s>")],
        "special_tokens": {name: {"id": name, "ids": [place], "tokens": [name]} for name, place in special.items()},
    }
    Path(folder, "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    fields = {"train_file": write(tmp_path, "train.csv", rows()), "text_column_names": texts, "max_steps": 1}
    config = write_config(tmp_path, folder, max_seq_length=least - 1, **fields)
    message = f"the tokenizer adds {least - 1} tokens of its own; set it to {least} or more"
    assert f"max_seq_length={least - 1} leaves no room for text, for {message}" in refused(["train", config], capsys)
    main(["train", write_config(tmp_path, folder, max_seq_length=least, **fields)])


def _special(name):
    return {"SpecialToken": {"id": name, "type_id": 0}}


def _text(name):
    return {"Sequence": {"id": name, "type_id": 0}}


def test_a_tokenizer_without_padding_and_end_token_is_refused(tmp_path, capsys):
    folder = save_model(tmp_path / "model", BertModel, BertConfig)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = Path(folder, name)
        if path.is_file():
            kept = {key: value for key, value in json.loads(path.read_text()).items() if key != "eos_token"}
            path.write_text(json.dumps(kept))
    train = write(tmp_path, "train.csv", rows())
    error = refused(["train", write_config(tmp_path, folder, train_file=train)], capsys)
    assert "has neither pad_token nor eos_token" in error
    assert "tokenizer_name" in error


@pytest.mark.parametrize(
    ("model", "model_config", "size"),
    [
        (BertModel, BertConfig, {"max_position_embeddings": 7}),
        (GPT2Model, GPT2Config, {"n_positions": 7, "n_embd": 16}),
    ],
)
def test_texts_are_cut_to_the_positions_of_the_model(model, model_config, size, tmp_path, caplog):
    folder = save_model(tmp_path / "model", model, lambda **kw: model_config(**{**kw, **size}), pad_token="[PAD]")
    data = [{**row, "text": row["text"] * (1 + index % 3)} for index, row in enumerate(rows())]
    train = write(tmp_path, "train.csv", data)
    main(["train", write_config(tmp_path, folder, train_file=train, max_seq_length=64)])
    assert any("max_seq_length=64 is more than the positions" in record.message for record in caplog.records)
    assert any("cut to 7 tokens" in record.message for record in caplog.records)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in OTHER_FAMILIES])
def test_the_limit_is_the_longest_text_that_a_model_takes(family):
    model = build(family).eval()
    limit = most_positions(model)

    def run(length):
        with torch.no_grad():
            tokens = torch.full((1, length), 3)
            tokens[0, -1] = EOS
            return model(input_ids=tokens, attention_mask=torch.ones_like(tokens))

    run(limit or 100)
    if limit is not None:
        with pytest.raises((IndexError, RuntimeError)):
            run(limit + 1)


# ---- Paths ----


def test_the_home_folder(tmp_path, monkeypatch, model_folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    Path(tmp_path, "model").symlink_to(model_folder)
    assert InspectionArguments("~/model", output_dir="~/looked").output_dir == str(tmp_path / "looked")
    assert InspectionArguments("~/model").model_name_or_path == str(tmp_path / "model")
    train = write(tmp_path, "train.csv", rows())
    main(["train", write_config(tmp_path, "~/model", train_file="~/train.csv", output_dir="~/out")])
    assert results(tmp_path)["eval_accuracy"] >= 0
    assert Path(train).is_file()


def test_the_home_folder_of_a_comparison(tmp_path, monkeypatch, model_folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "train.csv", rows())
    plan = parse_comparison([write_config(tmp_path, model_folder, train_file="~/train.csv", output_dir="~/cmp")])
    assert plan.output_dir == tmp_path / "cmp"
    assert plan.common["train_file"] == str(tmp_path / "train.csv")


@pytest.fixture(autouse=True)
def _warnings(caplog):
    caplog.set_level(logging.WARNING)
