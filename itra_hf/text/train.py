"""The job behind `itra-hf train`: data in, fine-tuned classifier and its metrics out."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import HubStrategy, get_last_checkpoint
from transformers.utils import CONFIG_NAME, logging

from ..config import ITRAConfig
from ..reports.compactness import FIGURES
from ..reports.evaluation import PREFIX
from ..trainer import ITRATrainer
from .data import ROW, DataArguments, Task, cut_validation, encode_labels, infer_task, load_splits, subset, tokenize
from .labels import quoted
from .metrics import compute_metrics_for, metric_names
from .models import ModelArguments, fitting_length, load_model

logger = logging.get_logger(__name__)

PREDICTIONS_NAME = "test_predictions.csv"
RESULTS_NAME = "{}_results.json"


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
        check_checkpoint(training_args.resume_from_checkpoint, task)
        check_steps(training_args, len(splits["train"]), data_args.max_train_samples)
        if "test" in splits:
            test = splits["test"].select_columns([each for each in splits["test"].column_names if each != ROW])
            splits["test"] = test.add_column(ROW, np.arange(len(test)))  # which stays when it is cut and tokenised
        check_labels_fit(training_args, task)
        check_best_metric(training_args, task)
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


def check_labels_fit(args: ITRAConfig, task: Task) -> None:
    """Checks the settings that need class ids against the kind of labels.

    Raises:
        ValueError: a setting that needs one class a text, where there are several or numbers.
    """
    if task.problem_type == "single_label_classification":
        return
    aligned = args.matching_weight != 0
    alignments = "; 'auto' and 'marginal' work, and with matching_loss='mmd' 'joint'."
    for refused, setting, advice in (
        (args.eval_compactness, "eval_compactness=True", "."),
        (args.label_smoothing_factor, f"label_smoothing_factor={args.label_smoothing_factor}", "; 0 works."),
        (aligned and args.alignment == "conditional", "alignment='conditional'", alignments),
        (aligned and args.companion == "class_matched", "companion='class_matched'", "; companion='sample' works."),
    ):
        if refused:
            raise ValueError(f"{setting} needs one class a text, and this is {task.problem_type}{advice}")


def check_best_metric(args: ITRAConfig, task: Task) -> None:
    """Checks that evaluation will give the metric that the best model is chosen by.

    Raises:
        ValueError: it won't.
    """
    if args.metric_for_best_model is None:
        return
    known = ["loss", *metric_names(task.problem_type), "runtime", "samples_per_second", "steps_per_second"]
    known += [f"{PREFIX}_{name}" for name in FIGURES] if args.eval_compactness else []
    if args.metric_for_best_model.removeprefix("eval_") not in known:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} is not what evaluation gives: {', '.join(known)}."
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
    if trainer.is_world_process_zero():
        _remove_results(Path(str(trainer.args.output_dir)))
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


def _remove_results(folder: Path) -> None:
    """Removes what an earlier run left of these files, for a reader would take them for this run's."""
    stale = [folder / RESULTS_NAME.format(name) for name in ("train", "eval", "test", "all")]
    pictures = [folder / "figures" / name for name in ("learning_curves.png", "feature_map.png")]
    for path in (*stale, folder / PREDICTIONS_NAME, *pictures):
        path.unlink(missing_ok=True)


def _report(trainer: ITRATrainer, split: str, metrics: dict[str, float]) -> None:
    trainer.log_metrics(split, metrics)
    # JSON has no NaN.
    trainer.save_metrics(split, {name: value if math.isfinite(value) else None for name, value in metrics.items()})


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
    finished = os.path.isfile(os.path.join(asked, RESULTS_NAME.format("train")))  # whose state is there for reading
    if finished or not os.path.isfile(os.path.join(asked, TRAINER_STATE_NAME)):
        found = get_last_checkpoint(asked)
        advice = f"; did you mean {found!r}?" if found else "; it holds none either" if finished else ""
        why = "it is the folder of a finished run" if finished else f"it has no {TRAINER_STATE_NAME}"
        raise FileNotFoundError(f"{asked!r} is no checkpoint, for {why}{advice}")
    return asked


def check_checkpoint(folder: str | None, task: Task) -> None:
    """Checks that a checkpoint is of a model with the same classes.

    Raises:
        ValueError: it has others, or has them in another order, so that names would change their meaning.
    """
    path = Path(folder or "", CONFIG_NAME)
    if folder is None or not path.is_file():  # an adapter's
        return
    names = json.loads(path.read_text(encoding="utf-8")).get("id2label")
    if names is None:
        return
    saved, now = [names[index] for index in sorted(names, key=int)], task.label_names
    if saved != now:
        raise ValueError(
            f"The checkpoint {folder} has the classes {quoted(saved)}, and the training data {quoted(now)}. Resume "
            "with the data that it was begun with, or train from its folder as model_name_or_path."
        )


def check_steps(args: ITRAConfig, examples: int, most: int | None) -> None:
    """Checks that there is a full batch, where others are dropped.

    Raises:
        ValueError: there is none.
    """
    examples = examples if most is None else min(examples, most)
    split: bool = getattr(args.accelerator_config, "split_batches", False)
    batch = args.train_batch_size * (1 if split else args.world_size)
    if args.dataloader_drop_last and examples < batch:
        raise ValueError(
            f"dataloader_drop_last=True drops all of the {examples} training examples, for a batch over all processes "
            f"is of {batch}."
        )


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
