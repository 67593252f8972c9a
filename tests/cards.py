"""Model cards of runs and of made-up facts, and what stands in them."""

import re
from pathlib import Path

from fake_hub import card_errors
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from trainers import Toy, config, toy_examples

from itra_hf import ITRATrainer
from itra_hf.hub.card import write_card
from itra_hf.hub.facts import CardFacts, Evaluation

REVISION = "0123456789" * 4
TAGS = ["generated_from_trainer", "itra", "arxiv:2211.13332"]
PROBLEM, TASK = "single_label_classification", "text-classification"
FACTS = {"name": "name", "task": TASK, "problem_type": PROBLEM, "labels": ["red"], "location": "user/name", "step": 3}
FACTS |= dict.fromkeys(("adapter", "base_model", "base_license"))
FACTS |= {"tags": TAGS[:1], "progress": "3 steps.", "settings": {"matching_weight": 0.1}}
FACTS |= {"said": {}, "datasets": [], "compactness": {}, "pictures": {}, "versions": {}}
FACTS |= {"hyperparameters": {"seed": 1}, "evaluations": {"eval": Evaluation({"loss": 0.5, "accuracy": 0.75}, 3)}}


def card_of(folder):
    """The card in a folder, if the Hub would take it and its pictures exist."""
    text = Path(folder, "README.md").read_text(encoding="utf-8")
    assert card_errors(text) == []
    assert not re.search(r"\b(None|nan|inf)\b", text.replace("top_k=None", ""))
    for link in re.findall(r"(?<!\\)\]\(([^)]*)\)", text):
        assert link.startswith("https://") or link == "j" or Path(folder, link).is_file(), link
    return ModelCard.load(Path(folder, "README.md"))


def write(folder, readme=None, remote=None, **changes):
    """The card of made-up facts, written over a README; without one, over what is there."""
    path = Path(folder, "README.md")
    if readme is not None:
        path.write_bytes(readme.encode())
    write_card(path, CardFacts(**{**FACTS, **changes}), remote)
    return card_of(folder)


def trainer_of(folder, model=None, data=None, **settings):
    names = ("eval_dataset", "compute_metrics", "callbacks")
    keywords = {"eval_dataset": data or toy_examples(12)} | {key: settings.pop(key) for key in names if key in settings}
    return ITRATrainer(model or Toy(), config(folder, **settings), train_dataset=data or toy_examples(12), **keywords)


def trained(folder, *args, card=None, **settings):
    trainer = trainer_of(folder, *args, **settings)
    trainer.train()
    trainer.create_model_card(**(card or {}))
    return trainer, card_of(folder)


def with_lora(model):
    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"], r=2))


def results(card):
    return {(one.dataset_split, one.metric_name): one.metric_value for one in card.data.eval_results or []}


def tables(text):
    """The lines of all tables, each split at the bars that Markdown sees."""
    lines = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1]] for line in lines]


def row(card, name):
    return next(line[1:] for line in tables(card.text) if line[0] == name)


THEIRS = """---
model-index:
- name: name
  results:
  - {task: {type: text-classification}, dataset: {type: unknown, name: unknown, split: old},
     metrics: [{type: f1, value: 0.25, name: Macro F1}], SOURCE}
  - {task: {type: text-classification}, dataset: {type: org/other, name: other, split: test},
     metrics: [{type: accuracy, value: 0.125, name: Accuracy}], source: {url: "https://b.org", name: a board}}
---
"""


def write_all(folder, readme=None, remote=None, **changes):
    """The card's front matter and text, after a check that writing it again, twice, leaves it as it is."""
    path = Path(folder, "README.md")
    if readme is not None:
        path.write_text(readme, encoding="utf-8")
    write_card(path, CardFacts(**{**FACTS, **changes}), remote)
    content = path.read_bytes()
    for _ in range(2):
        write_card(path, CardFacts(**{**FACTS, **changes}))
        assert path.read_bytes() == content
    block, text = content.decode().removeprefix("---\n").split("\n---\n", 1)
    return block, text


def metadata(folder, block, **changes):
    return write_all(folder, f"---\n{block}\n---\n\nMine.\n", **changes)[0]
