"""Guards around a push to the Hub: the token stays out of every file, the user's README and a clear error in."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from .readme import decode_card

CARD_NAME = "README.md"


class HiddenToken(str):
    """A token that works as the string it is, but neither shows in a repr nor goes into a pickle.

    `TrainingArguments` are pickled into `training_args.bin` beside each saved model, and pushed with it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'<HUB_TOKEN>'"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(None), ()

    def __copy__(self) -> "HiddenToken":
        return self

    def __deepcopy__(self, memo: Any) -> "HiddenToken":
        return self


@contextmanager
def keeping_card(folder: str) -> Iterator[None]:
    """Puts a folder's README back as it was: peft replaces the tags of the one it finds where it saves an adapter."""
    path = Path(folder, CARD_NAME)
    content = path.read_bytes() if path.is_file() else None
    yield
    if content is not None:
        path.write_bytes(content)


def read_remote_card(repo: str, revision: str | None, token: str | None) -> str | None:
    """The README of a repository as it is now; `None` where there is none yet.

    Raises:
        HfHubHTTPError: the Hub refused, or failed.
        ConnectionError: the Hub could not be reached.
    """
    try:
        with tempfile.TemporaryDirectory() as cache:  # else the client would take its copy where the Hub fails
            path = hf_hub_download(repo, CARD_NAME, revision=revision, token=token, cache_dir=cache)
            return decode_card(Path(path).read_bytes())
    except LocalEntryNotFoundError as error:
        cause = error.__cause__ if isinstance(error.__cause__, HTTPError) else ConnectionError(str(error))
        raise cause from None
    except (EntryNotFoundError, RepositoryNotFoundError):
        return None


@contextmanager
def explaining(repo: Callable[[], str], folder: str) -> Iterator[None]:
    """Tells with the error of a push what is whole and how to go on.

    Args:
        repo: names the repository; asked only when there is an error, for the Hub completes the name.
        folder: what was to be pushed.

    Raises:
        HfHubHTTPError: the Hub refused, or failed.
        ConnectionError: it could not be reached.
    """
    try:
        yield
    except (HTTPError, ConnectionError, TimeoutError) as error:
        advice = (
            f"The push to {repo()} failed, perhaps in part. The model is whole in {folder}; push again with "
            f"trainer.push_to_hub() or `hf upload {repo()} {folder} . --exclude 'checkpoint-*'`."
        )
        if isinstance(error, HfHubHTTPError):
            error.append_to_message(f"\n{advice}")
            raise
        raise ConnectionError(f"{error}\n{advice}") from error
