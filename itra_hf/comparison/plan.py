"""What a comparison runs: every variant with every seed and size of training set, each run known by a key."""

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformers import HfArgumentParser
from transformers.utils import logging

from ..by_name import own_file
from ..config import ITRAConfig, setting
from ..config_checks import can_act
from ..text.data import DataArguments
from ..text.models import ModelArguments
from ..written_yaml import meaning
from .measures import BY_NAME
from .rivals.choice import RIVALS
from .variants import BASELINES, DEFAULTS, FIXED, ITRA, PLAIN, TWICE, Variant, load_trainer, naming, read_variant

logger = logging.get_logger(__name__)

EqualCompute = Literal["batch", "steps", "both", "none"]
QUIET = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 0.05}


@dataclass
class ComparisonArguments:
    """How to compare; the variants themselves stand under `variants` in the YAML file.

    Raises:
        ValueError: a value out of range.
    """

    seeds: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4, 5],
        metadata={"help": "One run of every variant for each. Fewer than five seldom tell a gain from chance."},
    )
    max_train_samples: list[int] = field(
        default_factory=list,
        metadata={"help": "Random subsets of these sizes to train on, one after the other; default: all examples."},
    )
    equal_compute: EqualCompute = setting(
        "The plain run that sees as many examples as one with companions: 'batch' takes twice the batch in as many "
        "steps, 'steps' takes twice the steps, 'both' runs both, 'none' neither.",
        "batch",
    )
    metric: str | None = setting(
        f"What the verdict goes by: {', '.join(BY_NAME)}; default: accuracy, for regression mse, with rivals "
        "'longtail' f1_macro."
    )
    label_noise: float = setting("The share of training labels to replace by wrong ones, 0 to below 1.", 0.0)
    class_imbalance: float = setting(
        "Thins the training classes to sizes that fall to one in this many, >= 1; 1: not at all.", 1.0
    )
    unknown_classes: int = setting(
        "Leaves so many classes out of training, and measures how well their texts are told apart.", 0
    )
    temperature_share: float = setting(
        "Keeps this share of each training set out, 0 to below 1, fits a temperature on it, and measures likelihood "
        "and calibration with it too.",
        0.0,
    )
    rivals: str | None = setting(
        "Puts what people try on such data beside the variants: 'longtail', 'noise' (wrong labels) or 'small' (few "
        "examples); see itra_hf.comparison.rivals."
    )
    processes: int = setting("Runs at one time, >= 1, as far as memory allows; they share the threads and the GPUs.", 1)

    def __post_init__(self) -> None:
        """Checks the fields."""
        seeds, sizes, unknown, metric = self.seeds, self.max_train_samples, self.unknown_classes, self.metric
        different = len(set(seeds)) == len(seeds) > 0 and all(0 <= seed < 2**32 for seed in seeds)
        ways = (*TWICE, "both", "none")
        least = 1 if (metric or "").startswith("unknown_") else 2 if (metric or "").startswith("new_classes_") else 0
        scaled = not (metric or "").endswith("_scaled") or self.temperature_share > 0
        for name, fits, needed in (
            ("seeds", different, "must be different integers >= 0 and below 2**32, one or more"),
            ("max_train_samples", all(size >= 1 for size in sizes), "must be integers >= 1"),
            ("max_train_samples", len(set(sizes)) == len(sizes), "must be different sizes"),
            ("label_noise", 0 <= self.label_noise < 1, "must be from 0 to below 1"),
            ("class_imbalance", 1 <= self.class_imbalance < math.inf, "must be a number >= 1"),
            ("unknown_classes", type(unknown) is int and unknown >= 0, "must be an integer >= 0"),
            ("temperature_share", 0 <= self.temperature_share < 1, "must be from 0 to below 1"),
            ("rivals", self.rivals in (None, *RIVALS), f"is not one of {', '.join(map(repr, RIVALS))}"),
            ("processes", self.processes >= 1, "must be an integer >= 1"),
            ("equal_compute", self.equal_compute in ways, f"is not one of {', '.join(map(repr, ways))}"),
            ("metric", metric in (None, *BY_NAME), f"is not one of {', '.join(map(repr, BY_NAME))}"),
            ("metric", not least or unknown >= least, f"needs unknown_classes >= {least}"),
            ("metric", scaled, "needs temperature_share above 0"),
        ):
            if not fits:
                raise ValueError(f"{name}={getattr(self, name)!r} {needed}.")


