"""The job behind `itra-hf train`: data in, fine-tuned classifier and its metrics out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.trainer_utils import HubStrategy

from .config import ITRAConfig
from .data import ROW, DataArguments, Task, cut_validation, encode_labels, infer_task, load_splits, subset, tokenize
from .metrics import compute_metrics_for
from .trainer import ITRATrainer

PREDICTIONS_NAME = "test_predictions.csv"


@dataclass
class ModelArguments:
    """Which model to fine-tune, named as in the text-classification example of transformers."""

    model_name_or_path: str = field(metadata={"help": "A model on the Hub, or a folder."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Its tokenizer, if it is another's."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    model_revision: str = field(default="main", metadata={"help": "The branch, tag or commit on the Hub."})
    token: str | None = field(default=None, metadata={"help": "The Hub token; default: the one you logged in with."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Replace a head that was trained for other labels."}
    )
    language: str | None = field(default=None, metadata={"help": "For the model card: the texts' language, like en."})
    license: str | None = field(
        default=None,
        metadata={"help": "For the model card: the model's licence, like apache-2.0; default: the base model's."},
    )


def read_data(
    args: DataArguments, training_args: ITRAConfig, model_args: ModelArguments
) -> tuple[datasets.DatasetDict, Task]:
    """Reads the splits, encodes their labels and cuts a validation split where none is given.

    Returns:
        Whole splits with the text columns and `labels`, and the task.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: columns, splits or labels that don't fit; the message lists what there is.
    """
    splits = load_splits(args, model_args.cache_dir, model_args.token)
    task = infer_task(args, splits["train"])
    for name, data in splits.items():
        splits[name] = encode_labels(data, name, task, args)
    if "validation" not in splits:
        splits |= cut_validation(splits["train"], task, args.validation_fraction, _data_seed(training_args))
    return splits, task


def prepare_data(
    args: DataArguments, training_args: ITRAConfig, model_args: ModelArguments
) -> tuple[datasets.DatasetDict, Task]:
    """The splits of `read_data`, cut to the sizes that are asked for; the test split says which rows it has."""
    splits, task = read_data(args, training_args, model_args)
    if "test" in splits:
        splits["test"] = splits["test"].add_column(ROW, np.arange(len(splits["test"])))
    seed = _data_seed(training_args)
    parts = {name: subset(data, args.most_samples[name], seed) for name, data in splits.items()}
    return datasets.DatasetDict(parts), task


def _data_seed(args: ITRAConfig) -> int:
    return args.seed if args.data_seed is None else args.data_seed


def load_model(args: ModelArguments, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the classifier, with a head for the task's labels, and its tokenizer.

    A decoder without padding token gets its end-of-sequence token for it.
    """
    common: dict[str, Any] = {
        "cache_dir": args.cache_dir,
        "revision": args.model_revision,
        "token": args.token,
        "trust_remote_code": args.trust_remote_code,
    }
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name or args.model_name_or_path, **common)
    config = AutoConfig.from_pretrained(
        args.model_name_or_path,
        num_labels=len(task.label_names),
        id2label=dict(enumerate(task.label_names)),
        label2id={name: index for index, name in enumerate(task.label_names)},
        problem_type=task.problem_type,
        **common,
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model_name_or_path, config=config, ignore_mismatched_sizes=args.ignore_mismatched_sizes, **common
    )
    return model, tokenizer


def build_trainer(
    data_args: DataArguments, model_args: ModelArguments, training_args: ITRAConfig
) -> tuple[ITRATrainer, datasets.DatasetDict, Task]:
    """Everything up to the first training step.

    Returns:
        The trainer, the tokenised splits and the task.
    """
    set_seed(training_args.seed)  # the new head starts from it
    with training_args.main_process_first(desc="reading and tokenising the data"):
        splits, task = prepare_data(data_args, training_args, model_args)
        check_alignment_fits(training_args, task)
        model, tokenizer = load_model(model_args, task)
        longest = min(data_args.max_seq_length, tokenizer.model_max_length)
        for name, data in splits.items():
            splits[name] = tokenize(data, tokenizer, task, longest, data_args.preprocessing_num_workers)
    trainer = ITRATrainer(
        model=model,
        args=training_args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics_for(task.problem_type),
    )
    return trainer, splits, task


