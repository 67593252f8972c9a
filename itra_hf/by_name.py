"""Objects of the user's by name, from a module or a file."""

import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
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
        module = _run_file(Path(where).resolve()) if where.endswith(".py") else importlib.import_module(where)
        return getattr(module, attribute)
    except Exception as error:  # whatever the user's file does when it is imported
        raise ValueError(f"{setting}={name!r} can't be loaded: {error}") from error


def _run_file(path: Path) -> ModuleType:
    """A file as a module, known by a name that is no other module's, for dataclasses look themselves up by it."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