@dataclass(frozen=True)
class Run:
    """One training run, complete and as plain values, so that it can be hashed and sent to a process."""

    variant: str  # its name
    seed: int  # of the data, the head and the order
    train_samples: int | None  # the size of the training set; `None` for all
    fields: dict[str, Any]  # of `ModelArguments`, `DataArguments` and `ITRAConfig`
    trainer: str  # like the next two, see `Variant`
    trainer_arguments: dict[str, Any]
    extra_compute: str
    label_noise: float  # like the next and the last, see `ComparisonArguments`
    class_imbalance: float
    sources: dict[str, str]  # a hash of each file that the run reads, by name; of a local model's, sizes and times
    unknown_classes: int = 0
    temperature_share: float = 0.0

    @property
    def key(self) -> str:
        """A folder name: readable, and another one whenever anything that decides the result is another."""
        content = asdict(self) | {"fields": without_secrets(self.fields)}
        del content["variant"]
        for name in ("unknown_classes", "temperature_share"):
            if not content[name]:
                del content[name]  # so that runs from before there was this setting are still found
        digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
        name = re.sub(r"[^a-zA-Z0-9]+", "-", self.variant).strip("-").lower()[:40] or "variant"
        return f"{name}-{self.train_samples or 'all'}-seed{self.seed}-{digest}"

    def arguments(self, output_dir: str | Path) -> tuple[ModelArguments, DataArguments, ITRAConfig]:
        """The arguments to train with.

        Raises:
            ValueError: a wrong value; see `ITRAConfig`.
        """
        parser = HfArgumentParser((ModelArguments, DataArguments, ITRAConfig))  # type: ignore[arg-type]
        return parser.parse_dict({**self.fields, "output_dir": str(output_dir)})  # type: ignore[return-value]

    def check_sources(self) -> None:
        """Checks that the data and trainer files are those that the run was planned with.

        Raises:
            ValueError: one has changed.
        """
        for name, digest in self.sources.items():
            if "-" not in digest and _hashes(name) != {name: digest}:
                raise ValueError(f"{name} has changed since the comparison began; start the command again.")


class Plan(NamedTuple):
    """What to run and how."""

    args: ComparisonArguments
    common: dict[str, Any]  # the fields that all runs share
    variants: list[Variant]  # the plain Trainer first, then its runs of equal compute, then the others
    output_dir: Path  # where runs and reports go
    left_out: Mapping[str, str] = {}  # of the rivals asked for, those that don't go with the arguments, and why

    @property
    def sizes(self) -> list[int | None]:
        """The sizes of the training set; `None` for all examples."""
        return [*self.args.max_train_samples] or [None]

    @property
    def other_losses(self) -> list[str]:
        """The variants that may log a loss of another kind: by trainers of their own, or with labels smoothed more."""
        name = "label_smoothing_factor"
        smoothed = self.common.get(name, 0)
        return [
            each.name
            for each in self.variants
            if each.trainer not in (PLAIN, ITRA) or each.settings.get(name, smoothed) != smoothed
        ]

    def baselines(self, variant: Variant) -> list[str]:
        """The plain runs that are fair to compare a variant with."""
        return [each.name for each in self.variants if each.name in BASELINES][: None if variant.sees_twice else 1]

    def runs(self) -> Iterator[Run]:
        """All runs, seed by seed, so that a study that is cut short has whole seeds; first one of each variant."""
        args, sources = self.args, _sources(self.common)
        for seed, size, variant in itertools.product(args.seeds, self.sizes, self.variants):
            fields = self._given(variant) | {"seed": seed}
            named = (own_file(str(name)) for name in (variant.trainer, fields.get("matching_loss")) if name)
            yield Run(
                variant=variant.name,
                seed=seed,
                train_samples=size,
                fields=fields,
                trainer=variant.trainer,
                trainer_arguments=dict(variant.trainer_arguments),
                extra_compute=variant.extra_compute,
                label_noise=args.label_noise,
                class_imbalance=args.class_imbalance,
                sources=sources | _hashes(*named),
                unknown_classes=args.unknown_classes,
                temperature_share=args.temperature_share,
            )

    def _given(self, variant: Variant) -> dict[str, Any]:
        """What a variant's runs are given: of the common fields not those that act in other variants only."""

        def acts(name: str, other: Variant) -> bool:
            return can_act(name, {**DEFAULTS, **self.common, **other.settings})

        aligned = [each for each in self.variants if each.aligns]
        common = {  # those that act in none are refused later
            name: value
            for name, value in self.common.items()
            if acts(name, variant) or not any(acts(name, each) for each in aligned)
        }
        given = {**QUIET, **common, **variant.settings}
        if variant.trainer == PLAIN:  # its runs stay the same when the method's settings change
            return {name: value for name, value in given.items() if name not in DEFAULTS}
        return {**DEFAULTS, **given} if variant.aligns else given  # so that other defaults are another run


