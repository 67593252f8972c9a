"""Which remedy helps which data? The runs that `rivals.md` plans, beside the protocol's own in `protocol/`.

    python -m examples.study rivals [CONDITION ...] [--gpu]
    python -m examples.study rivals --tune [--gpu]   # the runs that choose each rival's setting, on other documents
    python -m examples.study rivals --time   # those whose time is told, once the settings are chosen

What is there is not run again. Each run takes one core: start this as many times as there are cores.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import averaged
import numpy as np
from cells import PLAIN, finish, read_figures
from protocol import OUTPUT, RESULTS, SECOND_BATCH, SEEDS, TUNING_SEEDS, VARIANTS, held_out, make, runs_of

from itra_hf.comparison.plan import Run

PACKAGE = "itra_hf.comparison.rivals:"


class Rival(NamedTuple):
    """A trainer of the package, and the values of its main setting that are tried."""

    trainer: str
    setting: str
    values: tuple[float, ...]
    twice: bool = False

    def settings(self, value: float) -> dict[str, Any]:
        """Of a variant of `itra-hf compare`."""
        given = {"trainer": PACKAGE + self.trainer, "trainer_arguments": {self.setting: value}}
        return {**given, "twice_compute": True} if self.twice else given


# By the kind of condition that they are for.
RIVALS: Mapping[str, Mapping[str, Rival]] = {
    "thin": {
        "logit-adjustment": Rival("LogitAdjustedTrainer", "strength", (0.5, 1.0, 2.0)),
        "class-balanced": Rival("ClassBalancedTrainer", "beta", (0.9, 0.99, 0.999)),
        "equalization": Rival("EqualizationTrainer", "strength", (0.5, 1.0, 2.0)),
        "transport": Rival("TransportTrainer", "smoothness", (0.03, 0.1, 1.0)),
        "retargeting": Rival("RetargetedTrainer", "negative", (0.5, 0.9, 0.98)),
    },
    "noise": {
        "generalised": Rival("GeneralizedCrossEntropyTrainer", "q", (0.2, 0.5, 0.7)),
        "small-loss": Rival("SmallLossTrainer", "wrong", (0.1, 0.2, 0.3)),
    },
    "few": {
        "rdrop": Rival("RDropTrainer", "strength", (0.3, 1.0, 3.0), twice=True),
        "supcon": Rival("SupConTrainer", "weight", (0.1, 0.3, 0.5)),
        "extrapolation": Rival("ExtrapolatedTrainer", "distance", (0.5, 1.0, 2.0)),
        "stages": Rival("StagewiseTrainer", "stages", (2, 3, 4)),
    },
}
# A rival that is aligned too, with its setting as chosen for itself.
ALSO_ALIGNED = {"thin": ("second-batch-adjusted", "logit-adjustment", f"{averaged.__file__}:AlignedAdjustedTrainer")}
SHOWN = {f"{kind}-{corpus}": kind for kind in RIVALS for corpus in ("20newsgroups", "r52")}  # the conditions
CHOSEN_BY = {"thin": "f1_macro", "noise": "accuracy", "few": "accuracy"}
RUN_WITH = SEEDS[:10]
TUNED_ON = "20newsgroups"
TUNING = RESULTS / "tuning-rivals"
TIMES, TIMED = RESULTS / "times", "few"  # the kind where the protocol's own variants are timed


def tuning_runs(kind: str, gpu: bool = False) -> Iterator[Run]:
    """The runs that choose the settings of a kind's rivals."""
    variants = {
        f"{name}-{value:g}": rival.settings(value) for name, rival in RIVALS[kind].items() for value in rival.values
    }
    return runs_aside(kind, variants, gpu)


def timed_runs(kind: str) -> Iterator[Run]:
    """The runs that tell how long a kind's rivals take, and plain ones; with `TIMED` also the protocol's others."""
    own = {name: rival for name, rival in variants_of(f"{kind}-{TUNED_ON}").items() if name in RIVALS[kind]}
    return runs_aside(kind, {**(VARIANTS if kind == TIMED else {PLAIN: VARIANTS[PLAIN]}), **own}, gpu=False)


def runs_aside(kind: str, variants: Mapping[str, Mapping[str, Any]], gpu: bool) -> Iterator[Run]:
    """Runs of the tuning seeds, on documents of the training split alone."""
    return runs_of(f"{kind}-{TUNED_ON}", TUNING_SEEDS, variants, gpu, **held_out(TUNED_ON))


def chosen(kind: str, name: str) -> float | None:
    """The value of a rival's setting that was best in the mean over the tuning seeds; `None` while runs are missing."""
    figures, rival = read_figures(TUNING / kind), RIVALS[kind][name]
    found = {value: figures.get(f"{name}-{value:g}", {}).get(CHOSEN_BY[kind], {}) for value in rival.values}
    if any(sorted(each) != TUNING_SEEDS for each in found.values()):
        return None
    return max(found, key=lambda value: float(np.mean(list(found[value].values()))))


def variants_of(condition: str) -> dict[str, Mapping[str, Any]]:
    """The variants of a condition: the protocol's, and the rivals that it is for and whose settings are chosen."""
    kind = SHOWN[condition]
    values = {name: value for name in RIVALS[kind] if (value := chosen(kind, name)) is not None}
    found = {**VARIANTS, **{name: RIVALS[kind][name].settings(value) for name, value in values.items()}}
    if kind in ALSO_ALIGNED and ALSO_ALIGNED[kind][1] in values:
        name, base, trainer = ALSO_ALIGNED[kind]
        found[name] = {**found[base], **SECOND_BATCH, "trainer": trainer}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CONDITION", help=f"of: {', '.join(SHOWN)}")
    parser.add_argument("--gpu", action="store_true", help="trains on it; runs beside each other leave their time out")
    parser.add_argument("--tune", action="store_true", help="make the runs that choose the settings, and no others")
    parser.add_argument("--time", action="store_true", help="make the runs whose time is told, and no others")
    options = parser.parse_args()
    if options.tune or options.time:
        for kind in RIVALS:
            for run in timed_runs(kind) if options.time else tuning_runs(kind, options.gpu):
                folder = (TIMES if options.time else TUNING) / kind
                finish(run, folder, OUTPUT / "protocol" / f"{folder.parent.name}-{kind}")
        return
    for seed in RUN_WITH:
        for name in options.names or SHOWN:
            make(runs_of(name, [seed], variants_of(name), options.gpu), name)


if __name__ == "__main__":
    main()
