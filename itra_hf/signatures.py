"""Lets a class that a mixin completes show the signatures of the Trainer below the mixin."""

import inspect
from functools import update_wrapper
from types import FunctionType

OVERRIDDEN = (
    "__init__",
    "compute_loss",
    "create_model_card",
    "evaluate",
    "evaluation_loop",
    "get_batch_samples",
    "hyperparameter_search",
    "log",
    "predict",
    "prediction_step",
    "push_to_hub",
    "save_model",
    "train",
    "training_step",
)


def show_base_signatures(cls: type, package: str) -> None:
    """Gives `cls` copies of the mixins' methods that show the signature of the method that they override.

    Editors, `inspect.signature` and subclasses that look at the constructor then see what they see of the Trainer.

    Args:
        cls: a subclass of mixins and a Trainer.
        package: where the mixins are defined; methods of other classes stay as they are.
    """
    for name in OVERRIDDEN:
        owners = [base for base in cls.__mro__ if name in vars(base)]
        below = next((base for base in owners if not base.__module__.startswith(package)), None)
        if below in (None, object) or owners[0] in (below, cls):
            continue
        method = vars(owners[0])[name]
        copy = FunctionType(method.__code__, method.__globals__, name, method.__defaults__, method.__closure__)
        copy.__kwdefaults__ = method.__kwdefaults__
        update_wrapper(copy, method)
        copy.__signature__ = inspect.signature(vars(below)[name])  # type: ignore[attr-defined]
        setattr(cls, name, copy)
