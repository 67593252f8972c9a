"""What a training run of ours has, aligned or only measured: its settings, the tap on its model, its callbacks."""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.utils import logging

from ..config import AlignmentArguments
from ..features.placing import ModelTap
from ..mixins import TrainerBase, show_base_signatures

logger = logging.get_logger(__name__)


class RunMixin(TrainerBase):
    """The part of our Trainers that the others stand on."""

    _itra_tap: ModelTap
    _itra_warned: set[str]
    _itra_defaults: AlignmentArguments

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_base_signatures(cls, __name__.partition(".")[0])

    if not TYPE_CHECKING:  # so that editors show the constructor of the Trainer below

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Before the Trainer's own constructor, for those of subclasses may evaluate.
            self._itra_defaults, self._itra_warned, self._itra_tap = AlignmentArguments(), set(), ModelTap([])
            super().__init__(*args, **kwargs)
            self._itra_tap = ModelTap(self.label_names)

    @property
    def alignment_args(self) -> AlignmentArguments:
        """The method's settings: `args` itself, or the defaults for plain `TrainingArguments`."""
        return self.args if isinstance(self.args, AlignmentArguments) else self._itra_defaults

    def _itra_warn_once(self, message: str) -> None:
        if message not in self._itra_warned and self.is_world_process_zero():
            self._itra_warned.add(message)
            logger.warning(message)

    def _itra_callbacks_of_run(self) -> list[TrainerCallback]:
        """Those that a run with these settings needs; they are gone after it, for they hold the Trainer."""
        return []

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        # Nothing public comes between a search's setting of its trial's settings, in `train()`, and the callbacks.
        callbacks = self._itra_callbacks_of_run()
        for callback in callbacks:
            self.add_callback(callback)
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            for callback in callbacks:
                self.remove_callback(callback)
            self._itra_tap.remove()
