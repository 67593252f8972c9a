"""The features that evaluation passes compute anyway, gathered into class statistics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import default_compute_objective

from .compactness import ClassStatistics

PREFIX = "compactness"


class EvaluatedFeatures:
    """The class statistics of each evaluation set: before training, and as last evaluated.

    Attributes:
        before: by the metrics' prefix (`eval`, or `eval_<name>` with several sets), from before the first step.
        latest: by that prefix, from the last pass.
        steps: the optimizer steps done by that pass.
        current: of the pass that is running, if any.
    """

    def __init__(self) -> None:
        self.before: dict[str, ClassStatistics] = {}
        self.latest: dict[str, ClassStatistics] = {}
        self.steps: dict[str, int] = {}
        self.current: ClassStatistics | None = None

    @contextmanager
    def passing_over(self, prefix: str, before_training: bool, step: int = 0) -> Iterator[ClassStatistics]:
        """Makes `current` for one pass and files it under `prefix` afterwards."""
        self.current = statistics = ClassStatistics()
        try:
            yield statistics
        finally:
            self.current = None
        (self.before if before_training else self.latest)[prefix] = statistics
        if not before_training:
            self.steps[prefix] = step


def compactness_metrics(statistics: ClassStatistics, prefix: str) -> dict[str, float]:
    """The figures under the names that logs show, such as `eval_compactness_scatter_ratio`; none without labels."""
    if not statistics.counts.sum():
        return {}
    return {f"{prefix}_{PREFIX}_{name}": value for name, value in statistics.compactness().items()}


def objective_without_compactness(metrics: dict[str, float]) -> float:
    """A search's default objective of the other metrics: their sum, or the loss where there is none."""
    return default_compute_objective({name: value for name, value in metrics.items() if f"_{PREFIX}_" not in name})


class StartOfTraining(TrainerCallback):
    """Calls a method when a training run starts.

    Args:
        method: takes nothing.
    """

    def __init__(self, method: Callable[[], None]) -> None:
        self.method = method

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Calls it."""
        self.method()
