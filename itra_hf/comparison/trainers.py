"""Trainer classes by name, from the package or from a file or module of the user's."""

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        found = getattr(module, class_name)
    except Exception as error:  # whatever the user's file does when it is imported
        raise ValueError(f"trainer={name!r} can't be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Trainer)):
        raise ValueError(f"trainer={name!r} must be a subclass of transformers.Trainer, not {found!r}.")
    return found


def check_arguments(trainer: type[Trainer], given: Mapping[str, Any]) -> None:
    """Checks that a trainer's constructor names the arguments, or its base's does where it takes any.

    Raises:
        ValueError: it doesn't.
    """
    known: set[str] = set()
    for each in trainer.__mro__:
        if "__init__" in vars(each):
            parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
            known |= {parameter.name for parameter in parameters}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    if unknown := sorted(set(given) - known):
        raise ValueError(f"trainer_arguments has {unknown[0]!r}, which {trainer.__name__} does not take.")
