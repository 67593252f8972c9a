"""`itra-hf inspect`, on tiny models and files that the tests write."""

import json

import numpy as np
import pytest
import torch
from commands import TEXTS, refused, rows, save_model, write
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from itra_hf.cli import main
from itra_hf.reports.compactness import compactness


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"), BertModel, BertConfig, pad_token="[PAD]")


@pytest.fixture(scope="module")
def classifier(base, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("classifier"))
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    load(base, ["blue", "red", "green"]).save_pretrained(folder)
    return folder


def load(base, names):
    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, id2label=dict(enumerate(names)))


def inspect(model, tmp_path, *arguments):
    main(["inspect", model, "--output_dir", str(tmp_path / "seen"), "--use_cpu", *arguments])
    return json.loads((tmp_path / "seen" / "compactness.json").read_text())


@torch.no_grad()
def features_of(model, folder):
    """The classifier's inputs, text by text: without the package's own tap and batching."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.eval()
    encode = lambda text: model.bert(**tokenizer(text, return_tensors="pt")).pooler_output[0].numpy()  # noqa: E731
    return {name: encode(text) for name, text in TEXTS.items()}


def test_table_and_pictures_of_every_split(classifier, tmp_path, capsys):
    noisy = [row if i % 5 else {**row, "text": TEXTS["red"]} for i, row in enumerate(rows(30))]
    train, test = write(tmp_path, "train.csv", noisy), write(tmp_path, "test.csv", rows(9))
    figures = inspect(classifier, tmp_path, "--train_file", train, "--test_file", test)
    assert list(figures) == ["train", "test"]
    vectors = features_of(AutoModelForSequenceClassification.from_pretrained(classifier), classifier)
    by_text = {TEXTS[name]: vector for name, vector in vectors.items()}
    expected = compactness(np.stack([by_text[row["text"]] for row in noisy]), [row["label"] for row in noisy])
    assert figures["train"] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert figures["test"]["within_class_scatter"] < 1e-9 < figures["train"]["within_class_scatter"]
    printed = capsys.readouterr().out
    assert "scatter_ratio" in printed
    assert f"{figures['train']['effective_rank']:.4g}" in printed
    for name in ("feature_map.png", "class_scatter.png"):
        assert Image.open(tmp_path / "seen" / name).size[0] == 800


def test_classes_named_by_the_models_ids_and_models_without_names(classifier, base, tmp_path):
    ids = {"blue": 0, "red": 1, "green": 2}
    named = write(tmp_path, "named.csv", rows(12))
    numbered = write(tmp_path, "numbered.jsonl", rows(12, lambda name, index: ids[name]))
    expected = inspect(classifier, tmp_path, "--train_file", named)
    assert inspect(classifier, tmp_path, "--train_file", numbered) == expected
    nameless = str(tmp_path / "nameless")
    AutoTokenizer.from_pretrained(base).save_pretrained(nameless)
    load(base, [f"LABEL_{index}" for index in range(3)]).save_pretrained(nameless)
    assert inspect(nameless, tmp_path, "--train_file", named)["train"] == pytest.approx(expected["train"])


def test_integers_that_a_model_does_not_name_are_no_ids_where_its_names_are_integers(base, tmp_path, capsys):
    stars = str(tmp_path / "stars")
    AutoTokenizer.from_pretrained(base).save_pretrained(stars)
    load(base, ["1", "2", "3"]).save_pretrained(stars)
    known = write(tmp_path, "known.jsonl", rows(12, lambda name, index: 1 + index % 3))
    assert "train" in inspect(stars, tmp_path, "--train_file", known)
    shifted = write(tmp_path, "shifted.jsonl", rows(12, lambda name, index: index % 3))
    lines = refused(["inspect", stars, "--train_file", shifted, "--use_cpu"], capsys)
    assert "Row 1 of the training data has the label '0', which is not one of those known: '1', '2', '3'" in lines


def test_adapter_folder(base, tmp_path):
    folder = str(tmp_path / "adapter")
    model = get_peft_model(load(base, ["blue", "green", "red"]), LoraConfig("SEQ_CLS", target_modules=["query"]))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    figures = inspect(folder, tmp_path, "--train_file", write(tmp_path, "train.csv", rows(12)))
    vectors = features_of(model.base_model.model, folder)
    expected = compactness(np.stack([*vectors.values()] * 4), [*vectors] * 4)
    assert figures["train"]["between_class_scatter"] == pytest.approx(expected["between_class_scatter"], rel=1e-4)


@pytest.mark.parametrize(
    ("label", "arguments", "message"),
    [
        (lambda name, i: "violet", ["--batch_size", "0"], "batch_size=0 must be at least 1"),
        (
            lambda name, i: name if i else "violet",
            [],
            "label 'violet', which is not one of those known: 'blue', 'red'",
        ),
        (lambda name, i: i / 2, [], "Compactness needs one class a text; these data are regression"),
        (lambda name, i: [name], [], "these data are multi_label_classification"),
        (lambda name, i: name, ["--feature", "nowhere"], "feature='nowhere' is neither"),
        (lambda name, i: name, ["--projection", "sideways"], "invalid choice: 'sideways'"),
    ],
)
def test_what_can_not_be_inspected(label, arguments, message, classifier, tmp_path, capsys):
    data = write(tmp_path, "train.jsonl", rows(6, label))
    assert message in refused(["inspect", classifier, "--train_file", data, "--use_cpu", *arguments], capsys)


def test_no_data_no_model_and_no_command(classifier, capsys):
    assert "Give either dataset_name or train_file" in refused(["inspect", classifier], capsys)
    assert "--model_name_or_path" in refused(["inspect", "--train_file", "x.csv"], capsys)
    assert "There is no file 'x.csv'" in refused(["inspect", classifier, "--train_file", "x.csv"], capsys)
    assert "itra-hf inspect MODEL" in refused(["look"], capsys)
