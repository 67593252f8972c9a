"""Model cards: what they claim of a run, what they keep of the user's, and what odd names and figures do to them."""

import math
import shutil
import sys

import pytest
from cards import REVISION, TAGS, TASK, card_of, results, row, trained, trainer_of, with_lora, write
from datasets import Dataset, concatenate_datasets
from families import build, examples
from trainers import Toy, config, toy_examples
from transformers import BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import itra_hf.reports
from itra_hf import AlignmentArguments, ITRATrainer
from itra_hf.hub.facts import Evaluation, HubSource, base_model_of, dataset_of, evaluations
from itra_hf.hub.publishing import ReportingMixin

HUB_FILES = {f"hf://datasets/org/data@{REVISION}/train.parquet": None}


# ---- What a run is said to be ----


def test_a_run_on_data_and_a_model_of_no_known_origin(tmp_path):
    model = build("Bert", id2label={0: "red", 1: "green", 2: "blue"})
    trainer = trainer_of(tmp_path / "run", model, examples("Bert", 12), max_steps=5)
    trainer.train()
    measured = trainer.evaluate()
    trainer.create_model_card()
    card = card_of(tmp_path / "run")
    assert results(card) == {("eval", "Loss"): measured["eval_loss"]}
    assert row(card, "Loss") == [f"{measured['eval_loss']:.4g}"]
    data = card.data.to_dict()
    unknown = {"name": "unknown", "type": "unknown", "split": "eval"}
    assert [one["dataset"] for one in data.pop("model-index")[0]["results"]] == [unknown]
    assert data == {"library_name": "transformers", "pipeline_tag": TASK, "tags": TAGS}
    for part in ("Labels: red, green, blue.", "5 of 5 optimizer steps, 1.667 epochs.", f'pipeline("{TASK}", "'):
        assert part in card.text
    assert "huggingface.co" not in card.text
    assert (row(card, "`learning_rate`"), row(card, "`alignment`")) == (["0.01"], ["conditional (auto)"])


def test_a_decay_that_was_left_open_is_told_as_it_was(tmp_path):
    settings = {"max_steps": 12, "companion_decay": None}
    trainer = trainer_of(tmp_path / "run", build("Bert"), examples("Bert", 12), **settings)
    trainer.train()
    trainer.create_model_card()
    assert row(card_of(tmp_path / "run"), "`companion_decay`") == ["0.75 (auto)"]


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 5


def test_a_run_that_stops_early_tells_the_decay_of_its_last_step(tmp_path):
    settings = {"max_steps": 100, "companion_decay": None, "callbacks": [Stop()]}
    trainer = trainer_of(tmp_path / "run", build("Bert"), examples("Bert", 12), **settings)
    trainer.train()
    trainer.create_model_card()
    card = card_of(tmp_path / "run")
    assert row(card, "`companion_decay`") == ["0.8 (auto)"]
    assert "5 of 100 optimizer steps" in card.text


def test_a_run_that_goes_on_with_a_shorter_plan_tells_what_was_done(tmp_path):
    settings = {"companion_decay": None, "save_strategy": "steps", "save_steps": 12}
    trainer_of(tmp_path / "run", build("Bert"), examples("Bert", 12), max_steps=12, **settings).train()
    trainer = trainer_of(tmp_path / "run", build("Bert"), examples("Bert", 12), max_steps=8, **settings)
    trainer.train(resume_from_checkpoint=True)
    trainer.create_model_card()
    card = card_of(tmp_path / "run")
    assert row(card, "`companion_decay`") == ["0.75 (auto)"]
    assert "12 of 12 optimizer steps" in card.text


def test_what_the_user_says_of_the_model(tmp_path):
    given = {"language": ["en", "de"], "license": "mit", "tags": "mine", "model_name": "Mine", "dataset": "org/data"}
    given |= {"finetuned_from": "org/base", "tasks": "image-classification"}
    _, card = trained(tmp_path, card=given, eval_strategy="epoch")
    data = card.data
    assert (data.language, data.license, data.datasets) == (["en", "de"], "mit", ["org/data"])
    assert (data.base_model, data.pipeline_tag, data.tags) == ("org/base", "image-classification", ["mine", *TAGS])
    assert {(one.dataset_type, one.dataset_revision) for one in data.eval_results} == {("org/data", None)}
    assert "# Mine\n" in card.text
    assert "An image classifier, fine-tuned from [org/base](https://huggingface.co/org/base) on [org/data]" in card.text


