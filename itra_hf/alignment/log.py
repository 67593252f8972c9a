"""What happens to losses and features during training, gathered on the device without a synchronisation per step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SERIES = ("task_loss", "matching_loss", "matching_weight")
START_STEPS = 10  # steps whose mean spread counts as the start
SPREAD_DECAY = 0.9
COLLAPSE_THRESHOLD = 0.02  # of the start's spread


class TrainingWatch:
    """Means of the logged series since the last log line, and the features' spread since the start.

    Args:
        device: where the losses live.

    Attributes:
        sums: `[5]`: the sums of `SERIES` since the last log line, and the numbers of optimizer steps in all and of
            those that aligned.
        spread: `[2]`: the mean spread of the first `START_STEPS` steps, and the running one.
        steps: how many the spread has seen.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(SERIES) + 2, device=device)
        self.spread = torch.zeros(2, device=device)
        self.steps = 0.0
        self.warned = False

    def add(
        self,
        task_loss: Tensor,
        matching_loss: Tensor | None = None,
        weight: Tensor | None = None,
        features: Tensor | None = None,
        share: float = 1.0,
    ) -> None:
        """Takes one micro-batch in.

        Args:
            task_loss: a scalar.
            matching_loss: a scalar; `None` where nothing was aligned.
            weight: a scalar, of the matching loss.
            features: `[n, dim]`, whose mean squared distance from their mean is followed; `None` where there are none.
            share: the micro-batch's part of an optimizer step.
        """
        zero, one = self.sums.new_zeros(()), self.sums.new_ones(())
        aligned = (zero, zero) if matching_loss is None or weight is None else (matching_loss, weight)
        losses = [each.detach().float() for each in (task_loss, *aligned)]
        self.sums += share * torch.stack([*losses, one, one if matching_loss is not None else zero])
        if features is not None:
            rows = features.detach().float()
            self._follow_spread((rows - rows.mean(dim=0)).square().sum(dim=1).mean(), share)

    def _follow_spread(self, current: Tensor, share: float) -> None:
        if self.steps < START_STEPS:
            self.spread = self.spread.lerp(current, share / (self.steps + share))  # both
        else:
            self.spread[1].lerp_(current, 1 - SPREAD_DECAY**share)
        self.steps += share

    def check_finite(self, step: int, epoch: float) -> None:
        """Stops training if the matching loss was not finite since the last log line.

        Args:
            step: optimizer steps done so far.
            epoch: epochs done so far.

        Raises:
            FloatingPointError: says where.
        """
        matching = self.sums[SERIES.index("matching_loss")]
        if not torch.isfinite(matching):
            task = "" if torch.isfinite(self.sums[SERIES.index("task_loss")]) else "The task loss is not finite. "
            raise FloatingPointError(
                f"{task}The matching loss became {float(matching)} at or before step {step + 1} (epoch {epoch:.2f}). "
                "The features are not finite or too large: look for bad values in the training data, lower the "
                "learning rate, or train in bf16 instead of fp16."
            )

    def drain(self, sums: Tensor) -> dict[str, float]:
        """Empties the window.

        Args:
            sums: `self.sums`, added up over processes.

        Returns:
            The mean of each series over steps, the matching loss's over those that aligned; without those that no
            step has.
        """
        task_loss, matching_loss, weight, steps, aligned = sums.tolist()
        self.sums.zero_()
        counts = (steps, aligned, steps)
        means = zip(SERIES, (task_loss, matching_loss, weight), counts, strict=True)
        return {name: total / count for name, total, count in means if count}

    def collapse_warning(self) -> str | None:
        """What to say where the spread has fallen below the threshold; `None` otherwise, and after the first time."""
        start, running = self.spread.tolist()
        if self.warned or not start > 0 or running >= COLLAPSE_THRESHOLD * start:
            return None
        self.warned = True
        return (
            f"The features are collapsing: their spread is {running / start:.1%} of what it was at the start. Lower "
            "matching_weight, use weight_mode='balanced', or with matching_loss='mmd' set estimator='unbiased'."
        )

    def state_dict(self, sums: Tensor) -> dict[str, list[float]]:
        """What a checkpoint needs to go on; JSON keeps every float32 exactly.

        Args:
            sums: `self.sums`, averaged over processes, which all load the same.
        """
        return {"sums": sums.tolist(), "spread": [*self.spread.tolist(), self.steps]}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Restores `state_dict()`."""
        self.sums = self.sums.new_tensor(state["sums"])
        *spread, self.steps = state["spread"]
        self.spread = self.spread.new_tensor(spread)
