"""The ways to train that a comparison holds against each other."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

from transformers import HfArgumentParser

from ..config import AlignmentArguments, ITRAConfig
from ..config_checks import PAIRED_COMPANIONS
from ..presets import preset_settings, refuse_gone
from ..text.config_files import as_typed, named_actions, suggest
from ..trainer import ITRAMixin
from ..written_yaml import meaning
from .trainers import check_arguments, load_trainer

PLAIN, ITRA = "Trainer", "ITRATrainer"
TWICE = {"batch": "Trainer, twice the batch", "steps": "Trainer, twice the steps"}
DEFAULTS = asdict(AlignmentArguments())
VARIANT_KEYS = ("trainer", "trainer_arguments", "twice_compute", "preset")
FIXED = ("seed", "data_seed", "output_dir", "push_to_hub", "resume_from_checkpoint", "hub_model_id")


class Variant(NamedTuple):
    """One way to train.

    Attributes:
        name: what reports call it.
        trainer: `"Trainer"`, `"ITRATrainer"`, or `"file.py:Class"` or `"module:Class"`.
        settings: fields of `ITRAConfig` that differ from the common ones.
        trainer_arguments: keyword arguments of the trainer's constructor.
        extra_compute: for a plain run, how it gets twice the compute.
        twice_compute: whether its steps take two batches' worth of compute; `None`: as its settings tell.
    """

    name: str
    trainer: str = ITRA
    settings: Mapping[str, Any] = {}
    trainer_arguments: Mapping[str, Any] = {}
    extra_compute: Literal["", "batch", "steps"] = ""
    twice_compute: bool | None = None

    @property
    def aligns(self) -> bool:
        """Whether its trainer has the method's settings."""
        return issubclass(load_trainer(self.trainer), ITRAMixin)

    def sees_twice(self, common: Mapping[str, Any]) -> bool:
        """Whether its steps take about two batches' worth of compute, so that a plain run of as much is fair."""
        given = {**common, **self.settings}
        if self.twice_compute is None and self.aligns:
            if given.get("matching_weight") == 0:
                return False
            asked = {**DEFAULTS, **given}
            return asked["companion"] in ("auto", *PAIRED_COMPANIONS) and asked["companion_decay"] == 0
        return bool(self.twice_compute)


def read_variant(name: str, settings: Any, common: Mapping[str, Any], preset: str | None) -> Variant:
    """Reads a variant from a comparison's YAML file.

    Args:
        name: of the variant.
        settings: what stands below the name.
        common: fields that all variants share.
        preset: the comparison's, see `make_plan`.

    Raises:
        ValueError: an unknown field, trainer or preset, or a wrong value.
    """
    if not isinstance(settings, Mapping):
        if meaning(settings) is not None:
            raise ValueError(f"Variant {name!r} must be a mapping from fields to values, not {settings!r}.")
        settings = {}
    settings = dict(settings)
    if "preset" in settings:
        preset = None  # also where it says null
    own_preset = meaning(settings.pop("preset", None))
    trainer = str(settings.pop("trainer", ITRA))
    trainer_arguments = meaning(settings.pop("trainer_arguments", None)) or {}
    twice_compute = meaning(settings.pop("twice_compute", None))
    if not isinstance(trainer_arguments, Mapping):
        raise ValueError(f"Variant {name!r}: trainer_arguments={trainer_arguments!r} must be a mapping.")
    if twice_compute not in (None, True, False):
        raise ValueError(f"Variant {name!r}: twice_compute={twice_compute!r} must be true or false.")
    if trainer not in (PLAIN, ITRA) and ":" not in trainer:
        raise ValueError(
            f"Variant {name!r}: trainer={trainer!r} must be 'Trainer', 'ITRATrainer', 'file.py:Class' or "
            "'module:Class'."
        )
    try:
        check_arguments(load_trainer(trainer), trainer_arguments)
    except ValueError as error:
        raise ValueError(f"Variant {name!r}: {error}") from error
    typed = _typed_settings(name, settings)
    if own_preset is not None and trainer == PLAIN:
        raise ValueError(f"Variant {name!r}: preset={own_preset!r} is of trainers with the method, not of {PLAIN!r}.")
    try:
        if own_preset is not None:
            typed |= preset_settings(own_preset, typed, beneath=common)
        elif preset is not None and issubclass(load_trainer(trainer), ITRAMixin):
            typed |= preset_settings(preset, {**common, **typed})
    except ValueError as error:
        raise ValueError(f"Variant {name!r}: {error}") from error
    return Variant(name, trainer, typed, dict(trainer_arguments), twice_compute=twice_compute)


def _typed_settings(name: str, settings: Mapping[Any, Any]) -> dict[str, Any]:
    actions = named_actions(HfArgumentParser(ITRAConfig))  # type: ignore[arg-type]
    for field_name in settings:
        if field_name in FIXED:
            raise ValueError(f"Variant {name!r}: {field_name!r} belongs to the whole comparison, not to a variant.")
        if field_name not in actions:
            refuse_gone([field_name], f"Variant {name!r}: ")
            where = "`itra-hf train --help`"
            raise ValueError(
                f"Variant {name!r} has an unknown field {field_name!r}."
                f"{suggest(field_name, [*actions, *VARIANT_KEYS], where)}"
            )
    return {each: as_typed(each, value, actions[each]) for each, value in settings.items()}
