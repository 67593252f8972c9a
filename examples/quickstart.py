"""Trainer and ITRATrainer side by side: MiniLM on the Reuters R8 news categories, from packages, without a hub.

Writes the fine-tuned models, ITRATrainer's with a model card, and pictures of both runs' features.
"""

import argparse
import math
import os
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing below needs the Hub

import pandas as pd
import yaml
from datasets import disable_progress_bars
from packaged import MODEL, load_classifier, load_tokenizer, read_split, sample_rows, to_dataset
from transformers import Trainer, TrainingArguments, pipeline, set_seed
from transformers.utils import logging

from itra_hf import ITRAConfig, ITRATrainer
from itra_hf.features import extract_features
from itra_hf.reports import plots
from itra_hf.reports.compactness import compactness
from itra_hf.text.metrics import compute_metrics_for

OUTPUT = os.path.join("outputs", "quickstart")


def fine_tune(trainer_class, args, labels, tokenizer, train, test) -> tuple[dict, tuple]:
    """One run; returns its row of the table, and the test features with their classes."""
    steps = math.ceil(len(train) / args.train_batch_size) * args.num_train_epochs
    print(f"\nFine-tuning with {trainer_class.__name__}: {steps:.0f} steps, then the test documents ...", flush=True)
    set_seed(args.seed)
    trainer = trainer_class(
        model=load_classifier(labels),
        args=args,
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
        compute_metrics=compute_metrics_for("single_label_classification"),
    )
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer_class is ITRATrainer:
        trainer.create_model_card(language="en", license="apache-2.0")
    features = extract_features(trainer.model, trainer.get_eval_dataloader())
    scatter = compactness(*features)["scatter_ratio"]
    row = {
        "": trainer_class.__name__,
        "test accuracy": f"{metrics['eval_accuracy']:.4f}",
        "test macro-F1": f"{metrics['eval_f1_macro']:.4f}",
        "test loss": f"{metrics['eval_loss']:.4f}",
        "test calibration error": f"{metrics['eval_calibration_error']:.4f}",
        "within / between scatter": f"{scatter:.4f}",
    }
    return row, features


def settings(name: str, options) -> dict:
    """The arguments that both runs share."""
    return {
        "output_dir": os.path.join(OUTPUT, name),
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 64,
        "learning_rate": 1e-4,
        "num_train_epochs": options.epochs,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": False,
        "seed": options.seed,
    }


def draw(sets: dict, labels: list[str]) -> None:
    """Pictures of the runs' test features, side by side."""
    for name, figure in (
        ("feature_map", plots.feature_map(sets, labels)),
        ("class_scatter", plots.class_scatter(sets, labels)),
    ):
        path = os.path.join(OUTPUT, f"{name}.png")
        figure.savefig(path)
        print(f"Picture of both runs' test features: {path}")


def write_comparison(tables: dict[str, pd.DataFrame]) -> str:
    """Files for `itra-hf compare`, on a few of the documents; returns the command."""
    settings = {"model_name_or_path": MODEL, "output_dir": os.path.join(OUTPUT, "compare"), "seeds": [1, 2, 3]}
    for split, table in tables.items():
        settings[f"{split}_file"] = os.path.join(OUTPUT, f"{split}.csv")
        table.rename(columns={"Text": "text", "Category": "label"})[["text", "label"]].to_csv(
            settings[f"{split}_file"], index=False
        )
    settings |= {"max_train_samples": [200], "max_predict_samples": 500, "max_seq_length": 32, "use_cpu": True}
    settings |= {"num_train_epochs": 8, "learning_rate": 2e-4, "per_device_train_batch_size": 16}
    path = os.path.join(OUTPUT, "compare.yaml")
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(settings, file, sort_keys=False)
    return f"{sys.executable} -m itra_hf compare {path} --processes 2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train_samples", type=int, default=1000, help="how many of the 5,485 documents to train on")
    parser.add_argument("--test_samples", type=int, default=1000, help="how many of the 2,189 documents to test on")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    logging.set_verbosity_error()  # hides the note that the head starts from scratch

    labels = sorted(set(read_split("reuters-r8", "train").Category))
    train = sample_rows(read_split("reuters-r8", "train"), options.train_samples, options.seed)
    test = sample_rows(read_split("reuters-r8", "test"), options.test_samples, options.seed)
    tokenizer = load_tokenizer()
    disable_progress_bars()
    data = [to_dataset(table, labels, tokenizer, max_length=64) for table in (train, test)]
    print(f"Reuters R8: {len(train)} documents to train on, {len(test)} to test on, {len(labels)} categories.")

    plain_args = TrainingArguments(**settings("Trainer", options))
    itra_args = ITRAConfig(eval_compactness=True, **settings("ITRATrainer", options))
    plain, plain_features = fine_tune(Trainer, plain_args, labels, tokenizer, *data)
    itra, itra_features = fine_tune(ITRATrainer, itra_args, labels, tokenizer, *data)
    print(f"\n{pd.DataFrame([plain, itra]).set_index('').T.to_string()}")
    print("One seed; the scatter ratio says how compact the test features are, lower is more compact.\n")

    draw({"Trainer": plain_features, "ITRATrainer": itra_features}, labels)
    folder = os.path.join(OUTPUT, "ITRATrainer")
    print(f"Model card: {os.path.join(folder, 'README.md')}\n")
    text = test.Text.iloc[0]
    answer = pipeline("text-classification", folder)(text, truncation=True)[0]
    print(f'pipeline("text-classification", "{folder}") reads the saved folder without itra_hf:')
    print(f"  {text[:70]!r}... -> {answer['label']} ({answer['score']:.2f}); truly {test.Category.iloc[0]}")
    print("\nOne run says little. Three paired seeds on 200 of these documents, some minutes:")
    print(f"  {write_comparison({'train': train, 'test': test})}")


if __name__ == "__main__":
    main()
