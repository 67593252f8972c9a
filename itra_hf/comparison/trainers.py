"""Trainer classes by name, from the package or from a file or module of the user's."""

import importlib
import importlib.util
from pathlib import Path

from transformers import Trainer

from ..trainer import ITRATrainer


def load_trainer(name: str) -> type[Trainer]:
    """A trainer class by its name, see `Variant`.

    Raises:
        ValueError: there is no such class.
    """
    known: dict[str, type[Trainer]] = {"Trainer": Trainer, "ITRATrainer": ITRATrainer}
    if name in known:
        return known[name]
    where, class_name = name.rsplit(":", 1)
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(where).stem, where)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        return getattr(module, class_name)
    except (ImportError, OSError, AttributeError) as error:
        raise ValueError(f"trainer={name!r} can't be loaded: {error}") from error
