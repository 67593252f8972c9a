"""What the tests of the command line share: a tiny model, files and a config file."""

import json
import random

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from itra_hf.cli import main

WORDS = ["red", "green", "blue", "apple", "leaf", "sky", "the", "is", "a"]
TEXTS = {"red": "the apple is red", "green": "a leaf is green", "blue": "the sky is blue"}


def save_model(folder, model_class, config_class, **special):
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="</s>", **special)
    fast.save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    model_class(config_class(vocab_size=len(vocabulary), **size)).save_pretrained(folder)
    return str(folder)


def rows(count=30, label=lambda name, index: name):
    names = list(TEXTS)
    return [{"text": TEXTS[names[i % 3]], "label": label(names[i % 3], i), "id": i} for i in range(count)]


def write(folder, name, data):
    path, ending = str(folder / name), name.rsplit(".", 1)[1]
    data = Dataset.from_list(data)
    if ending in ("csv", "tsv"):
        data.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    elif ending == "parquet":
        data.to_parquet(path)
    else:
        data.to_json(path)
    return path


def write_config(folder, model, **fields):
    values = {
        "model_name_or_path": model,
        "output_dir": str(folder / "out"),
        "max_steps": 4,
        "logging_steps": 1,
        "learning_rate": "1e-2",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        **fields,
    }
    path = folder / "config.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()), encoding="utf-8")
    return str(path)


def results(folder, split="eval"):
    return json.loads((folder / "out" / f"{split}_results.json").read_text())


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def examples(count, seed, label=lambda name, index: name):
    """Texts that differ, each with a word that gives its class away."""
    draw = random.Random(seed)
    names = list(TEXTS)
    return [
        {"text": " ".join([*draw.choices(WORDS[6:], k=4), names[i % 3]]), "label": label(names[i % 3], i)}
        for i in range(count)
    ]
