"""The feature tap: catches what goes into the classifier's last linear layer while the model runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .pooling import pool


class FeatureTap:
    """Records the input of one module (or the output of the backbone) during `recording()`.

    Outside `recording()` the hook does nothing, so the tap may stay on the model.

    Args:
        module: the module to watch.
        pooling: `"input"`: the module's input is the feature, or holds one feature a token; `"cls"`, `"mean"`,
            `"last"`: the module's output is one hidden state a token, to be pooled.
        pad_token_id: how a model that scores every token finds the last one; see `pool`.

    Attributes:
        captured: the tensor as tapped, `[batch, dim]` or `[batch, tokens, dim]`, still in the graph.
    """

    def __init__(self, module: nn.Module, pooling: str = "input", pad_token_id: int | None = None) -> None:
        self.module = module
        self.pooling = pooling
        self.pad_token_id = pad_token_id
        self.captured: Tensor | None = None
        self._recording = False
        if pooling == "input":
            self._handle = module.register_forward_pre_hook(self._on_input, with_kwargs=True)
        else:
            self._handle = module.register_forward_hook(self._on_output)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the next forward passes; the last one's tensor stays in `captured`."""
        self.captured, self._recording = None, True
        try:
            yield
        finally:
            self._recording = False

    def features(self, inputs: Mapping[str, Any]) -> Tensor:
        """The features of the recorded pass.

        Args:
            inputs: what the model was called with.

        Returns:
            `[batch, dim]` in the model's own dtype.

        Raises:
            RuntimeError: nothing was recorded.
        """
        return pool(self.taken(), inputs, self.pooling, self.pad_token_id)

    def taken(self) -> Tensor:
        """The recorded tensor itself.

        Raises:
            RuntimeError: nothing was recorded.
        """
        if self.captured is None:
            raise RuntimeError("The model ran without the module that the feature is taken from.")
        return self.captured

    def remove(self) -> None:
        """Takes the hook off the model."""
        self._handle.remove()

    def _on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._recording:
            if torch.compiler.is_compiling():
                # In one graph with the logits, the feature would be an output beside them, not on their way.
                torch._dynamo.graph_break()
            self.captured = args[0] if args else next(iter(kwargs.values()))

    def _on_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._recording:
            values = output.values() if isinstance(output, Mapping) else output
            tensors = (value for value in values if isinstance(value, Tensor))
            self.captured = output if isinstance(output, Tensor) else next(tensors, None)
