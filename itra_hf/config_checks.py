"""What the method's settings may be, each by itself and together."""

from collections.abc import Mapping
from dataclasses import MISSING
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from .losses.kernels import Kernel, parse_bandwidth
from .losses.matching import MMD, MatchingLoss
from .losses.mmd import ClassWeighting, Estimator

if TYPE_CHECKING:
    from .config import AlignmentArguments

AlignmentSetting = Literal["auto", "conditional", "joint", "marginal"]
WeightMode = Literal["rising", "balanced", "constant"]
Companion = Literal["auto", "sample", "class_matched", "split", "memory"]
PAIRED_COMPANIONS = ("sample", "class_matched")  # a second batch from the training set

# Beyond, the task loss's pull could never come near (rising), it drowns in the rounding of the matching loss's
# (balanced), or gradients overflow.
MOST_WEIGHT = {"rising": 10.0, "balanced": 100.0, "constant": 1e6}

CHOICES: Mapping[str, Any] = {
    "alignment": AlignmentSetting,
    "weight_mode": WeightMode,
    "companion": Companion,
    "kernel": Kernel,
    "estimator": Estimator,
    "class_weighting": ClassWeighting,
}
_OWN = "the repository's examples/distances.py has it as a function, matching_loss='examples/distances.py:{}'."
# Values that were allowed once, and what to write instead.
GONE_VALUES: Mapping[str, str] = {
    "fitted": "'rising' does more in long runs, and no harm in short ones.",
    "sustained": "'rising' pulls as hard once the examples are learnt, and 'balanced' acts from the start.",
    "sinkhorn": _OWN.format("sinkhorn_divergence"),
    "coral": _OWN.format("coral"),
    "central_moments": _OWN.format("central_moments"),
}
SWITCHES = ("gather_features", "eval_compactness")
LEAST = {"companion_buffer_size": 1, "memory_size": 2, "gradient_noise_steps": 0}


class Need(NamedTuple):
    """A setting that another one needs to act at all, and the values that let it."""

    name: str
    values: tuple[str, ...]


_MEMORY, _PAIRS, _MMD = (
    Need("companion", ("memory",)),  # 'auto' takes one as it is by default
    Need("companion", (*PAIRED_COMPANIONS, "auto")),
    Need("matching_loss", (MMD,)),
)
NEEDS: Mapping[str, Need] = {
    "memory_size": _MEMORY,
    "companion_decay": _PAIRS,
    "companion_buffer_size": _PAIRS,
    "kernel": _MMD,
    "bandwidth": _MMD,
    "estimator": _MMD,
    "class_weighting": Need("alignment", ("auto", "conditional")),
}


def can_act(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting does anything beside others.

    Args:
        name: of the setting.
        settings: all of them, by name; those that are missing are taken for ones that let it act.
    """
    need = NEEDS.get(name)
    return need is None or settings.get(need.name, need.values[0]) in need.values


def check_alignment_arguments(args: "AlignmentArguments", together: bool = True) -> None:
    """Checks the method's settings, again at the start of a training run: a search may have set them since.

    Args:
        args: the settings.
        together: whether settings that can't act beside the others are refused.

    Raises:
        ValueError: names the field, the value given and what is allowed.
    """
    for name, allowed in CHOICES.items():
        value = getattr(args, name)
        if value not in get_args(allowed):
            ending = "." if (advice := GONE_VALUES.get(str(value))) is None else f" any more: {advice}"
            raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, get_args(allowed)))}{ending}")
    for name in SWITCHES:
        if not isinstance(getattr(args, name), bool):
            raise ValueError(f"{name}={getattr(args, name)!r} must be True or False.")
    for name, least in LEAST.items():
        value = getattr(args, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r} must be an integer >= {least}.")
    if (advice := GONE_VALUES.get(str(args.matching_loss))) is not None:
        raise ValueError(f"matching_loss={args.matching_loss!r} is no more: {advice}")
    weight, mode = args.matching_weight, args.weight_mode
    if not 0 <= _number(args, "matching_weight") <= MOST_WEIGHT[mode]:
        raise ValueError(
            f"matching_weight={weight!r} must be from 0 to {MOST_WEIGHT[mode]:g} with weight_mode={mode!r}."
        )
    if args.companion_decay is not None and not 0 <= _number(args, "companion_decay") < 1:
        raise ValueError(f"companion_decay={args.companion_decay!r} must be from 0 to below 1, or None.")
    parse_bandwidth(args.bandwidth)
    if not isinstance(args.feature, str) or not args.feature:
        raise ValueError(f"feature={args.feature!r} must be 'auto', 'cls', 'mean', 'last' or a module's name.")
    if together and args.matching_weight > 0:  # with 0 nothing of the method acts anyway
        _check_needs(args)
    build_matching_loss(args)


def build_matching_loss(args: "AlignmentArguments") -> MatchingLoss:
    """The matching loss of these settings; `alignment='auto'` is marginal in it until a batch decides.

    Raises:
        ValueError: see `MatchingLoss`.
    """
    own = {name: getattr(args, name) for name, need in NEEDS.items() if need == _MMD and args.matching_loss == MMD}
    alignment = "marginal" if args.alignment == "auto" else args.alignment
    return MatchingLoss(alignment, **own, matching_loss=args.matching_loss, class_weighting=args.class_weighting)


def _check_needs(args: "AlignmentArguments") -> None:
    for name, need in NEEDS.items():
        if can_act(name, vars(args)):
            continue
        value, other = getattr(args, name), getattr(args, need.name)
        field = args.__dataclass_fields__[name]  # of a subclass, whose default may be another
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if value != default:
            raise ValueError(
                f"{name}={value!r} does nothing with {need.name}={other!r}: it acts with {need.name}="
                f"{' or '.join(map(repr, need.values))} alone. Leave it at {default!r}."
            )


def _number(args: "AlignmentArguments", name: str) -> float:
    value = getattr(args, name)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}={value!r} must be a number.")
    return float(value)
