"""How much memory a call takes at its peak."""

import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch


def resident_peak() -> int:
    """Bytes. Not `ru_maxrss` on Linux: a child process starts with its parent's."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def bytes_added(call: Callable[[], object], device: str) -> int:
    """What one call adds at its peak."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far, which the imports may have set
    before = resident_peak()
    call()
    return resident_peak() - before
