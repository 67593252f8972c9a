"""What numbers the rivals' settings may be, and what arguments go with a rival."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from transformers import TrainingArguments


class Range(NamedTuple):
    """Numbers that fit, and what they are called in an error."""

    needed: str
    fits: Callable[[float], bool]


SHARE = Range("from 0 to below 1", lambda value: 0 <= value < 1)
PART = Range("from 0 to 1", lambda value: 0 <= value <= 1)
ABOVE_ZERO_TO_ONE = Range("above 0 and at most 1", lambda value: 0 < value <= 1)
ABOVE_ZERO = Range("above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Range(">= 0", lambda value: 0 <= value < math.inf)
COUNT = Range("an integer >= 1", lambda value: type(value) is int and value >= 1)


class Particular(Protocol):
    """A rival that some arguments of the Trainer don't go with, which a plan asks before anything runs."""

    @staticmethod
    def refusal(args: TrainingArguments, **settings: Any) -> str | None:
        """Which of the arguments does not go with it, in words; `settings` are its own, as far as given."""


def refuse(rival: Particular, args: TrainingArguments, **settings: Any) -> None:
    """Checks the arguments of a rival.

    Raises:
        ValueError: one does not go with it.
    """
    if (problem := rival.refusal(args, **settings)) is not None:
        raise ValueError(problem)


def check_ranges(ranges: Mapping[str, Range], given: Mapping[str, Any]) -> None:
    """Checks settings of a rival.

    Args:
        ranges: by the settings' names.
        given: by name; those without a range are left alone.

    Raises:
        ValueError: a value is no number, or does not fit.
    """
    for name, value in given.items():
        if name in ranges:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and ranges[name].fits(value)):
                raise ValueError(f"{name}={value!r} must be {ranges[name].needed}.")
