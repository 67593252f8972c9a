"""The command line: `itra-hf train CONFIG.yaml [--field value ...]` and `itra-hf inspect MODEL [--field value ...]`."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub.errors import HfHubHTTPError
from transformers import HfArgumentParser

from .config import ITRAConfig
from .data import DataArguments
from .finetune import ModelArguments, build_trainer, card_details, finetune, publish
from .inspection import InspectionArguments, inspect_model

USAGE = {
    "train": "itra-hf train [CONFIG.yaml] [--field value ...]",
    "inspect": "itra-hf inspect MODEL [--field value ...]",
}
HELP = """usage: {train}
       {inspect}

train    fine-tunes a text classifier
inspect  measures and draws how compact the features of a fine-tuned one are

`itra-hf train --help` and `itra-hf inspect --help` list every field.""".format(**USAGE)


class _Loader(yaml.SafeLoader):
    """The safe loader, with `true` and `false` as the only booleans: `save_strategy: no` means "no"."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; settings and data that don't fit end it with a message and exit status 2.

    Args:
        argv: the arguments after the program's name; `None` takes those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print(HELP)
        return
    if not arguments or arguments[0] not in USAGE:
        _fail(HELP)
    (_train if arguments[0] == "train" else _inspect)(arguments[1:])


def _train(arguments: Sequence[str]) -> None:
    try:
        model_args, data_args, training_args = parse(arguments)
        card = card_details(data_args, model_args)
        trainer, splits, task = build_trainer(data_args, model_args, training_args)
    except (ValueError, OSError, RuntimeError) as error:  # files that are not there, heads that don't fit
        _fail(f"error: {error}")
    finetune(trainer, splits, task, card)
    try:
        publish(trainer, card)
    except (HfHubHTTPError, ConnectionError) as error:
        _fail(f"error: {error}")


def _inspect(arguments: Sequence[str]) -> None:
    try:
        args, data_args = parse_inspection(arguments)
        table = inspect_model(args, data_args)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        _fail(f"error: {error}")
    print(table.to_string(float_format="{:.4g}".format))
    print(f"The table and the pictures are in {args.output_dir}.")


def parse(arguments: Sequence[str]) -> tuple[ModelArguments, DataArguments, ITRAConfig]:
    """Reads a YAML file, if the first argument is one, and the fields after it, which override the file's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no mapping or has an unknown field, or a field has a wrong value.
    """
    parser = _parser("train", ModelArguments, DataArguments, ITRAConfig)
    options = list(arguments)
    if options and not options[0].startswith("-"):
        _set_defaults(parser, read_config(options.pop(0)))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(options)
    return model_args, data_args, training_args


def parse_inspection(arguments: Sequence[str]) -> tuple[InspectionArguments, DataArguments]:
    """Reads the model, which comes first or as `--model_name_or_path`, and the fields after it.

    Raises:
        ValueError: a field has a wrong value.
    """
    options = list(arguments)
    if options and not options[0].startswith("-"):
        options.insert(0, "--model_name_or_path")
    args, data_args = _parser("inspect", InspectionArguments, DataArguments).parse_args_into_dataclasses(options)
    return args, data_args


def _parser(command: str, *classes: type) -> HfArgumentParser:
    return HfArgumentParser(classes, prog=f"itra-hf {command}", usage=USAGE[command], allow_abbrev=False)  # type: ignore[arg-type]


def read_config(path: str) -> dict[str, Any]:
    """Reads a YAML file of fields, safely: it can't make objects or run code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or not a mapping from fields to values.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no config file {path!r} (looked in {os.getcwd()}).")
    with open(path, encoding="utf-8") as file:
        try:
            values = yaml.load(file, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"{path!r} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path!r} must hold lines `field: value`, not {type(values).__name__}.")
    return values


def _set_defaults(parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> None:
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    for name, value in values.items():
        if name not in actions:
            close = difflib.get_close_matches(str(name), actions, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " `itra-hf train --help` lists the fields."
            raise ValueError(f"The config file has an unknown field {name!r}.{hint}")
        actions[name].required = False
        parser.set_defaults(**{name: _as_typed(name, value, actions[name])})


def _as_typed(name: str, value: Any, action: argparse.Action) -> Any:
    """A YAML value as the command line would give it: YAML reads 2e-5 as text, and 1 where a float is meant.

    Raises:
        ValueError: no value where one is needed, a list where one value is, or a value that is no such type.
    """
    if value is None:
        if action.default is not None:
            raise ValueError(f"The config field {name!r} needs a value; leave the line out for the default.")
        return None
    if isinstance(value, dict):
        return value
    convert: Any = action.type or str
    several = action.nargs == "+"
    if isinstance(value, list) and not several:
        raise ValueError(f"The config field {name!r} takes one value, not the list {value}.")
    try:
        items = [convert(str(item)) for item in (value if isinstance(value, list) else [value])]
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"The config field {name!r} can't be {value!r}: {error}") from None
    return items if several else items[0]


def _fail(message: str) -> Any:
    print(f"itra-hf: {message}", file=sys.stderr)
    raise SystemExit(2)
