"""Model cards: what they claim of a run, what they keep of the user's, and what odd names and figures do to them."""

import ast
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
from datasets import Dataset, concatenate_datasets
from fake_hub import card_errors
from families import build, examples
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from trainers import Toy, config, toy_examples
from transformers import BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import itra_hf
from itra_hf import ITRATrainer
from itra_hf.model_card import BEGIN, END, CardFacts, write_card
from itra_hf.provenance import Evaluation, HubSource, base_model_of, dataset_of, evaluations
from itra_hf.reporting import ReportingMixin

REVISION = "0123456789" * 4
HUB_FILES = {f"hf://datasets/org/data@{REVISION}/train.parquet": None}
HOSTILE = ["a|b", "`c` *d*", "<b>e", "f\ng", "{{ name }} {% if x %}", "été 日本", "'\"\\", "# h: [i](j)", "---"]
MINE = "---\nlicense: mit\nlanguage: de\ncustom: [1, {a: b}]\ntags: [mine]\n---\n\n# My model\n\nRead this first.\n"


class PlainTrainer(ReportingMixin, Trainer):
    """The stock Trainer with our reports."""


def card_of(folder):
    """The card in a folder, if the Hub would take it and its pictures exist."""
    path = Path(folder, "README.md")
    text = path.read_text(encoding="utf-8")
    assert card_errors(text) == []
    assert not re.search(r"\b(None|nan|inf)\b", text.replace("'inf'", ""))
    for link in re.findall(r"(?<!\\)\]\(([^)]*)\)", text):
        assert link.startswith("https://huggingface.co/") or Path(folder, link).is_file() or link == "j", link
    return ModelCard.load(path)


def write(folder, readme=None, remote=None, **changes):
    """Writes a card of made-up facts over a README."""
    facts = {
        "name": "name",
        "task": "text-classification",
        "problem_type": "single_label_classification",
        "labels": ["red", "green"],
        "location": "user/name",
        "adapter": None,
        "base_model": None,
        "dataset": None,
        "license": None,
        "language": None,
        "tags": ["generated_from_trainer"],
        "evaluations": {"eval": Evaluation({"loss": 0.5, "accuracy": 0.75}, 3)},
        "start_evaluations": {},
        "step": 3,
        "progress": "3 steps.",
        "settings": {"matching_weight": 0.1},
        "hyperparameters": {"seed": 1},
    }
    path = Path(folder, "README.md")
    if readme is not None:
        path.write_bytes(readme.encode())
    write_card(path, CardFacts(**{**facts, **changes}), remote)
    return card_of(folder)


def trainer_of(folder, model=None, trainer_class=ITRATrainer, data=None, keywords=None, **settings):
    data = toy_examples(12) if data is None else data
    keywords = {"eval_dataset": data, **(keywords or {})}
    return trainer_class(model or Toy(), config(folder, **settings), train_dataset=data, **keywords)


def trained(folder, *args, card=None, **settings):
    trainer = trainer_of(folder, *args, **settings)
    trainer.train()
    trainer.create_model_card(**(card or {}))
    return trainer, card_of(folder)


def results(card):
    return {(one.dataset_split, one.metric_name): one.metric_value for one in card.data.eval_results or []}


def tables(text):
    """The tables' lines, each split at the bars that Markdown sees."""
    lines = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1]] for line in lines]


def row(card, name):
    return next(line[1:] for line in tables(card.text) if line[0] == name)


# ---- What a run is said to be ----


def test_a_run_on_data_and_a_model_of_no_known_origin(tmp_path):
    model = build("Bert", id2label={0: "red", 1: "green", 2: "blue"})
    trainer = trainer_of(tmp_path / "run", model, data=examples("Bert", 12), max_steps=5)
    trainer.train()
    measured = trainer.evaluate()
    trainer.create_model_card()
    card = card_of(tmp_path / "run")
    assert results(card) == {("eval", "Loss"): measured["eval_loss"]}
    assert row(card, "Loss") == [f"{measured['eval_loss']:.4g}"]
    data = card.data.to_dict()
    assert data.pop("model-index")[0]["results"][0]["dataset"] == {"name": "unknown", "type": "unknown", "split": "eval"}
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["generated_from_trainer", "itra", "arxiv:2211.13332"],
    }
    assert "Labels: red, green, blue." in card.text
    assert "huggingface.co" not in card.text
    assert "5 of 5 optimizer steps, 1.667 epochs." in card.text
    assert row(card, "`learning_rate`") == ["0.01"]
    assert row(card, "`alignment`") == ["conditional"]
    assert 'pipeline("text-classification", "run")' in card.text
    assert f"- Transformers {__import__('transformers').__version__}" in card.text


