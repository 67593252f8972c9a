"""The Trainer layer that measures: compactness in evaluation, the noise of the gradient."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from ..config import AlignmentArguments
from ..features.forward import find_labels
from ..features.placing import ModelTap
from ..features.randomness import untouched_randomness
from ..mixins import TrainerBase, show_base_signatures
from ..processes import agree
from .evaluation import EvaluatedFeatures, StartOfTraining, compactness_metrics, objective_without_compactness
from .gradient_noise import GradientNoiseCallback

logger = logging.get_logger(__name__)


class EvaluationMixin(TrainerBase):
    """The part of `ReportingMixin` that measures."""

    _itra_tap: ModelTap
    _itra_warned: set[str]
    _itra_evaluated: EvaluatedFeatures
    _itra_defaults: AlignmentArguments

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_base_signatures(cls, __name__.partition(".")[0])

    if not TYPE_CHECKING:  # so that editors show the constructor of the Trainer below

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Before the Trainer's own constructor, for those of subclasses may evaluate.
            self._itra_defaults, self._itra_warned = AlignmentArguments(), set()
            self._itra_tap, self._itra_evaluated = ModelTap([]), EvaluatedFeatures()
            super().__init__(*args, **kwargs)
            self._itra_tap = ModelTap(self.label_names)

    def _itra_warn_once(self, message: str) -> None:
        if message not in self._itra_warned and self.is_world_process_zero():
            self._itra_warned.add(message)
            logger.warning(message)

    @property
    def alignment_args(self) -> AlignmentArguments:
        """The method's settings: `args` itself, or the defaults for plain `TrainingArguments`."""
        return self.args if isinstance(self.args, AlignmentArguments) else self._itra_defaults

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._itra_evaluated = EvaluatedFeatures()
        callbacks = self._itra_callbacks_of_run()
        for callback in callbacks:
            self.add_callback(callback)
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            for callback in callbacks:
                self.remove_callback(callback)
            self._itra_tap.remove()

    def _itra_callbacks_of_run(self) -> list[TrainerCallback]:
        """Those that a run with these settings needs; they are gone after it, for they hold the Trainer."""
        args = self.alignment_args
        callbacks: list[TrainerCallback] = []
        if args.eval_compactness and self.eval_dataset is not None:
            callbacks.append(StartOfTraining(self._itra_measure_start))
        if args.gradient_noise_steps:
            callbacks.append(GradientNoiseCallback(self, args.gradient_noise_steps))
        return callbacks

    # ---- Evaluation ----

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The stock loop, with `<prefix>_compactness_*` among the metrics where `eval_compactness` asks for it."""
        run = partial(super().evaluation_loop, dataloader, description, prediction_loss_only, ignore_keys)
        if not self.alignment_args.eval_compactness:
            return run(metric_key_prefix)
        before_training = self.is_in_train and self.state.global_step == 0
        try:
            step = self.state.global_step
            with self._itra_evaluated.passing_over(metric_key_prefix, before_training, step) as statistics:
                output = run(metric_key_prefix)
        finally:
            if not self.is_in_train:
                self._itra_tap.remove()
        (output.metrics or {}).update(compactness_metrics(statistics, metric_key_prefix))
        return output

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The stock step; its features go into the running compactness measurement, if there is one."""
        if self._itra_evaluated.current is None:
            return super().prediction_step(model, inputs, *args, **kwargs)
        inputs = self._prepare_inputs(inputs)
        tap, _ = self._itra_tap.place(
            self.alignment_args.feature, self.model, model, partial(agree, self.accelerator), inputs
        )
        with tap.recording():
            result = super().prediction_step(model, inputs, *args, **kwargs)
        labels = find_labels(inputs, self.label_names)
        if labels is not None:
            features, labels = self.accelerator.gather_for_metrics((tap.features(inputs).float(), labels))
            self._itra_evaluated.current.add(features.cpu().numpy(), labels.cpu().numpy())
        return result

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The stock search; without `compute_objective`, compactness stays out of what it optimises."""
        objective = compute_objective or objective_without_compactness
        return super().hyperparameter_search(hp_space, objective, n_trials, direction, *args, **kwargs)

    def _itra_measure_start(self) -> None:
        """Logs the compactness of the features before the first step of a fresh run."""
        if self.state.global_step or self.args.eval_on_start:  # a whole evaluation follows anyway
            return
        with untouched_randomness():
            self._itra_measure_evaluation_sets()

    def _itra_measure_evaluation_sets(self) -> None:
        sets = {f"eval_{name}": name for name in self.eval_dataset} if isinstance(self.eval_dataset, dict) else {}
        wrapped: Any = self.model
        model = self._wrap_model(wrapped, training=False)
        training = model.training
        model.eval()
        for prefix, name in (sets or {"eval": None}).items():
            with self._itra_evaluated.passing_over(prefix, before_training=True) as statistics:
                for inputs in self.get_eval_dataloader(name):
                    self.prediction_step(model, inputs, prediction_loss_only=True)
            metrics = compactness_metrics(statistics, prefix)
            if metrics:
                self.log(metrics)
        model.train(training)
