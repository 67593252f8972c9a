"""In-training representation alignment (ITRA) for the Hugging Face Trainer."""

from .config import AlignmentArguments, ITRAConfig
from .gradient_noise import GradientNoiseCallback
from .matching import MatchingLoss
from .reporting import ReportingMixin
from .trainer import ITRAMixin, ITRATrainer

__version__ = "0.2.0"
__all__ = [
    "AlignmentArguments",
    "GradientNoiseCallback",
    "ITRAConfig",
    "ITRAMixin",
    "ITRATrainer",
    "MatchingLoss",
    "ReportingMixin",
    "__version__",
]