def test_what_the_user_says_of_the_model(tmp_path):
    given = {"language": ["en", "de"], "license": "mit", "tags": "mine", "model_name": "Mine", "dataset": "org/data"}
    _, card = trained(tmp_path, card={**given, "finetuned_from": "org/base", "tasks": "image-classification"})
    data = card.data
    assert (data.language, data.license, data.datasets) == (["en", "de"], "mit", ["org/data"])
    assert (data.base_model, data.pipeline_tag, data.tags[0]) == ("org/base", "image-classification", "mine")
    assert data.eval_results[0].dataset_type == "org/data"
    assert data.eval_results[0].dataset_revision is None
    assert "# Mine\n" in card.text
    assert "An image classifier, fine-tuned from [org/base](https://huggingface.co/org/base) on [org/data]" in card.text


@pytest.mark.parametrize("family", ["Toy", "ViT", "regression", "multi-label", "lora"])
def test_kinds_of_models(family, tmp_path):
    wanted = {
        "Toy": (None, "A model.", None),
        "ViT": ("image-classification", "An image classifier.", None),
        "regression": ("text-classification", "A text classifier.", 'classify("...", function_to_apply="none")'),
        "multi-label": ("text-classification", "A text classifier.", 'classify("...", top_k=None)'),
        "lora": ("text-classification", "A text classifier (lora adapter).", "AutoPeftModelForSequenceClassification"),
    }[family]
    problem = {"regression": "regression", "multi-label": "multi_label_classification"}.get(family)
    settings = {"problem_type": problem, "num_labels": 1 if problem == "regression" else 3} if problem else {}
    model = Toy() if family == "Toy" else build("ViT" if family == "ViT" else "Bert", **settings)
    if family == "lora":
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"], r=2))
    trainer_of(tmp_path, model, alignment="joint").create_model_card()
    card = card_of(tmp_path)
    assert (card.data.pipeline_tag, card.data.library_name) == (wanted[0], "peft" if family == "lora" else "transformers")
    assert f"\n{wanted[1]}\n" in card.text
    assert wanted[2] in card.text if wanted[2] else "## Use" not in card.text
    assert ("Labels: " in card.text) == (family not in ("Toy", "regression"))
    assert card.data.model_name is card.data.eval_results is None
    assert "No evaluation was run." in card.text
    assert "It has not been trained in this run." in card.text


@pytest.mark.parametrize("kind", ["weight 0", "mixin alone", "TrainingArguments"])
def test_only_a_run_with_alignment_is_said_to_be_one(kind, tmp_path):
    trainer = trainer_of(tmp_path, matching_weight=float(kind != "weight 0"))
    if kind == "mixin alone":
        trainer = PlainTrainer(Toy(), config(tmp_path), train_dataset=toy_examples(12))
    elif kind == "TrainingArguments":
        args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
        trainer = ITRATrainer(Toy(), args, train_dataset=toy_examples(12))
    Path(tmp_path, "README.md").write_text("---\ntags: [itra, 'arxiv:2211.13332', mine]\n---\nMy text", encoding="utf-8")
    trainer.create_model_card()
    card, aligned = card_of(tmp_path), kind == "TrainingArguments"
    assert set(card.data.tags) == {"mine", "generated_from_trainer", *(["itra", "arxiv:2211.13332"] if aligned else [])}
    for part in ("## Citation", "2211.13332", "`matching_weight` | 0.1", "aligned the features of two mini-batches"):
        assert (part in card.text) == aligned
    assert ("without alignment" in card.text) != aligned


# ---- Where model and data come from ----


def hub_data(count=12):
    data = Dataset.from_list([{"input_ids": [3, 4, i % 3], "labels": i % 3} for i in range(count)])
    data.info.download_checksums = HUB_FILES
    return data


