"""Objects of the user's by name, from a module or a file."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any


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
