"""In-training representation alignment (ITRA) for the Hugging Face Trainer."""

from importlib.metadata import version

from .config import AlignmentArguments, ITRAConfig
from .hub.publishing import ReportingMixin
from .losses import MatchingLoss
from .moved import install as _say_what_moved
from .reports.gradient_noise import GradientNoiseCallback
from .trainer import ITRAMixin, ITRATrainer

__version__ = version("itra_hf")
_say_what_moved()
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