def test_a_data_set_of_the_hub_is_known_whatever_was_done_to_it():
    data, known = hub_data(), HubSource("org/data", REVISION)
    assert dataset_of(Dataset.from_list([{"a": 1}])) is None
    assert dataset_of(toy_examples(2)) is None
    assert dataset_of(data) == dataset_of(data.to_iterable_dataset()) == known
    changed = data.map(lambda one: {"more": one["labels"]}).filter(lambda one: one["labels"] < 2)
    assert dataset_of(changed) == dataset_of(changed.train_test_split(0.5)["test"].shuffle()) == known
    local = hub_data()
    local.info.download_checksums = {"https://example.org/train.csv": None}
    assert dataset_of(local) is None
    local.info.download_checksums = {**HUB_FILES, f"hf://datasets/org/other@{REVISION}/train.parquet": None}
    assert dataset_of(concatenate_datasets([data, local])) is None


def test_results_name_the_data_set_that_they_were_measured_on(tmp_path):
    own = Dataset.from_list(hub_data()[:6] and list(hub_data())[:6])
    keywords = {"eval_dataset": {"hub": hub_data(), "own": own}}
    trainer, card = trained(tmp_path / "1", build("Bert"), data=hub_data(), keywords=keywords, eval_strategy="steps")
    assert card.data.datasets == ["org/data"]
    assert f"on [org/data](https://huggingface.co/datasets/org/data) (revision `{REVISION[:8]}`)" in card.text
    trainer.evaluate()
    trainer.predict(own)
    trainer.create_model_card()
    found = {one.dataset_split: (one.dataset_type, one.dataset_revision) for one in card_of(tmp_path / "1").data.eval_results}
    unknown = ("unknown", None)
    assert found == {"eval_hub": ("org/data", REVISION), "eval_own": unknown, "test": unknown}


def test_a_model_of_a_folder_that_is_gone_is_not_taken_for_one_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build("Bert").save_pretrained("org/base")
    model = BertForSequenceClassification.from_pretrained("org/base")
    assert base_model_of(model) is base_model_of(build("Bert")) is base_model_of(Toy()) is None
    shutil.rmtree("org")
    assert base_model_of(model) is None


# ---- Which figures ----


def test_figures_that_are_not_finite(tmp_path):
    figures = {"loss": math.nan, "accuracy": 1.0, "own": math.inf}
    card = write(tmp_path, evaluations={"eval": Evaluation(figures, 3)})
    assert results(card) == {("eval", "Accuracy"): 1.0}
    assert (row(card, "Loss"), row(card, "own")) == (["not finite"], ["not finite"])
    assert results(write(tmp_path, evaluations={"eval": Evaluation({"loss": math.nan}, 3)})) == {}