def make_plan(
    args: ComparisonArguments, common: Mapping[str, Any], variants: Any, output_dir: str, preset: str | None = None
) -> Plan:
    """Checks the variants, and builds every variant's configuration once, so that errors show before the first run.

    Args:
        args: how to compare.
        common: fields of `ModelArguments`, `DataArguments` and `ITRAConfig`.
        variants: by name, their settings; `None` for ITRATrainer with the common settings.
        output_dir: where runs and reports go.
        preset: what the variants with the method's settings start from; `common` and their own settings override it.

    Raises:
        ValueError: an unknown field or preset, a wrong value, or a variant that is no mapping.
    """
    named = {ITRA: {}} if meaning(variants) is None else variants
    if not isinstance(named, Mapping) or not named:
        raise ValueError(f"variants must map names to settings, like `ITRA: {{matching_weight: 0.2}}`, not {named!r}.")
    if args.rivals is not None:
        named = {**named, **{name: each for name, each in RIVALS[args.rivals].items() if name not in named}}
    common = {name: value for name, value in common.items() if name not in FIXED}
    own = [read_variant(str(name), settings, common, preset) for name, settings in named.items()]
    taken = {*BASELINES}
    for variant in own:
        if variant.name in taken:
            raise ValueError(f"The variant's name {variant.name!r} is taken; call it something else.")
        taken.add(variant.name)
    plain = [Variant(PLAIN)]
    if any(variant.sees_twice for variant in own):
        plain += [Variant(TWICE[way], extra_compute=way) for way in TWICE if args.equal_compute in (way, "both")]
    plan = Plan(args, common, plain + own, Path(output_dir))
    written, left_out = {PLAIN, *TWICE.values(), *map(str, variants if isinstance(variants, Mapping) else ())}, {}
    for run in itertools.islice(plan.runs(), len(plan.variants)):
        with naming(run.variant):
            if (problem := _problem(run, plan.output_dir)) is None:
                continue
            if run.variant in written or args.rivals is None:
                raise ValueError(problem)
            left_out[run.variant] = problem
            logger.warning(f"rivals={args.rivals!r} leaves {run.variant} out: {problem}")
    kept = [variant for variant in plan.variants if variant.name not in left_out]
    return plan._replace(variants=kept, left_out=left_out)


def _problem(run: Run, output_dir: Path) -> str | None:
    """Which of its arguments don't go with a run's trainer, in words."""
    args = run.arguments(output_dir)[2]
    if args.prediction_loss_only:
        return "prediction_loss_only=True leaves no predictions to measure; leave it out."
    refusal = getattr(load_trainer(run.trainer), "refusal", None)
    return None if refusal is None else refusal(args, **run.trainer_arguments)


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without access tokens."""
    return {name: value for name, value in settings.items() if "token" not in name.split("_")}


def _sources(common: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the data files, and sizes and times of a local model's, which are too large to be read each time."""
    files = [common.get(name) for name in ("train_file", "validation_file", "test_file")]
    if (folder := common.get("dataset_name")) is not None:
        files += [path for path in Path(folder).rglob("*") if path.suffix != ".py"]  # code there is not run
    models = [common[name] for name in ("model_name_or_path", "tokenizer_name") if common.get(name) is not None]
    stats = {str(path): path.stat() for model in models for path in Path(model).glob("*") if path.is_file()}
    return _hashes(*files) | {name: f"{stat.st_size}-{stat.st_mtime_ns}" for name, stat in stats.items()}


def _hashes(*names: str | Path | None) -> dict[str, str]:
    """By name, of those that are files."""
    files = [str(name) for name in names if name is not None and os.path.isfile(name)]
    return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] for file in files}
