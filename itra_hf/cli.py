"""The command line: `itra-hf train CONFIG.yaml`, `itra-hf compare CONFIG.yaml` and `itra-hf inspect MODEL`."""

import dataclasses
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from transformers import HfArgumentParser

from .comparison.plan import ComparisonArguments, Plan, make_plan
from .comparison.report import REPORTS, terminal
from .comparison.study import compare
from .config import ITRAConfig, setting
from .presets import preset_settings, refuse_gone
from .text.config_files import given_fields, named_actions, read_config, suggest
from .text.data import DataArguments
from .text.files import check_exists
from .text.inspect import InspectionArguments, inspect_model
from .text.models import ModelArguments
from .text.train import build_trainer, card_details, finetune

USAGE = {
    "train": "itra-hf train [CONFIG.yaml] [--field value ...]",
    "compare": "itra-hf compare CONFIG.yaml [--field value ...]",
    "inspect": "itra-hf inspect MODEL [--field value ...]",
}
FILES = ("train_file", "validation_file", "test_file")
PATHS = (*FILES, "dataset_name", "model_name_or_path", "tokenizer_name", "cache_dir", "output_dir")
UNFIT = (ValueError, OSError, RuntimeError, ImportError)  # such as files that are not there, and heads that don't fit
HELP = """usage: {train}
       {compare}
       {inspect}

train    fine-tunes a text classifier
compare  tells whether alignment helps: the plain Trainer and variants over several seeds, with intervals
inspect  measures and draws how compact the features of a fine-tuned one are

`itra-hf train --help`, and so on, list every field.""".format(**USAGE)


@dataclasses.dataclass
class PresetArguments:
    """The choice of a preset, on the command line and in config files."""

    preset: str | None = setting(
        "Settings to start from, which any other setting overrides: 'paper' is the plain published method (an "
        "independent second batch with gradient through both, weight_mode 'constant', classes alike); matching_weight "
        "has to be given with it."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Settings and data that don't fit end it with a message and exit status 2, a run that diverged and a comparison with
    runs that failed with status 1.

    Args:
        argv: the arguments after the program's name; `None` takes those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print(HELP)
        return
    if not arguments or arguments[0] not in USAGE:
        _fail(HELP)
    {"train": _train, "compare": _compare, "inspect": _inspect}[arguments[0]](arguments[1:])


def _train(arguments: Sequence[str]) -> None:
    with _telling(*UNFIT):
        model_args, data_args, training_args = parse(arguments)
        card = card_details(data_args, model_args)
        trainer, splits, task = build_trainer(data_args, model_args, training_args)
    with _telling(FloatingPointError, status=1):
        try:
            finetune(trainer, splits, task, card)
        except (ValueError, OSError) as error:
            if trainer.state.global_step:
                raise
            _fail(f"error: {error}")  # before the first step it is a setting, such as learning_rate=-1
    with _telling(HfHubHTTPError, ConnectionError):
        (trainer.push_to_hub if trainer.args.push_to_hub else trainer.create_model_card)(**card)


def _compare(arguments: Sequence[str]) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the runs in progress as Ctrl+C does
    try:
        with _telling(*UNFIT):
            plan = parse_comparison(arguments)
            comparison = compare(plan)
    except KeyboardInterrupt:
        _fail("interrupted; what is finished stays, and the same command goes on from there")
    print(terminal(comparison))
    print(f"\nThe reports are in {plan.output_dir}: {', '.join(REPORTS)}.")
    if comparison.failed:
        raise SystemExit(1)


def _inspect(arguments: Sequence[str]) -> None:
    with _telling(*UNFIT):
        args, data_args = parse_inspection(arguments)
        table = inspect_model(args, data_args)
    print(table.to_string(float_format="{:.4g}".format))
    print(f"The table and the pictures are in {args.output_dir}.")


@contextmanager
def _telling(*errors: type[Exception], status: int = 2) -> Iterator[None]:
    """Ends the program with a message where one of these errors is raised."""
    try:
        yield
    except errors as error:
        _fail(f"error: {error}", status)


def parse(arguments: Sequence[str]) -> tuple[ModelArguments, DataArguments, ITRAConfig]:
    """Reads a YAML file, if the first argument is one, and the fields after it, which override the file's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no mapping or has an unknown field, or a field has a wrong value; there is no such
            preset, or no weight beside it.
    """
    parser = _parser("train", ModelArguments, DataArguments, ITRAConfig, PresetArguments)
    given = given_fields(parser, *_read(arguments))
    if (preset := given.get("preset")) is not None:
        given |= preset_settings(preset, given)
    model_args, data_args, training_args, _ = parser.parse_dict(given)
    return model_args, data_args, training_args


def parse_comparison(arguments: Sequence[str]) -> Plan:
    """Reads a YAML file with the fields of a training run, how to compare, and under `variants` what to compare.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown field or variant, or a wrong value.
    """
    # The sizes to train on take the place of the one size of a training run.
    classes = (ModelArguments, DataArguments, ITRAConfig, PresetArguments, ComparisonArguments)
    parser = _parser("compare", *classes, conflict_handler="resolve")
    config, options = _read(arguments)
    variants = config.pop("variants", None)
    common = given_fields(parser, config, options)
    preset = common.pop("preset", None)
    own = {field.name for field in dataclasses.fields(ComparisonArguments)} & set(common)
    args = ComparisonArguments(**{name: common.pop(name) for name in own})
    common |= {name: os.path.expanduser(common[name]) for name in PATHS if common.get(name)}  # runs are known by it
    for name in FILES:
        if common.get(name) is not None:
            check_exists(common[name])
    return make_plan(args, common, variants, common.get("output_dir") or "comparison", preset)


def parse_inspection(arguments: Sequence[str]) -> tuple[InspectionArguments, DataArguments]:
    """Reads the model, which comes first or as `--model_name_or_path`, and the fields after it.

    Raises:
        ValueError: a field has a wrong value.
    """
    options = list(arguments)
    if options and not options[0].startswith("-"):
        options.insert(0, "--model_name_or_path")
    parser = _parser("inspect", InspectionArguments, DataArguments)
    if unknown := parser.parse_known_args(options)[1]:
        hint = suggest(unknown[0].lstrip("-"), named_actions(parser), "`itra-hf inspect --help`")
        raise ValueError(f"{unknown[0]!r} is no field.{hint}")
    args, data_args = parser.parse_args_into_dataclasses(options)
    return args, data_args


def _read(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The fields of the YAML file, if the first argument is one, and the other arguments."""
    options = list(arguments)
    named = [option[2:].split("=")[0].replace("-", "_") for option in options if option.startswith("--")]
    refuse_gone(name.removeprefix("no_") for name in named)
    config = options.pop(0) if options and not options[0].startswith("-") else None
    if config is not None:
        return read_config(config), options
    for before, each in pairwise(options):
        placed = each.startswith("--") or (before.startswith("--") and before != "--config")
        if each.endswith((".yaml", ".yml")) and not placed:
            raise ValueError(f"The config file comes first, before the fields: `{each} --field value`.")
    return {}, options


def _parser(command: str, *classes: Any, **options: Any) -> HfArgumentParser:
    return HfArgumentParser(classes, prog=f"itra-hf {command}", usage=USAGE[command], allow_abbrev=False, **options)


def _fail(message: str, status: int = 2) -> Any:
    print(f"itra-hf: {message}", file=sys.stderr)
    raise SystemExit(status)