class Diverge(TrainerCallback):
    """Spoils the weights after the first step."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.body[0].weight.data.fill_(math.nan)


@pytest.mark.parametrize("filtered", [True, False])
def test_a_run_that_diverged_still_gets_its_card(filtered, tmp_path):
    settings = {"matching_weight": 0.0, "eval_compactness": True, "eval_strategy": "steps", "eval_steps": 2}
    keywords = {"callbacks": [Diverge()]}
    _, card = trained(tmp_path, Toy(), keywords=keywords, logging_nan_inf_filter=filtered, **settings)
    assert row(card, "Loss") == ["not finite"]


def scripted(scores):
    """A `compute_metrics` that returns these one after the other."""
    rest = iter(scores)
    return lambda prediction: {"score": next(rest)}


def test_figures_are_those_of_the_weights_that_are_published(tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_a_score", "greater_is_better": True}
    steps = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    sets = {name: toy_examples(6) for name in "ab"}
    # of the sets a, b after each step, then of the evaluation, of the prediction
    scores = scripted([0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    keywords = {"eval_dataset": sets, "compute_metrics": scores}
    trainer, card = trained(tmp_path, Toy(), keywords=keywords, **best, **steps)
    shown = {split: value for (split, name), value in results(card).items() if name == "score"}
    assert shown == {"eval_a": 0.9, "eval_b": 0.3}
    assert row(card, "metric") == ["eval_a (after step 2 of 3)", "eval_b (after step 2 of 3)"]
    assert "the weights are those after step 2." in card.text
    trainer.evaluate()
    trainer.predict(sets["a"])
    trainer.create_model_card()
    card = card_of(tmp_path)
    assert (row(card, "metric"), row(card, "score")) == (["eval_a", "eval_b", "test"], ["0.6", "0.7", "0.8"])


def test_the_last_evaluation_counts_without_a_best_checkpoint():
    def entry(step, value, name="eval"):
        return {f"{name}_loss": value, f"{name}_runtime": 1.0, f"{name}_samples_per_second": 2.0, "step": step}

    end = {"train_runtime": 1.0, "train_loss": 2.0, "step": 4}
    history = [entry(0, 0.9), entry(2, 0.5), {"loss": 1.0, "step": 3}, entry(4, 0.6), end]
    assert evaluations(history, None) == {"eval": Evaluation({"loss": 0.6}, 4)}
    assert evaluations(history, 2) == {"eval": Evaluation({"loss": 0.5}, 2)}
    assert evaluations([*history, entry(4, 0.7), entry(4, 0.8, "x")], 2) == {
        "eval": Evaluation({"loss": 0.7}, 4),
        "x": Evaluation({"loss": 0.8}, 4),
    }
    assert evaluations(history[:2], 2) == {"eval": Evaluation({"loss": 0.5}, 2)}
    assert evaluations([], None) == evaluations([end], None) == {}


def test_predictions_of_an_earlier_run_are_forgotten(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.predict(toy_examples(6))
    trainer.train()
    trainer.create_model_card()
    assert results(card_of(tmp_path)) == {}


# ---- What stays of an existing README ----


def test_what_the_user_wrote_stays_around_the_generated_part(tmp_path):
    card = write(tmp_path, MINE)
    assert card.text.split(BEGIN)[0].strip() == "# My model\n\nRead this first."
    path = tmp_path / "README.md"
    edited = path.read_text(encoding="utf-8").replace("## Results", "## My results") + "\n## After\n\n| x |\n"
    for changes in ({}, {"license": None}):
        card = write(tmp_path, edited, base_model=HubSource("org/base", ""), **changes)
        assert card.text.split(BEGIN)[0].strip() == "# My model\n\nRead this first."
        assert card.text.split(END)[1].strip() == "## After\n\n| x |"
        assert "## Results" in card.text
        assert "## My results" not in card.text
        assert (card.data.license, card.data.language, card.data.custom) == ("mit", "de", [1, {"a": "b"}])
        assert card.data.tags == ["mine", "generated_from_trainer", "itra", "arxiv:2211.13332"]
    assert write(tmp_path, license="apache-2.0").data.license == "apache-2.0"


def test_the_remote_card_counts_where_the_local_one_has_nothing_of_the_users(tmp_path):
    generated = write(tmp_path).content
    remote = generated.replace("library_name", "license: mit\nlibrary_name") + "\nFrom the web.\n"
    for readme in (None, generated):
        (tmp_path / "README.md").unlink(missing_ok=True)
        card = write(tmp_path, readme, remote)
        assert card.text.split(END)[1].strip() == "From the web."
        assert card.data.license == "mit"
    assert "Read this first." in (card := write(tmp_path, MINE, remote)).text
    assert "From the web." not in card.text


def test_metadata_alone_that_changed_on_the_web_stays(tmp_path):
    remote = write(tmp_path).content.replace("library_name", "license: mit\ncustom: yes!\nlibrary_name")
    data = write(tmp_path, remote=remote).data
    assert (data.license, data.get("custom")) == ("mit", "yes!")


def test_a_second_edit_on_the_web_stays_too(tmp_path):
    remote = write(tmp_path).content + "\nFirst edit.\n"
    local = write(tmp_path, remote=remote).content
    card = write(tmp_path, remote=local.replace("First edit.", "Second edit."))
    assert card.text.split(END)[1].strip() == "Second edit."


def test_the_users_licence_goes_before_the_base_models(tmp_path, monkeypatch):
    monkeypatch.setattr("itra_hf.card_facts.base_model_of", lambda model: HubSource("org/base", ""))
    monkeypatch.setattr("itra_hf.card_facts.license_of", lambda name, token: "apache-2.0")
    trainer = trainer_of(tmp_path)
    for readme, given, wanted in ((None, {}, "apache-2.0"), (MINE, {}, "mit"), (MINE, {"license": "bsd"}, "bsd")):
        if readme:
            (tmp_path / "README.md").write_text(readme, encoding="utf-8")
        trainer.create_model_card(**given)
        assert card_of(tmp_path).data.license == wanted
