"""Which rivals fit which data, for plans that nobody has to write."""

from collections.abc import Mapping
from typing import Any

TRAINERS = f"{__package__}:"
SMOOTHED: Mapping[str, Any] = {"label_smoothing_factor": 0.1}
SMOOTHING: Mapping[str, Mapping[str, Any]] = {
    "label smoothing": {"trainer": "Trainer", **SMOOTHED},
    "ITRA and label smoothing": SMOOTHED,
}

RIVALS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "longtail": {
        "logit adjustment": {"trainer": f"{TRAINERS}LogitAdjustedTrainer"},
        "class-balanced weights": {"trainer": f"{TRAINERS}ClassBalancedTrainer"},
        "equalization loss": {"trainer": f"{TRAINERS}EqualizationTrainer"},
        "optimal transport": {"trainer": f"{TRAINERS}TransportTrainer"},
        "logits retargeting": {"trainer": f"{TRAINERS}RetargetedTrainer"},
    },
    "noise": {
        **SMOOTHING,
        "generalised cross-entropy": {"trainer": f"{TRAINERS}GeneralizedCrossEntropyTrainer"},
        "small-loss selection": {"trainer": f"{TRAINERS}SmallLossTrainer"},
    },
    "small": {
        **SMOOTHING,
        "averaged weights": {"trainer": f"{TRAINERS}AveragedTrainer"},
        "R-Drop": {"trainer": f"{TRAINERS}RDropTrainer", "twice_compute": True},
        "supervised contrast": {"trainer": f"{TRAINERS}SupConTrainer"},
        "extrapolation": {"trainer": f"{TRAINERS}ExtrapolatedTrainer"},
        "stages": {"trainer": f"{TRAINERS}StagewiseTrainer"},
    },
}
