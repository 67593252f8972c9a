"""The job behind `itra-hf train`: data in, fine-tuned classifier and its metrics out."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from transformers import set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import HubStrategy, get_last_checkpoint
from transformers.utils import logging

from ..config import ITRAConfig
from ..trainer import ITRATrainer
from .data import ROW, DataArguments, Task, cut_validation, encode_labels, infer_task, load_splits, subset, tokenize
from .metrics import compute_metrics_for
from .models import ModelArguments, fitting_length, load_model

logger = logging.get_logger(__name__)

PREDICTIONS_NAME = "test_predictions.csv"


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


def _data_seed(args: ITRAConfig) -> int:
    return args.seed if args.data_seed is None else args.data_seed


def build_trainer(
    data_args: DataArguments, model_args: ModelArguments, training_args: ITRAConfig
) -> tuple[ITRATrainer, datasets.DatasetDict, Task]:
    """Everything up to the first training step.

    Returns:
        The trainer, the tokenised splits and the task.
    """
    training_args.resume_from_checkpoint = find_checkpoint(training_args)
    set_seed(training_args.seed)  # the new head starts from it
    with training_args.main_process_first(desc="reading and tokenising the data"):
        splits, task = read_data(data_args, training_args, model_args)
        if "test" in splits:
            test = splits["test"].select_columns([each for each in splits["test"].column_names if each != ROW])
            splits["test"] = test.add_column(ROW, np.arange(len(test)))  # which stays when it is cut and tokenised
        check_alignment_fits(training_args, task)
        model, tokenizer = load_model(model_args, task)
        longest = fitting_length(data_args.max_seq_length, model, tokenizer)
        for name, data in splits.items():
            data = subset(data, data_args.most_samples[name], _data_seed(training_args))
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
    aligned = args.matching_weight != 0
    alignments = "; 'auto' and 'marginal' work, and with matching_loss='mmd' 'joint'."
    for refused, setting, advice in (
        (args.eval_compactness, "eval_compactness=True", "."),
        (aligned and args.alignment == "conditional", "alignment='conditional'", alignments),
        (aligned and args.companion == "class_matched", "companion='class_matched'", "; companion='sample' works."),
    ):
        if refused:
            raise ValueError(f"{setting} needs one class a text, and this is {task.problem_type}{advice}")


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

    Raises:
        FloatingPointError: the run diverged; then nothing is saved over what lies in the output folder.
    """
    if trainer.args.push_to_hub and trainer.args.hub_strategy != HubStrategy.END:
        trainer.create_model_card(**card)  # the cards at checkpoints keep what this one knows
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    try:
        metrics = trainer.evaluate()
    except Exception:
        trainer.save_model(_internal_call=True)  # else what was trained would be lost
        raise
    check_finite(metrics, "eval")
    trainer.save_model(_internal_call=True)  # without a push, which has to wait for the results
    trainer.save_state()
    _report(trainer, "train", result.metrics)
    _report(trainer, "eval", metrics)
    if "test" in splits:
        prediction = trainer.predict(splits["test"].remove_columns(ROW))
        tested = prediction.metrics or {}
        check_finite(tested, "test")
        _report(trainer, "test", tested)
        if trainer.is_world_process_zero():
            path = os.path.join(str(trainer.args.output_dir), PREDICTIONS_NAME)
            _write_predictions(path, prediction, task, splits["test"][ROW][:])
        metrics |= tested
    return metrics


def _report(trainer: ITRATrainer, split: str, metrics: dict[str, float]) -> None:
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)


def check_finite(metrics: Mapping[str, float], prefix: str) -> None:
    """Checks that the logits behind metrics of `compute_metrics_for` and the loss were finite.

    Raises:
        FloatingPointError: they weren't.
    """
    values = {name: metrics.get(f"{prefix}_{name}", 0.0) for name in ("loss", "accuracy", "mse")}
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise FloatingPointError(
            f"The run diverged: the model's logits or {prefix}_loss are not finite ({prefix}_{wrong[0]} is "
            f"{values[wrong[0]]}). Nothing was published. Lower learning_rate, set max_grad_norm, or train in bf16 "
            "instead of fp16."
        )


def find_checkpoint(args: ITRAConfig) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means: a folder, with `true` the last one in the output folder.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no checkpoint.
    """
    asked = args.resume_from_checkpoint
    if asked is None or str(asked).lower() in ("", "false"):
        return None
    if str(asked).lower() == "true":
        folder = str(args.output_dir)
        found = get_last_checkpoint(folder) if os.path.isdir(folder) else None
        if found is None:
            logger.warning(f"There is no checkpoint in {folder} yet, so training starts anew.")
        return found
    asked = os.path.expanduser(asked)
    if not os.path.isdir(asked):
        raise FileNotFoundError(f"There is no checkpoint {asked!r} (looked in {os.getcwd()}).")
    if not os.path.isfile(os.path.join(asked, TRAINER_STATE_NAME)):
        found = get_last_checkpoint(asked)
        advice = f"; did you mean {found!r}?" if found else ""
        raise FileNotFoundError(f"{asked!r} is no checkpoint, for it has no {TRAINER_STATE_NAME}{advice}")
    return asked


def _write_predictions(path: str, prediction: Any, task: Task, rows: Sequence[int]) -> None:
    """Writes the predicted classes; several of a text as `a|b`, or as a JSON list where a class name has a `|`."""
    logits = prediction.predictions
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits)
    if task.problem_type == "regression":
        values: list[Any] = logits.reshape(-1).tolist()
    elif task.problem_type == "single_label_classification":
        values = [task.label_names[index] for index in logits.argmax(-1)]
    else:
        names = np.asarray(task.label_names, dtype=object)
        ambiguous = any("|" in name for name in names)
        found = [list(names[row > 0]) for row in logits]
        values = [json.dumps(each, ensure_ascii=False) if ambiguous else "|".join(each) for each in found]
    datasets.Dataset.from_dict({"index": list(rows), "prediction": values}).to_csv(path)