def check_alignment_fits(args: ITRAConfig, task: Task) -> None:
    """Checks the method's settings against the kind of labels.

    Raises:
        ValueError: a setting that needs one class a text, where there are several or numbers.
    """
    if task.problem_type == "single_label_classification":
        return
    if args.eval_compactness:
        raise ValueError(f"eval_compactness=True needs one class a text, and this is {task.problem_type}.")
    if args.matching_weight == 0:
        return
    if args.alignment == "conditional":
        raise ValueError(
            f"alignment='conditional' needs one class a text, and this is {task.problem_type}; 'marginal' works, "
            "and with matching_loss='mmd' 'joint'."
        )
    if args.companion == "class_matched":
        raise ValueError(
            f"companion='class_matched' needs one class a text, and this is {task.problem_type}; companion='sample' "
            "works."
        )


def card_details(data_args: DataArguments, model_args: ModelArguments) -> dict[str, Any]:
    """What only the arguments know of the model card, for `create_model_card`."""
    return {
        "language": model_args.language,
        "license": model_args.license,
        "finetuned_from": _on_hub(model_args.model_name_or_path),
        "dataset_tags": _on_hub(data_args.dataset_name),
    }


def _on_hub(name: str | None) -> str | None:
    return None if name is None or os.path.exists(name) else name


def finetune(trainer: ITRATrainer, splits: datasets.DatasetDict, task: Task, card: dict[str, Any]) -> dict[str, float]:
    """Trains, evaluates, tests and saves.

    The output folder gets the model with its tokenizer, `train_results.json`, `eval_results.json` and, with
    a test split, `test_results.json` and the predictions in `test_predictions.csv`, with the rows of the test file,
    counted from 0.

    Args:
        trainer: from `build_trainer`.
        splits: the tokenised splits.
        task: names the labels in the predictions.
        card: from `card_details`.

    Returns:
        The metrics of the validation split, and of the test split if it has labels.
    """
    if trainer.args.push_to_hub and trainer.args.hub_strategy != HubStrategy.END:
        trainer.create_model_card(**card)  # the cards at checkpoints keep what this one knows
    resume = trainer.args.resume_from_checkpoint
    result = trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    trainer.save_model(_internal_call=True)  # without a push, which has to wait for the results
    trainer.save_state()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    if "test" in splits:
        tests = splits["test"]
        rows = tests[ROW][:] if ROW in tests.column_names else range(len(tests))
        prediction = trainer.predict(tests.remove_columns(ROW) if ROW in tests.column_names else tests)
        tested = prediction.metrics or {}
        trainer.log_metrics("test", tested)
        trainer.save_metrics("test", tested)
        if trainer.is_world_process_zero():
            _write_predictions(os.path.join(str(trainer.args.output_dir), PREDICTIONS_NAME), prediction, task, rows)
        metrics |= tested
    return metrics


def publish(trainer: ITRATrainer, card: dict[str, Any]) -> None:
    """Writes the model card, and pushes the output folder where `push_to_hub` asks for it.

    Args:
        trainer: after `finetune`.
        card: from `card_details`.

    Raises:
        HfHubHTTPError, ConnectionError: see `ITRATrainer.push_to_hub`.
    """
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(**card)


def _write_predictions(path: str, prediction: Any, task: Task, rows: Sequence[int]) -> None:
    logits = prediction.predictions
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits)
    if task.problem_type == "regression":
        values: list[Any] = logits.reshape(-1).tolist()
    elif task.problem_type == "single_label_classification":
        values = [task.label_names[index] for index in logits.argmax(-1)]
    else:
        names = np.asarray(task.label_names, dtype=object)
        values = ["|".join(names[row > 0]) for row in logits]
    datasets.Dataset.from_dict({"index": list(rows), "prediction": values}).to_csv(path)
