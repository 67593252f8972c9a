"""What needs no fine-tuning: logistic regression on TF-IDF and on frozen MiniLM, on the protocol's own documents.

    python -m examples.study references [CONDITION ...] [--seeds N]

Both see the same tokens of the same documents, wrong labels included, as the fine-tuned models. Figures go beside
theirs in `protocol/`; what is there is not made again.
"""

import argparse
import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing below needs the Hub

import numpy as np
import torch
from datasets import disable_progress_bars
from packaged import MODEL, load_tokenizer
from protocol import CONDITIONS, RESULTS, SEEDS, VARIANTS, runs_of
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from transformers import AutoModel, EvalPrediction
from transformers.utils import logging

from itra_hf.comparison.few_examples import few_example_accuracy
from itra_hf.comparison.plan import Run
from itra_hf.comparison.run import write_atomically
from itra_hf.comparison.selective import selective_figures
from itra_hf.comparison.spoiling import UNKNOWN, spoil
from itra_hf.comparison.unknown import unknown_auroc
from itra_hf.text.metrics import compute_metrics_for
from itra_hf.text.train import read_data

TFIDF, FROZEN = "tfidf", "frozen"
KINDS = ("few", "noise")  # of conditions, those with 200 documents
STRENGTHS = [1.0, 10.0, 100.0, 1000.0]  # the inverse of the regularisation, chosen by five-fold cross-validation
NO_CHANCE = -30.0  # log-probability of a class without training documents
FIGURES = ("accuracy", "f1_macro", "calibration_error")


def cut(texts: Sequence[str], tokens: int) -> list[str]:
    """What a model sees of the texts."""
    tokenizer = load_tokenizer()
    ids = tokenizer(list(texts), truncation=True, max_length=tokens)["input_ids"]
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


@cache
def encoder() -> Any:
    """MiniLM without a head."""
    return AutoModel.from_pretrained(MODEL).eval()


EMBEDDED: dict[str, np.ndarray] = {}  # by text, for seeds share documents


@torch.no_grad()
def embed(texts: Sequence[str]) -> np.ndarray:
    """Mean hidden states of length 1, `[n, 384]`, as the model's authors pool them."""
    missing = sorted({*texts} - EMBEDDED.keys(), key=len)
    tokenizer = load_tokenizer()
    for start in range(0, len(missing), 64):
        part = missing[start : start + 64]
        inputs = tokenizer(part, padding=True, truncation=True, max_length=512, return_tensors="pt")
        mask = inputs["attention_mask"][..., None]
        states = (encoder()(**inputs).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
        EMBEDDED.update(zip(part, torch.nn.functional.normalize(states, dim=1).numpy(), strict=True))
    return np.stack([EMBEDDED[text] for text in texts])


def fit(rows: Any, labels: np.ndarray, seed: int) -> LogisticRegression:
    """A regression with the regularisation that is most accurate on documents kept out of its folds."""
    search = GridSearchCV(
        LogisticRegression(max_iter=300, tol=1e-3), {"C": STRENGTHS}, cv=KFold(5, shuffle=True, random_state=seed)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return search.fit(rows, labels).best_estimator_


def log_probabilities(model: LogisticRegression, rows: Any, classes: int) -> np.ndarray:
    """`[n, classes]`."""
    found = np.full((rows.shape[0], classes), NO_CHANCE)
    found[:, model.classes_] = np.maximum(model.predict_log_proba(rows), NO_CHANCE)
    return found


def measure(run: Run, represent: Callable[..., tuple[Any, ...]], tokens: int) -> dict[str, float]:
    """The figures of one regression on the documents of a run.

    Args:
        run: a plain one.
        represent: gives the rows of the training, the tested and the left-out texts.
        tokens: what is seen of a text.
    """
    model_args, data_args, args = run.arguments("unused")
    splits, task, tested = spoil(run, *read_data(data_args, args, model_args), data_args)
    names = ["train", tested, *([UNKNOWN] if UNKNOWN in splits else [])]
    rows = represent(*(cut(splits[name]["text"][:], tokens) for name in names))
    train, labels, *unknown = (np.asarray(splits[name]["labels"][:]) for name in names)
    model = fit(rows[0], train, run.seed)
    known = log_probabilities(model, rows[1], len(task.label_names))
    figures = compute_metrics_for("single_label_classification")(EvalPrediction(known, labels))
    figures = {name: figures[name] for name in FIGURES} | selective_figures(known, labels)
    if unknown and isinstance(rows[2], np.ndarray):
        others = log_probabilities(model, rows[2], len(task.label_names))
        figures |= unknown_auroc(known, others, rows[1], rows[2], rows[0], train)
        figures |= {f"new_classes_{k}": few_example_accuracy(rows[2], unknown[0], k, run.seed) for k in (1, 5)}
    return {name: float(f"{value:.5g}") for name, value in figures.items()}


def tfidf(train: Sequence[str], *others: Sequence[str]) -> tuple[Any, ...]:
    """Words and pairs of words, weighted by what the training documents say."""
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return vectors.fit_transform(train), *(vectors.transform(texts) for texts in others)


def frozen(*texts: Sequence[str]) -> tuple[np.ndarray, ...]:
    """What MiniLM gives before any fine-tuning."""
    return tuple(embed(each) for each in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    possible = [name for name in CONDITIONS if name.startswith(KINDS)]
    parser.add_argument("names", nargs="*", metavar="CONDITION", help=f"of: {', '.join(possible)}")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many, from the first")
    options = parser.parse_args()
    disable_progress_bars()
    logging.set_verbosity_error()
    for name in options.names or possible:
        condition = CONDITIONS[name]
        for run in runs_of(name, SEEDS[: min(options.seeds, condition.seeds)], {"plain": VARIANTS["plain"]}):
            for variant, represent in ((TFIDF, tfidf), (FROZEN, frozen)):
                path = RESULTS / name / f"{variant}-{run.seed}.json"
                if not path.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    found = measure(run, represent, condition.tokens)
                    write_atomically(path, json.dumps({"variant": variant, "seed": run.seed, "figures": found}) + "\n")
                    print(name, variant, run.seed, f"{found['accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    main()
