"""The batches of all processes as one: rows gathered, whatever number each process has."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn


def average(accelerator: Accelerator, values: Tensor) -> Tensor:
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
