"""What holds over all processes: rows gathered, whatever number each has, means, and what all agree on."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn


def mean_over_processes(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The mean of `values` over processes, the same on all of them; no gradient flows back."""
    return accelerator.reduce(values, reduction="mean") if accelerator.num_processes > 1 else values


def agree(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` holds on every process, so that all of them take the same way."""
    return all(gather_counts(accelerator, int(flag))[0])


def gather_counts(accelerator: Accelerator, *rows: int) -> list[list[int]]:
    """How many rows each process has of each of several tensors.

    Args:
        accelerator: knows the processes.
        rows: this process's numbers of rows.

    Returns:
        For each tensor its number of rows on every process, in the order of the processes.
    """
    if accelerator.num_processes == 1:
        return [[count] for count in rows]
    return accelerator.gather(torch.tensor([rows], device=accelerator.device)).T.tolist()


def gather_rows(accelerator: Accelerator, tensor: Tensor, counts: list[int]) -> Tensor:
    """The rows of all processes, in the order of the processes; no gradient flows back.

    Collectives want equal shapes, so shorter tensors are padded first and the padding is cut off afterwards.

    Args:
        accelerator: knows the processes.
        tensor: `[counts[this process], ...]`; the other dimensions are the same on every process.
        counts: see `gather_counts`.

    Returns:
        `[sum(counts), ...]`.
    """
    most = max(counts)
    padding = (0, 0) * (tensor.dim() - 1) + (0, most - len(tensor))
    padded = nn.functional.pad(tensor.detach(), padding).contiguous()
    pieces = accelerator.gather(padded).split(most)
    return torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])


def holds_shards(accelerator: Accelerator, model: Any) -> bool:
    """Whether a process holds a part of the weights only."""
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.MEGATRON_LM):
        return True
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    parallelism = getattr(accelerator, "parallelism_config", None)
    if getattr(plugin, "zero_stage", 0) == 3 or getattr(parallelism, "tp_size", 1) > 1:
        return True
    return isinstance(model, nn.Module) and any(hasattr(weight, "_local_tensor") for weight in model.parameters())
