"""The Trainer layer that measures: compactness in evaluation, the noise of the gradient."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, default_compute_objective

from ..alignment.run import RunMixin
from ..batches import drop_column, find_labels
from ..features.models import eval_mode
from ..processes import agree
from ..randomness import untouched_randomness
from .compactness import ClassStatistics
from .gradient_noise import GradientNoiseCallback

PREFIX = "compactness"


@dataclass
class EvaluatedFeatures:
    """The features that evaluation passes compute anyway, as class statistics by the metrics' prefix."""

    before: dict[str, ClassStatistics] = field(default_factory=dict)  # from before the first step
    latest: dict[str, ClassStatistics] = field(default_factory=dict)  # from the last pass
    steps: dict[str, int] = field(default_factory=dict)  # the optimizer steps done by the last pass
    current: ClassStatistics | None = None  # of the pass that is running, if any

    @contextmanager
    def measuring(self, prefix: str, step: int | None) -> Iterator[dict[str, float]]:
        """Makes `current` for one pass, and files it under `prefix` afterwards.

        Args:
            prefix: of the metrics.
            step: the optimizer steps done; `None` before the first step of a run.

        Yields:
            What has the figures at the end, named as in logs: `eval_compactness_scatter_ratio`; none without labels.
        """
        metrics: dict[str, float] = {}
        self.current = statistics = ClassStatistics()
        try:
            yield metrics
        finally:
            self.current = None
        if step is None:
            self.before[prefix] = statistics
        else:
            self.latest[prefix], self.steps[prefix] = statistics, step
        if statistics.counts.sum():
            metrics |= {f"{prefix}_{PREFIX}_{name}": value for name, value in statistics.compactness().items()}


class StartOfTraining(TrainerCallback):
    """Calls a function of no arguments when a training run starts."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Calls it."""
        self.function()


def default_objective(metrics: dict[str, float]) -> float:
    """The stock search's objective of all metrics but compactness: their sum, or the loss where there is none."""
    return default_compute_objective({name: value for name, value in metrics.items() if f"_{PREFIX}_" not in name})


class EvaluationMixin(RunMixin):
    """The part of `ReportingMixin` that measures."""

    _itra_evaluated: EvaluatedFeatures
    _itra_evaluated_sets: dict[str, Any]  # by the metrics' prefix

    if not TYPE_CHECKING:  # so that editors show the constructor of the Trainer below

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Before the Trainer's own constructor, for those of subclasses may evaluate.
            self._itra_evaluated, self._itra_evaluated_sets = EvaluatedFeatures(), {}
            super().__init__(*args, **kwargs)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._itra_evaluated = EvaluatedFeatures()
        return super()._inner_training_loop(*args, **kwargs)

    def _itra_callbacks_of_run(self) -> list[TrainerCallback]:
        every = self.alignment_args.gradient_noise_steps
        noise = [GradientNoiseCallback(self, every)] if every else []
        return [*super()._itra_callbacks_of_run(), StartOfTraining(self._itra_measure_start), *noise]

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The stock loop, with `<prefix>_compactness_*` among the metrics where `eval_compactness` asks for it."""
        self._itra_evaluated_sets[metric_key_prefix] = getattr(dataloader, "dataset", None)
        step = None if self.is_in_train and self.state.global_step == 0 else self.state.global_step
        run = partial(super().evaluation_loop, dataloader, description, prediction_loss_only, ignore_keys)
        if not self.alignment_args.eval_compactness:
            return run(metric_key_prefix)
        try:
            with self._itra_evaluated.measuring(metric_key_prefix, step) as figures:
                output = run(metric_key_prefix)
        finally:
            if not self.is_in_train:
                self._itra_tap.remove()
        (output.metrics or {}).update(figures)
        return output

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The stock step; its features go into the running compactness measurement, if there is one."""
        if self._itra_evaluated.current is None:
            return super().prediction_step(model, inputs, *args, **kwargs)
        inputs = self._prepare_inputs(inputs)
        with self._itra_prepared(inputs):
            if not isinstance(inputs, Mapping):  # no names, by which to know labels
                return super().prediction_step(model, inputs, *args, **kwargs)
            given = dict(inputs)  # which compute_loss may take labels out of
            feature, everywhere = self.alignment_args.feature, partial(agree, self.accelerator)
            tap, _ = self._itra_tap.place(feature, self.model, model, everywhere, given)
            with tap.recording():
                result = super().prediction_step(model, inputs, *args, **kwargs)
        labels = find_labels(given, self.label_names)
        if isinstance(labels, Tensor):
            rows = (tap.features(given).float(), drop_column(labels))
            features, labels = self.accelerator.gather_for_metrics(rows)
            self._itra_evaluated.current.add(features.cpu().numpy(), labels.cpu().numpy())
        return result

    @contextmanager
    def _itra_prepared(self, inputs: Any) -> Iterator[None]:
        """Keeps the stock step from preparing these inputs once more, which a subclass may do in a way of its own."""
        prepare, own = self._prepare_inputs, vars(self).get("_prepare_inputs")
        vars(self)["_prepare_inputs"] = lambda each: each if each is inputs else prepare(each)
        try:
            yield
        finally:
            vars(self).pop("_prepare_inputs")
            if own is not None:  # somebody's, set on this Trainer alone
                vars(self)["_prepare_inputs"] = own

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """The stock search; without `compute_objective`, compactness stays out of what it optimises."""
        return super().hyperparameter_search(hp_space, compute_objective or default_objective, *args, **kwargs)

    def _itra_measure_start(self) -> None:
        """Logs the compactness of the features before the first step of a fresh run."""
        wanted = self.alignment_args.eval_compactness and self.eval_dataset is not None
        if not wanted or self.state.global_step or self.args.eval_on_start:  # a whole evaluation follows anyway
            return
        sets = {f"eval_{name}": name for name in self.eval_dataset} if isinstance(self.eval_dataset, dict) else {}
        wrapped: Any = self.model
        with untouched_randomness():
            model = self._wrap_model(wrapped, training=False)
            for prefix, name in (sets or {"eval": None}).items():
                with eval_mode(model), self._itra_evaluated.measuring(prefix, None) as figures:
                    for inputs in self.get_eval_dataloader(name):
                        self.prediction_step(model, inputs, prediction_loss_only=True)
                if figures:
                    self.log(figures)
