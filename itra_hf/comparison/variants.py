"""The ways to train that a comparison holds against each other."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

from transformers import HfArgumentParser, Trainer

from ..by_name import load_named
from ..config import AlignmentArguments, ITRAConfig
from ..config_checks import PAIRED_COMPANIONS
from ..presets import preset_settings, refuse_gone
from ..text.config_files import as_typed, named_actions, suggest
from ..trainer import ITRAMixin, ITRATrainer
from ..written_yaml import meaning
from .rivals.ranges import check_ranges

ExtraCompute = Literal["", "batch", "steps"]

PLAIN, ITRA = "Trainer", "ITRATrainer"
TWICE: dict[ExtraCompute, str] = {"batch": "Trainer, twice the batch", "steps": "Trainer, twice the steps"}
BASELINES = (PLAIN, *TWICE.values())
DEFAULTS = asdict(AlignmentArguments())
VARIANT_KEYS = ("trainer", "trainer_arguments", "twice_compute", "preset")
GIVEN = {"self", "args", "kwargs", "model", "train_dataset", "eval_dataset", "processing_class", "compute_metrics"}
FIXED = ("seed", "data_seed", "output_dir", "push_to_hub", "resume_from_checkpoint", "hub_model_id")


class Variant(NamedTuple):
    """One way to train."""

    name: str  # what reports call it
    trainer: str = PLAIN  # or "ITRATrainer", "file.py:Class" or "module:Class"
    settings: Mapping[str, Any] = {}  # fields of `ITRAConfig` that differ from the common ones
    trainer_arguments: Mapping[str, Any] = {}  # of the trainer's constructor
    aligns: bool = False  # whether its trainer has the method's settings
    sees_twice: bool = False  # whether its steps take two batches' compute, so that a plain run of as much is fair
    extra_compute: ExtraCompute = ""  # for a plain run, how it gets that


def load_trainer(name: str) -> type[Trainer]:
    """A trainer class by its name, see `Variant`.

    Raises:
        ValueError: there is no such class.
    """
    if name in (PLAIN, ITRA):
        return Trainer if name == PLAIN else ITRATrainer
    if ":" not in name:
        raise ValueError(f"trainer={name!r} must be 'Trainer', 'ITRATrainer', 'file.py:Class' or 'module:Class'.")
    found = load_named(name, "trainer")
    if not (isinstance(found, type) and issubclass(found, Trainer)):
        raise ValueError(f"trainer={name!r} must be a subclass of transformers.Trainer, not {found!r}.")
    return found


@contextmanager
def naming(variant: str) -> Iterator[None]:
    """Says of which variant an error is."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"Variant {variant!r}: {error}") from error


def read_variant(name: str, settings: Any, common: Mapping[str, Any], preset: str | None) -> Variant:
    """Reads a variant from what stands below its name in a YAML file; for `common` and `preset` see `make_plan`.

    Raises:
        ValueError: an unknown field, trainer or preset, or a wrong value.
    """
    if not name.strip():
        raise ValueError(f"A variant needs a name, and {name!r} is none.")
    settings = {} if meaning(settings) is None else settings
    if not isinstance(settings, Mapping):
        raise ValueError(f"Variant {name!r} must be a mapping from fields to values, not {settings!r}.")
    own = {key: meaning(settings[key]) for key in VARIANT_KEYS if key in settings}
    typed = _typed_settings(name, {key: value for key, value in settings.items() if key not in VARIANT_KEYS})
    trainer, arguments, twice = str(own.get("trainer", ITRA)), own.get("trainer_arguments"), own.get("twice_compute")
    with naming(name):
        if not isinstance(arguments or {}, Mapping):
            raise ValueError(f"trainer_arguments={arguments!r} must be a mapping.")
        if twice not in (None, True, False):
            raise ValueError(f"twice_compute={twice!r} must be true or false.")
        trainer_class = load_trainer(trainer)
        aligns = issubclass(trainer_class, ITRAMixin)
        _check_arguments(trainer_class, arguments or {})
        for field in typed:
            if field in DEFAULTS and not aligns:
                raise ValueError(
                    f"{field}={typed[field]!r} is of trainers with the method, not of {trainer!r}. A subclass of "
                    "ITRAMixin and it has both."
                )
        if own.get("preset") is not None:
            if not aligns:
                raise ValueError(f"preset={own['preset']!r} is of trainers with the method, not of {trainer!r}.")
            typed |= preset_settings(own["preset"], typed, beneath=common)
        elif preset is not None and "preset" not in own and aligns:
            typed |= preset_settings(preset, {**common, **typed})
    if twice is None and aligns:  # then its settings tell
        asked = {**DEFAULTS, **common, **typed}
        pairs = asked["companion"] in ("auto", *PAIRED_COMPANIONS) and asked["companion_decay"] == 0
        twice = pairs and asked["matching_weight"] != 0
    return Variant(name, trainer, typed, dict(arguments or {}), aligns, bool(twice))


def _check_arguments(trainer: type[Trainer], given: Mapping[str, Any]) -> None:
    """Checks that a trainer's constructor names the arguments, or its base's does where it takes any."""
    known: set[str] = set()
    for each in trainer.__mro__:
        if "__init__" in vars(each):
            parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
            known |= {parameter.name for parameter in parameters}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    if taken := sorted(set(given) & GIVEN):
        raise ValueError(f"trainer_arguments has {taken[0]!r}, which the comparison gives itself.")
    if unknown := sorted(set(given) - known):
        raise ValueError(f"trainer_arguments has {unknown[0]!r}, which {trainer.__name__} does not take.")
    check_ranges(getattr(trainer, "ranges", {}), given)


def _typed_settings(name: str, settings: Mapping[Any, Any]) -> dict[str, Any]:
    actions = named_actions(HfArgumentParser(ITRAConfig))  # type: ignore[arg-type]
    for field in settings:
        if field in FIXED:
            raise ValueError(f"Variant {name!r}: {field!r} belongs to the whole comparison, not to a variant.")
        if field not in actions:
            refuse_gone([field], f"Variant {name!r}: ")
            hint = suggest(field, [*actions, *VARIANT_KEYS], "`itra-hf train --help`")
            raise ValueError(f"Variant {name!r} has an unknown field {field!r}.{hint}")
    return {each: as_typed(each, value, actions[each]) for each, value in settings.items()}
