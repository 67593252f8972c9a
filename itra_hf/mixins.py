"""What mixins before a `Trainer` need: its attributes for type checkers, its signatures for everybody else."""

import inspect
from functools import update_wrapper
from types import FunctionType
from typing import TYPE_CHECKING

from transformers import Trainer, TrainerCallback

from .config import AlignmentArguments

if TYPE_CHECKING:

    class TrainerBase(Trainer):
        """The Trainer below a mixin, with what the mixins know of each other."""

        @property
        def alignment_args(self) -> AlignmentArguments:  # noqa: D102
            ...

        def _itra_warn_once(self, message: str) -> None: ...
        def _itra_accumulation_steps(self) -> int: ...
        def _itra_callbacks_of_run(self) -> list[TrainerCallback]: ...

else:
    TrainerBase = object


def show_base_signatures(cls: type, package: str) -> None:
    """Gives `cls` copies of the mixins' methods that show the signature of the method that they override.

    Editors, `inspect.signature` and subclasses that look at the constructor then see what they see of the Trainer.

    Args:
        cls: a subclass of mixins and a Trainer.
        package: where the mixins are defined; methods of other classes stay as they are.
    """
    own = [base for base in cls.__mro__ if base.__module__.startswith(f"{package}.")]
    mixins = [base for base in own if not issubclass(base, Trainer)]
    for name in {name for base in mixins for name in vars(base)}:
        owners = [base for base in cls.__mro__ if name in vars(base)]
        below = next((base for base in owners if base not in mixins), None)
        method = vars(owners[0])[name]
        public = isinstance(method, FunctionType) and (name == "__init__" or not name.startswith("_"))
        if not public or below in (None, object) or owners[0] in (below, cls):
            continue
        copy = FunctionType(method.__code__, method.__globals__, name, method.__defaults__, method.__closure__)
        copy.__kwdefaults__ = method.__kwdefaults__
        update_wrapper(copy, method)
        copy.__signature__ = inspect.signature(vars(below)[name])  # type: ignore[attr-defined]
        setattr(cls, name, copy)
