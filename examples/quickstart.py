"""Trainer and ITRATrainer side by side: MiniLM on the Reuters R8 news categories, from packages, without a hub."""

import argparse
import os
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing below needs the Hub

import pandas as pd
from datasets import disable_progress_bars
from packaged import load_classifier, load_tokenizer, read_split, sample_rows, to_dataset
from transformers import Trainer, TrainingArguments, pipeline, set_seed
from transformers.utils import logging

from itra_hf import ITRAConfig, ITRATrainer
from itra_hf.compactness import compactness
from itra_hf.features import extract_features
from itra_hf.metrics import compute_metrics_for

OUTPUT = os.path.join("outputs", "quickstart")


def fine_tune(trainer_class, config_class, options, labels, tokenizer, train, test) -> dict:
    """One run; returns its row of the table."""
    print(f"\nFine-tuning with {trainer_class.__name__} ...", flush=True)
    set_seed(options.seed)
    model = load_classifier(labels)
    args = config_class(
        output_dir=os.path.join(OUTPUT, trainer_class.__name__),
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        learning_rate=1e-4,
        num_train_epochs=options.epochs,
        logging_steps=25,
        save_strategy="no",
        report_to="none",
        disable_tqdm=False,
        seed=options.seed,
    )
    trainer = trainer_class(
        model=model,
        args=args,
        train_dataset=train,
        processing_class=tokenizer,
        compute_metrics=compute_metrics_for("single_label_classification"),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    trainer.save_model()
    metrics = trainer.evaluate(test, metric_key_prefix="test")
    features, ids = extract_features(model, trainer.get_test_dataloader(test))
    scatter = compactness(features, ids)["scatter_ratio"]
    return {
        "": trainer_class.__name__,
        "test accuracy": f"{metrics['test_accuracy']:.4f}",
        "test macro-F1": f"{metrics['test_f1_macro']:.4f}",
        "test loss": f"{metrics['test_loss']:.4f}",
        "within / between scatter": f"{scatter:.4f}",
        "training seconds": f"{seconds:.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train_samples", type=int, default=1000, help="how many of the 5,485 documents to train on")
    parser.add_argument("--test_samples", type=int, default=2189, help="how many of the 2,189 documents to test on")
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

    rows = [
        fine_tune(Trainer, TrainingArguments, options, labels, tokenizer, *data),
        fine_tune(ITRATrainer, ITRAConfig, options, labels, tokenizer, *data),
    ]
    print(f"\n{pd.DataFrame(rows).set_index('').T.to_string()}")
    print("One seed; the scatter ratio says how compact the test features are, lower is more compact.\n")

    folder = os.path.join(OUTPUT, "ITRATrainer")
    text = test.Text.iloc[0]
    answer = pipeline("text-classification", folder)(text, truncation=True)[0]
    print(f'pipeline("text-classification", "{folder}") reads the saved folder without itra_hf:')
    print(f"  {text[:70]!r}... -> {answer['label']} ({answer['score']:.2f}); truly {test.Category.iloc[0]}")


if __name__ == "__main__":
    main()
