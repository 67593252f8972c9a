"""Objects of the user's by name, from a module or a file."""

import importlib
import importlib.util
import sysconfig
from pathlib import Path
from typing import Any


def own_file(name: str) -> str | None:
    """The file that a name as for `load_named` is in, if it is the user's: not an installed package's.

    Of a package it is the file of the named module alone.
    """
    where = name.rpartition(":")[0]
    if where.endswith(".py"):
        return where
    try:
        spec = importlib.util.find_spec(where) if where else None
    except (ImportError, ValueError):  # loading tells what is wrong
        return None
    if spec is None or spec.origin is None or where.partition(".")[0] == __name__.partition(".")[0]:
        return None
    places = (sysconfig.get_path(each) for each in ("purelib", "platlib", "stdlib"))
    return None if any(Path(spec.origin).is_relative_to(place) for place in places) else spec.origin


def load_named(name: str, setting: str) -> Any:
    """What `"package.module:name"` or `"file.py:name"` names.

    Args:
        name: with a colon.
        setting: that holds the name, for the error.

    Raises:
        ValueError: there is no such file, module or name, or it can't be imported.
    """
    where, _, attribute = name.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(where).stem, where)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        return getattr(module, attribute)
    except Exception as error:  # whatever the user's file does when it is imported
        raise ValueError(f"{setting}={name!r} can't be loaded: {error}") from error
