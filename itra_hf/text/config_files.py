"""Config files: YAML mappings from fields to values, typed as the command line would type them."""

import argparse
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_type_hints

import yaml

from ..config import ITRAConfig
from ..presets import refuse_gone
from ..written_yaml import WrittenLoader, meaning


class _Loader(WrittenLoader):
    """A safe loader to which `true` and `false` are the only booleans, as in YAML 1.2, and 2e-5 is a number.

    A key that is there twice is an error.
    """

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Makes a node of a mapping, before others are merged into it.

        Raises:
            yaml.constructor.ConstructorError: it has a key twice.
        """
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


# Such as `str | list[str]`, of which the command line gives the text alone.
LISTS = {name for name, hint in get_type_hints(ITRAConfig).items() if "list[" in str(hint)}


def read_config(path: str) -> dict[str, Any]:
    """Reads a YAML file of fields, safely: it can't make objects or run code. Scalars come as they were written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or not a mapping from fields to values.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no config file {path!r} (looked in {os.getcwd()}).")
    with open(path, encoding="utf-8") as file:
        try:
            values = yaml.load(file, Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path!r} is not valid YAML in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path!r} must hold lines `field: value`, not {type(values).__name__}.")
    return values


def given_fields(parser: argparse.ArgumentParser, config: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """What stands in a config file or the options, which override it; the parser has no defaults any more then.

    Raises:
        ValueError: a field that the parser does not have, or no longer has, or a value of the wrong type.
    """
    actions = named_actions(parser)
    for name in config:
        if name not in actions:
            refuse_gone([name])
            raise ValueError(
                f"The config file has an unknown field {name!r}.{suggest(name, actions, f'`{parser.prog} --help`')}"
            )
        actions[name].required = False
    given = {name: as_typed(name, value, actions[name]) for name, value in config.items()}
    parser.parse_args(options)  # shows the help with its defaults, if that is asked for
    parser._defaults.clear()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return given | vars(parser.parse_args(options))


def named_actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The parser's actions by field; of `--field` and `--no_field` the first, which knows the type."""
    actions: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.dest != "help":
            actions.setdefault(action.dest, action)
    return actions


def suggest(name: object, known: Iterable[str], where: str) -> str:
    """What an error message says of an unknown field: the known one that looks like it, or where they are listed."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else f" {where} lists the fields."


def as_typed(name: str, value: Any, action: argparse.Action) -> Any:
    """A YAML value as the command line would give it: for text as it was written, `1.10` or `007`.

    Raises:
        ValueError: no value where one is needed, a list where one value is, or a value that is no such type.
    """
    if meaning(value) is None:
        if action.default is not None:
            raise ValueError(f"The config field {name!r} needs a value; leave the line out for the default.")
        return None
    if isinstance(value, dict):
        return meaning(value)
    if action.nargs == "?" and isinstance(meaning(value), bool):  # `fsdp` is one of these or a text
        return meaning(value)
    convert: Any = action.type or str
    several = action.nargs == "+" or (isinstance(value, list) and name in LISTS)
    if isinstance(value, list) and not several:
        hint = " Write two columns as 'a,b'." if name == "text_column_names" else ""
        raise ValueError(f"The config field {name!r} takes one value, not the list {value}.{hint}")
    try:
        items = value if isinstance(value, list) else [value]
        # Python reads neither 0x1F nor 012 as YAML does.
        items = [convert(str(meaning(item) if convert in (int, float) else item)) for item in items]
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"The config field {name!r} can't be {value!r}: {error}") from None
    return items if several else items[0]