KINDS = {
    "Toy": (None, "A model", None),
    "ViT": ("image-classification", "An image classifier", None),
    "regression": (TASK, "A text classifier", 'classify("...", truncation=True, function_to_apply="none")'),
    "multi_label_classification": (TASK, "A text classifier", 'classify("...", truncation=True, top_k=None)'),
    "lora": (TASK, "A text classifier (lora adapter)", "AutoPeftModelForSequenceClassification"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_models(kind, tmp_path):
    task, title, snippet = KINDS[kind]
    settings = (
        {"problem_type": kind, "num_labels": 1 if kind == "regression" else 3} if kind.startswith(("r", "m")) else {}
    )
    model = Toy() if kind == "Toy" else build("ViT" if kind == "ViT" else "Bert", **settings)
    trainer_of(tmp_path, with_lora(model) if kind == "lora" else model, alignment="joint").create_model_card()
    card = card_of(tmp_path)
    assert (card.data.pipeline_tag, card.data.library_name == "peft") == (task, kind == "lora")
    assert snippet in card.text if snippet else "## Use" not in card.text
    assert ("Labels: " in card.text) == (kind not in ("Toy", "regression"))
    assert card.data.model_name is card.data.eval_results is None
    for part in (f"\n{title}.\n", "No evaluation was run.", "It has not been trained in this run."):
        assert part in card.text


@pytest.mark.parametrize("kind", ["weight 0", "mixin alone", "TrainingArguments"])
def test_only_a_run_with_alignment_is_said_to_be_one(kind, tmp_path):
    args, trainer_class = config(tmp_path, matching_weight=float(kind != "weight 0")), ITRATrainer
    if kind == "mixin alone":
        trainer_class = type("PlainTrainer", (ReportingMixin, Trainer), {})
    elif kind == "TrainingArguments":
        args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, max_steps=12)
    (tmp_path / "README.md").write_text("---\ntags: [itra, 'arxiv:2211.13332', mine]\n---\nMy text", encoding="utf-8")
    trainer = trainer_class(Toy(), args, train_dataset=toy_examples(12))
    trainer.train()
    trainer.create_model_card()
    card, aligned = card_of(tmp_path), kind == "TrainingArguments"
    assert set(card.data.tags) == {"mine", *(TAGS if aligned else TAGS[:1])}
    for part in (
        "## Citation",
        "2211.13332",
        f"`matching_weight` | {AlignmentArguments.matching_weight}",
        "aligned the features of mini-batches",
    ):
        assert (part in card.text) == aligned
    assert ("without alignment" in card.text) != aligned


# ---- Where model and data come from ----


def hub_data(files=HUB_FILES):
    data = Dataset.from_list([{"input_ids": [3, 4, i % 3], "labels": i % 3} for i in range(12)])
    data.info.download_checksums = files
    return data


def test_a_data_set_of_the_hub_is_known_whatever_was_done_to_it():
    data, known = hub_data(), HubSource("org/data", REVISION)
    changed = data.map(lambda one: {"more": one["labels"]}).filter(lambda one: one["labels"] < 2)
    stream = data.to_iterable_dataset()
    stream.info.download_checksums = HUB_FILES
    for one in (data, changed, changed.train_test_split(0.5)["test"].shuffle(), stream.map(lambda one: one)):
        assert dataset_of(one) == known
    other = {f"hf://datasets/org/other@{REVISION}/train.parquet": None}
    urls = {"https://example.org/train.csv": None}, {"hf://datasets/org/data@main/train.parquet": None}, None
    both = concatenate_datasets([data, hub_data(other)])
    for one in (toy_examples(2), both, *map(hub_data, (*urls, {**HUB_FILES, **other}))):
        assert dataset_of(one) is None


def test_results_name_the_data_set_that_they_were_measured_on(tmp_path):
    sets, unknown = {"hub": hub_data(), "own": hub_data(None)}, ("unknown", None)
    trainer, card = trained(tmp_path, build("Bert"), hub_data(), eval_dataset=sets)
    assert card.data.datasets == ["org/data"]
    assert f"on [org/data](https://huggingface.co/datasets/org/data) (revision `{REVISION[:8]}`)" in card.text
    trainer.evaluate()
    trainer.predict(sets["own"])
    trainer.create_model_card()
    shown = card_of(tmp_path).data.eval_results
    found = {one.dataset_split: (one.dataset_type, one.dataset_revision) for one in shown}
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
    card = write(tmp_path, evaluations={"eval": Evaluation({"loss": math.nan, "accuracy": 1.0, "own": math.inf}, 3)})
    assert results(card) == {("eval", "Accuracy"): 1.0}
    assert row(card, "Loss") == row(card, "own") == ["not finite"]
    assert results(write(tmp_path, evaluations={"eval": Evaluation({"loss": math.nan}, 3)})) == {}


class Diverge(TrainerCallback):
    """Spoils the weights after the first step."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.body[0].weight.data.fill_(math.nan)


@pytest.mark.parametrize("filtered", [True, False])
def test_a_run_that_diverged_still_gets_its_card(filtered, tmp_path):
    settings = {"matching_weight": 0.0, "eval_compactness": True, "eval_strategy": "steps", "eval_steps": 2}
    _, card = trained(tmp_path, callbacks=[Diverge()], logging_nan_inf_filter=filtered, logging_steps=3, **settings)
    assert row(card, "Loss") == ["not finite"]


def test_figures_are_those_of_the_weights_that_are_published(tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_a_score", "greater_is_better": True}
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    # of the sets a and b after each step, then of both again, then of the prediction
    scores = iter([0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    keywords = {"eval_dataset": dict.fromkeys("ab", toy_examples(6)), "compute_metrics": lambda _: {"x": next(scores)}}
    best["metric_for_best_model"] = "eval_a_x"
    trainer, card = trained(tmp_path, card={"tasks": TASK}, **keywords, **best, **steps)
    assert {split: value for (split, name), value in results(card).items() if name == "x"} == {
        "eval_a": 0.9,
        "eval_b": 0.3,
    }
    assert row(card, "metric") == ["eval_a (after step 2 of 3)", "eval_b (after step 2 of 3)"]
    assert "the weights are those after step 2." in card.text
    trainer.evaluate()
    trainer.predict(toy_examples(6))
    trainer.create_model_card()
    card = card_of(tmp_path)
    assert (row(card, "metric"), row(card, "x")) == (["eval_a", "eval_b", "test"], ["0.6", "0.7", "0.8"])
    trainer.compute_metrics = None
    trainer.args.load_best_model_at_end, trainer.args.eval_strategy = False, "no"
    trainer.train()
    trainer.create_model_card()
    assert results(card_of(tmp_path)) == {}  # nothing is known of the new weights


def test_which_evaluations_of_the_history_count():
    def entry(step, value, name="eval"):
        return {f"{name}_loss": value, f"{name}_runtime": 1.0, f"{name}_samples_per_second": 2.0, "step": step}

    end = {"train_runtime": 1.0, "train_loss": 2.0, "step": 4}
    history = [entry(0, 0.9), entry(2, 0.5), {"loss": 1.0, "step": 3}, entry(4, 0.6), end]
    last, best = Evaluation({"loss": 0.6}, 4), Evaluation({"loss": 0.5}, 2)
    later = [entry(4, 0.7), entry(4, 0.8, "x")]
    assert evaluations(history, None) == {"eval": last}
    assert evaluations(history, 2) == evaluations(history[:2], 2) == {"eval": best}
    assert {name: one.metrics["loss"] for name, one in evaluations(history + later, 2).items()} == {
        "eval": 0.7,
        "x": 0.8,
    }
    assert evaluations([], None) == evaluations([end], None) == {}


# ---- Pictures ----


def test_without_matplotlib_a_warning_takes_the_pictures_place(tmp_path, monkeypatch, caplog):
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "itra_hf.reports.plots", raising=False)
    monkeypatch.delattr(itra_hf.reports, "plots", raising=False)
    trainer, card = trained(tmp_path)
    trainer.create_model_card()
    assert "![" not in card.text
    assert not (tmp_path / "figures").exists()
    assert caplog.text.count("The model card has no pictures: itra_hf.reports.plots needs matplotlib") == 1


def test_the_map_is_of_the_features_that_the_table_is_of(tmp_path):
    settings = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_compactness": True,
    }
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_x", "greater_is_better": True}
    scores = iter([0.9, 0.2, 0.1, 0.9])
    keywords = {"compute_metrics": lambda _: {"x": next(scores)}}
    trainer, card = trained(tmp_path, **keywords, **settings, **best)
    assert "feature_map" not in card.text  # the last features seen are not those of the weights that were kept
    trainer.evaluate()
    trainer.create_model_card()
    assert "feature_map" in card_of(tmp_path).text
