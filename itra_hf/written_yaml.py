"""YAML whose scalars stay as they were written: its guesses make `false` of `no`, and 1.1 of `1.10`."""

import re
from collections.abc import Callable
from typing import Any

import yaml

TEXT = "tag:yaml.org,2002:str"
COMMENTS = re.compile(r"(?:(?:#.*)?\n)*")
BEFORE_KEY = re.compile(rf"(?:\A|^(?=#)){COMMENTS.pattern}\Z|\Z", re.MULTILINE)
# What YAML 1.2, which the Hub reads, takes for a number, though YAML 1.1, which Python writes, does not.
NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[-+]?\d+)?|0o[0-7_]+", re.IGNORECASE)


class Written(str):
    """A scalar that is more than text to YAML, such as `1.10`, `no`, `2024-01-01` or `~`: its characters.

    It is not equal to the text of these characters, so that both can be keys of one mapping.

    Attributes:
        meaning: what YAML makes of them.
    """

    meaning: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Written) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((Written, str(self)))

    def __repr__(self) -> str:
        return str(self)


class WrittenLoader(yaml.SafeLoader):
    """The safe loader, but every scalar that is more than text comes as a `Written` one."""


def _construct_written(loader: Any, node: Any) -> Written:
    written = Written(node.value)
    try:
        written.meaning = yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
    except ValueError:  # it only looks like one: 2024-13-01
        written.meaning = node.value
    return written


for _kind in ("null", "bool", "int", "float", "timestamp"):
    WrittenLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _construct_written)
for _kind in ("value", "merge"):  # a lone = or << where it means nothing
    WrittenLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", yaml.SafeLoader.construct_yaml_str)


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which leaves `Written` scalars as they are."""


def _represent_text(dumper: Any, text: str) -> yaml.Node:
    return dumper.represent_scalar(TEXT, str(text), style="'" if NUMBER.fullmatch(text) else None)


def _represent_written(dumper: Any, written: Written) -> yaml.Node:
    if isinstance(written.meaning, str):
        return _represent_text(dumper, written)
    return dumper.represent_scalar(dumper.resolve(yaml.ScalarNode, str(written), (True, False)), str(written))


_Dumper.add_representer(Written, _represent_written)
_Dumper.add_representer(str, _represent_text)


def replace_written(value: Any, change: Callable[[Written], Any], keys: bool = True) -> Any:
    """A value with something else for each `Written` scalar in it, with or without the keys of its mappings."""
    if isinstance(value, Written):
        return change(value)
    if isinstance(value, list):
        return [replace_written(each, change, keys) for each in value]
    if isinstance(value, dict):
        pairs = ((replace_written(key, change) if keys else key, each) for key, each in value.items())
        return {key: replace_written(each, change, keys) for key, each in pairs}
    return value


def meaning(value: Any) -> Any:
    """A value as YAML understands it."""
    return replace_written(value, lambda written: written.meaning)


def dump(data: dict[str, Any]) -> str:
    """A mapping as YAML, `Written` scalars as they were."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_mapping(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a YAML mapping, and the text of each: its lines, and the comments before them.

    Raises:
        yaml.YAMLError: it is no YAML.
        ValueError: it is no mapping.
    """
    text = f"{text}\n"
    loader = WrittenLoader(text)
    root = loader.get_single_node()
    data = None if root is None else loader.construct_document(root)
    if root is None or meaning(data) is None:
        return {}, {}
    if not isinstance(data, dict):
        raise ValueError("The metadata are no mapping.")
    data = {str(key): value for key, value in data.items()}
    keys = [key for key, _ in root.value]
    starts = [BEFORE_KEY.search(text[: key.start_mark.index]).start() for key in keys]  # type: ignore[union-attr]
    sources = {}
    for key, start in zip(keys, starts, strict=True):
        name, end = str(key.value), min(each for each in (*starts, len(text)) if each > start)
        source = text[start:end]
        if key.tag != TEXT:  # the Hub's client refuses keys that are numbers or booleans
            source = f"{text[start : key.start_mark.index]}'{name}'{text[key.end_mark.index : end]}"
        sources[name] = source if _stands_alone(source, {name: data[name]}) else dump({name: data[name]})
    return data, sources


def _stands_alone(source: str, data: dict[str, Any]) -> bool:
    """Whether a text has these data wherever it stands, to every reader; not so where it is within braces."""
    try:
        yaml.safe_load(source)  # which fails for what only looks like a date
        return bool(yaml.load(f'{source}"": ""\n', Loader=WrittenLoader) == {**data, "": ""})
    except (yaml.YAMLError, ValueError):
        return False
