"""The Trainer layer that publishes a model: its card, and pushes to the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HfHubHTTPError, HTTPError
from torch import Tensor
from transformers.trainer_utils import HubStrategy, PredictionOutput

from ..features.models import has_finite_weights, unwrap
from ..reports.evaluation import EvaluationMixin
from .card import write_card
from .facts import collect_facts
from .readme import CARD_NAME, listed, read_remote_card


class HiddenToken(str):
    """A token that works as the string it is, but neither shows in a repr nor goes into a pickle.

    `TrainingArguments` are pickled into `training_args.bin` beside each saved model, and pushed with it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'<HUB_TOKEN>'"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(None), ()

    def __copy__(self, *memo: Any) -> "HiddenToken":
        return self

    __deepcopy__ = __copy__


class ReportingMixin(EvaluationMixin):
    """Measures compactness in evaluation and writes the model card, for a `Trainer` subclass; trains as that does.

    `ITRAMixin` includes it. On its own it gives a plain run the same reports, to compare with:
    `class PlainTrainer(ReportingMixin, Trainer)`. The fields `eval_compactness`, `gradient_noise_steps` and `feature`
    of `args` are its settings.
    """

    _itra_predictions: list[dict[str, Any]]  # what `predict` measured in this run, as log entries
    _itra_remote: tuple[str | None, str | None] | None  # revision and token of a push that is under way

    if not TYPE_CHECKING:  # so that editors show the constructor of the Trainer below

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._itra_remote, self._itra_is_saved, self._itra_predictions = None, False, []
            super().__init__(*args, **kwargs)
            self._itra_hide_token()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The stock training; pushes that failed meanwhile are told at its end."""
        self._itra_predictions = []
        output = super().train(*args, **kwargs)
        self._itra_report_failed_pushes()
        return output

    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """The stock prediction; its metrics end in the model card."""
        output = super().predict(*args, **kwargs)
        self._itra_predictions.append({**(getattr(output, "metrics", None) or {}), "step": self.state.global_step})
        return output

    # ---- The card ----

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        dataset_name: str | None = None,
        **unused: Any,
    ) -> None:
        """Writes the model card into `output_dir`, with pictures where matplotlib is installed.

        What the user wrote into an existing README stays, before and after the generated part and in the metadata.
        What is not given is found: the model and data set that were loaded from the Hub, with their revisions, and
        the model's licence. Nothing is claimed of a model or data set that did not come from there.

        Args:
            language: the Hub's codes of the texts' languages, such as `en`.
            license: the Hub's id of the licence, such as `apache-2.0`.
            tags: more tags for the model.
            model_name: the heading; default: the repository's or folder's name.
            finetuned_from: the base model on the Hub.
            tasks: the Hub's task; default: that of the model's class.
            dataset_tags: the data set on the Hub.
            dataset: the same, where `dataset_tags` is not given.
            dataset_args: not used; the card names the data set's revision instead.
            dataset_name: as `dataset`, which some Trainer subclasses call so.
            unused: what else those name.
        """
        if not self.is_world_process_zero():
            return
        said = {
            "base_model": finetuned_from,
            "license": license,
            "language": language,
            "pipeline_tag": next(iter(listed(tasks)), None),
            "datasets": listed(dataset_tags or dataset or dataset_name),
        }
        remote = None
        if self._itra_remote is not None and self.hub_model_id is not None:
            remote = read_remote_card(self.hub_model_id, *self._itra_remote)
        facts = collect_facts(self, said, model_name, listed(tags))
        write_card(Path(self.args.output_dir or ".", CARD_NAME), facts, remote)

    @contextmanager
    def _itra_merging_cards(self, revision: str | None = None, token: str | None = None) -> Iterator[None]:
        """Has `create_model_card`, which the stock push calls, look at the repository's card too."""
        self._itra_remote = revision or self.args.hub_revision, token or self.args.hub_token
        try:
            yield
        finally:
            self._itra_remote = None

    # ---- Pushes ----

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The stock push, with the card of `create_model_card`, which takes the further arguments.

        Raises:
            HfHubHTTPError: the Hub refused, or failed; the message says what is whole and how to go on.
            ConnectionError: the Hub could not be reached.
        """
        self.save_model(_internal_call=True)  # before a Hub that refuses could end the script
        self._itra_is_saved, asked = True, self.args.hub_private_repo
        try:
            if self.hub_model_id is None:
                self.create_model_card(**kwargs)
            if private is not None:
                self.args.hub_private_repo = private  # older Trainers take it from there only
            with self._itra_merging_cards(revision, token):
                return super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
        except (HTTPError, ConnectionError, TimeoutError) as error:
            advice = self._itra_advice()
            if isinstance(error, HfHubHTTPError):
                error.append_to_message(f"\n{advice}")
                raise
            raise ConnectionError(f"{error}\n{advice}") from error
        finally:
            self._itra_is_saved, self.args.hub_private_repo = False, asked
            self._itra_report_failed_pushes()

    def _itra_advice(self) -> str:
        folder = self.args.output_dir or "."
        repo = self.hub_model_id or self.args.hub_model_id or Path(folder).absolute().name
        return (
            f"The push to {repo} failed, perhaps in part. The model is whole in {folder}; push again with "
            f"trainer.push_to_hub() or `hf upload {repo} {folder} . --exclude 'checkpoint-*'`."
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Nothing public is called between the saving of a checkpoint and its push.
        if self.args.hub_strategy == HubStrategy.END or not self.is_world_process_zero():
            return
        if not has_finite_weights(unwrap(self.model)):
            self._itra_warn_once("The weights are not finite, so this checkpoint was not pushed: the run has diverged.")
            return
        push = self.push_in_progress
        if push is None or push.is_done() or self.args.hub_always_push:  # else the stock push is skipped
            try:
                with self._itra_merging_cards():
                    self.create_model_card()
            except Exception as error:  # whatever it is, a card must not end a training run
                self._itra_warn_once(f"The model card was not renewed at this checkpoint: {error}")
        self._itra_report_failed_pushes()  # before the list of pushes starts anew
        super()._push_from_checkpoint(checkpoint_folder)

    def _itra_report_failed_pushes(self) -> None:
        push = getattr(self, "push_in_progress", None)
        for error in filter(None, (job.exception() for job in (push.jobs if push else []) if job.done())):
            self._itra_warn_once(f"A push during training failed: {error}")

    # ---- What is saved ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The stock saving, which a push that has just saved leaves out."""
        if not (self._itra_is_saved and _internal_call and output_dir is None):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # The public save_model pushes before it returns, which is too late to mend what has been written.
        self._itra_hide_token()
        card = Path(output_dir or self.args.output_dir or ".", CARD_NAME)
        # On other processes one may be writing the card by now.
        kept = card.read_bytes() if self.args.should_save and card.is_file() else None
        super()._save(output_dir, state_dict=state_dict)
        if kept is not None:  # for peft replaces the tags of the one that it finds
            card.write_bytes(kept)

    def _itra_hide_token(self) -> None:
        if self.args.hub_token is not None:
            self.args.hub_token = HiddenToken(self.args.hub_token)
