"""What people weigh alignment against, as small `Trainer` subclasses, and which of them fit which data.

In the YAML file of a comparison:
    variants:
      GCE: {trainer: "itra_hf.comparison.rivals:GeneralizedCrossEntropyTrainer", trainer_arguments: {q: 0.5}}
"""

from .extrapolated import ExtrapolatedTrainer
from .long_tail import ClassBalancedTrainer, EqualizationTrainer, LogitAdjustedTrainer
from .regularised import AveragedTrainer, RDropTrainer, SupConTrainer
from .retargeted import RetargetedTrainer
from .staged import StagewiseTrainer
from .transport import TransportTrainer
from .wrong_labels import GeneralizedCrossEntropyTrainer, SmallLossTrainer

__all__ = [
    "AveragedTrainer",
    "ClassBalancedTrainer",
    "EqualizationTrainer",
    "ExtrapolatedTrainer",
    "GeneralizedCrossEntropyTrainer",
    "LogitAdjustedTrainer",
    "RDropTrainer",
    "RetargetedTrainer",
    "SmallLossTrainer",
    "StagewiseTrainer",
    "SupConTrainer",
    "TransportTrainer",
]
