"""Settings that go by one name, and names of settings that are gone."""

from collections.abc import Iterable, Mapping
from typing import Any

from .config_checks import can_act

# Settings by the name of a preset, which leaves the weight to the user.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "companion": "sample",
        "companion_decay": 0.0,
        "weight_mode": "constant",
        "kernel": "gaussian",
        "class_weighting": "alike",
    },
}

# Names of settings that are no more, and what to write instead.
GONE: Mapping[str, str] = {
    "companion_gradient": "companion_decay=0 is what True was, with gradient through the companion batch; "
    "any other companion_decay takes the place of False: averaged weights, without gradient.",
    "companion_task_loss": "it made one plain batch of the two; twice the per_device_train_batch_size is that.",
    "companion_every": "a companion without gradient costs a quarter of a step, and a memory nothing.",
    "matching_warmup_ratio": "weight_mode='rising' rises by itself as the examples are learnt.",
    "memory_warmup_steps": "a memory is used as soon as it holds features.",
    "bandwidth_multipliers": "other bandwidths changed nothing; several at a time are a matching_loss of yours.",
    "chunk_size": "large batches are taken in parts by themselves.",
    "random_features": "the exact MMD takes large batches in parts.",
    "memory_correction": "the memory gives features back as they were stored, as 'none' did. To move them by "
    "their drift brought nothing.",
}


def preset_settings(preset: str, given: Mapping[str, Any], beneath: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a preset, without those that are overridden, or can't act with what overrides others.

    Args:
        preset: its name.
        given: settings that override the preset's.
        beneath: settings that the preset overrides.

    Raises:
        ValueError: there is no such preset, or nobody gives the `matching_weight`.
    """
    if preset not in list(PRESETS):  # what a YAML file gives may be anything
        raise ValueError(f"preset={preset!r} is not one of {', '.join(map(repr, PRESETS))}.")
    together = {**(beneath or {}), **PRESETS[preset], **given}
    if together.get("matching_weight") is None:
        raise ValueError(
            f"preset={preset!r} needs matching_weight beside it, a number >= 0: no preset knows a good one for your "
            "data."
        )
    own = {name: value for name, value in PRESETS[preset].items() if name not in given}
    return {name: value for name, value in own.items() if can_act(name, together)}


def refuse_gone(names: Iterable[object], where: str = "") -> None:
    """Refuses names of settings that are no more.

    Args:
        names: what was given; other unknown names are left to the caller.
        where: what the message starts with.

    Raises:
        ValueError: says what to write instead of the first.
    """
    for name in names:
        if name in GONE:
            raise ValueError(f"{where}There is no {name} any more: {GONE[str(name)]}")


class KnowsGoneNames:
    """Refuses names that are gone before `__init__` does, which could only say that it doesn't know them."""

    def __new__(cls, *args: Any, **settings: Any) -> Any:  # in a base of its own, so that `__init__` is the signature
        """Looks at the names of the settings."""
        refuse_gone(name for name in settings if name not in getattr(cls, "__dataclass_fields__", ()))
        make = super().__new__
        return make(cls) if make is object.__new__ else make(cls, *args, **settings)
