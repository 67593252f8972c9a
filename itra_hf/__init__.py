"""In-training representation alignment (ITRA) for the Hugging Face Trainer."""

from .config import AlignmentArguments, ITRAConfig
from .matching import MatchingLoss
from .trainer import ITRAMixin, ITRATrainer

__version__ = "0.1.0"
__all__ = ["AlignmentArguments", "ITRAConfig", "ITRAMixin", "ITRATrainer", "MatchingLoss", "__version__"]
