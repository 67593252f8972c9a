"""Time and memory of the matching loss beside a bare matrix product and other libraries, and how both grow.

    python -m examples.benchmarks matching [--n N [N ...]] [--dim DIM] [--rounds N] [--threads N] [--no_memory]

A call is forward and backward, from the features of two batches of n rows to the gradient at both. Its yardstick is the
bare Gram matrix: `z @ z.T` of the 2n pooled rows and its gradient by autograd, twelve products of n x n x dim. An MMD
with its gradient can do with seven, the row `products alone`. All MMDs have one Gaussian kernel; before
any timing their values and gradients are compared with a float64 reference. Ours also finds the bandwidth in the call;
the others are given it.

- Time: rows take turns in one process, in alternating order. A ratio is the median over rounds of (the row's time / the
  Gram matrix's in the same round); the spread is the largest less the smallest.
- Memory: what a call adds at its peak; on a GPU as PyTorch counts it, else resident memory, each in a fresh process.
- What would take over --max_bytes, or over --max_seconds if time grows with the pairs from the n before, is left out
  (the Gram matrix never).

The other libraries are optional: pip install "itra_hf[benchmarks]". pytorch-adapt depends on torchvision, which this
benchmark does not use.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from itra_hf import MatchingLoss
from itra_hf.losses.kernels import resolve_bandwidth
from itra_hf.losses.known_gradient import with_gradient
from itra_hf.losses.mmd import squared_mmd

sys.path.insert(0, str(Path(__file__).parent))
from _peak_memory import bytes_added

CLASSES, PART = 8, 512
DISTANCES = str(Path(__file__).resolve().parents[1] / "distances.py")
CHECK_ROWS = 48  # above 25, from where on torch.cdist takes the Gram matrix, as it will at the sizes that are timed
TURN = 0.05  # seconds that a turn should take, of as many calls as that needs
INSTALL = 'pip install "itra_hf[benchmarks]"'
GRAM, PRODUCTS = "Gram matrix", "products alone"

Loss = Callable[..., Tensor]


class Batches(NamedTuple):
    """What a call works on; `bandwidth` is the number that `bandwidth="mean"` finds."""

    x: Tensor
    y: Tensor
    labels: Tensor
    bandwidth: float
    part: int = PART


class Row(NamedTuple):
    """A line of the tables.

    Attributes:
        build: makes the loss, a function of features; of the pooled features for the Gram matrix.
        floats: roughly how many numbers a call holds at its peak, by n and dim.
        reference: which value it should have, by features and labels; `None` where there is none to compare with.
        tolerances: by how much of the reference its value and its gradients may differ.
        needs: the module of another library that it needs.
    """

    build: Callable[[Batches], Loss]
    floats: Callable[[int, int], float]
    reference: Callable[[Tensor, Tensor, Batches], Tensor] | None = None
    tolerances: tuple[float, float] = (1e-3, 1e-3)
    needs: str | None = None


class Result(NamedTuple):
    """A row at one n: seconds a call, ratio to the Gram matrix's time with its spread, bytes, or why there are none."""

    name: str
    n: int
    seconds: float | None = None
    ratio: float | None = None
    spread: float | None = None
    bytes: int | None = None
    left_out: str | None = None


def make_batches(n: int, dim: int, device: str) -> Batches:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, dim, generator=generator) for _ in range(2))
    y = y + 0.25
    pooled = torch.cat([x, y])
    bandwidth = resolve_bandwidth(pooled - pooled.mean(dim=0), "mean").item()
    x, y = (rows.to(device).requires_grad_() for rows in (x, y))
    return Batches(x, y, (torch.arange(n) % CLASSES).to(device), bandwidth)


def broadcast_mmd(x: Tensor, y: Tensor, bandwidth: float, unbiased: bool = False) -> Tensor:
    """The squared MMD as its formula reads, by the differences of all pairs of rows, [n, n, dim]."""

    def mean_kernel(rows: Tensor, columns: Tensor) -> Tensor:
        distances = (rows[:, None] - columns[None]).square().sum(2)
        kernel = torch.exp(distances / (-2 * bandwidth))
        if unbiased and rows is columns:
            return (kernel.sum() - kernel.diagonal().sum()) / (len(rows) * (len(rows) - 1))
        return kernel.mean()

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def reference(by_class: bool = False, **settings) -> Callable[[Tensor, Tensor, Batches], Tensor]:
    def value(x: Tensor, y: Tensor, batches: Batches) -> Tensor:
        labels = batches.labels
        groups = [labels == label for label in labels.unique()] if by_class else [slice(None)]
        values = [broadcast_mmd(x[group], y[group], batches.bandwidth, **settings) for group in groups]
        return torch.stack(values).mean()

    return value


def ours(alignment: str = "marginal", **settings):
    def build(batches: Batches) -> Loss:
        loss, labels = MatchingLoss(alignment, **settings), batches.labels
        return lambda x, y: loss(x, labels[: len(x)], y, labels[: len(y)])

    return build


def in_parts(batches: Batches) -> Loss:
    """As large batches are taken."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        value, *gradients = squared_mmd(x.detach(), None, y.detach(), None, rows_at_once=batches.part)
        for rows, gradient in zip((x, y), gradients, strict=True):
            value = with_gradient(value, rows, gradient)
        return value

    return loss


def pytorch_adapt(batches: Batches) -> Loss:
    from pytorch_adapt.layers.mmd_loss import MMDLoss

    # Its kernel is exp(-d * scale / bandwidth), with no 2.
    scales = torch.tensor([0.5])
    return MMDLoss(kernel_scales=scales, mmd_type="quadratic", bandwidth=batches.bandwidth)


def geomloss(batches: Batches) -> Loss:
    from geomloss import SamplesLoss

    loss = SamplesLoss("gaussian", blur=math.sqrt(batches.bandwidth), backend="tensorized")
    return lambda x, y: 2 * loss(x, y)  # it is half the squared MMD


@torch.no_grad()
def products(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """What no MMD by matrix products can do without: three Gram matrices, and a weighted sum of rows for each side."""
    own, other, across = x @ x.T, y @ y.T, x @ y.T
    return own @ x, other @ y, across @ y, across.T @ x


BIASED = reference()
ROWS = {
    GRAM: Row(lambda batches: lambda pooled: pooled @ pooled.T, lambda n, dim: 8 * n * n + 6 * n * dim),
    PRODUCTS: Row(lambda batches: products, lambda n, dim: 3 * n * n + 4 * n * dim),
    "marginal": Row(ours(), lambda n, dim: 6 * n * n + 12 * n * dim, BIASED),
    "conditional": Row(ours("conditional"), lambda n, dim: 8 * n * n + 12 * n * dim, reference(by_class=True)),
    f"{PART} rows at once": Row(in_parts, lambda n, dim: 5 * n * min(n, PART) + 12 * n * dim, BIASED),
    "pytorch-adapt": Row(
        pytorch_adapt, lambda n, dim: 30 * n * n + 8 * n * dim, reference(unbiased=True), needs="pytorch_adapt.layers"
    ),
    "GeomLoss": Row(geomloss, lambda n, dim: 36 * n * n + 12 * n * dim, BIASED, needs="geomloss"),
    "broadcasting": Row(
        lambda batches: lambda x, y: broadcast_mmd(x, y, batches.bandwidth), lambda n, dim: 6 * n * n * dim, BIASED
    ),
    "coral, a function": Row(ours(matching_loss=f"{DISTANCES}:coral"), lambda n, dim: 4 * dim * dim + 6 * n * dim),
}


def installed_rows() -> tuple[list[str], list[str]]:
    """The rows that can run here, and a line about each of the others."""
    names, lines = [], []
    for name, row in ROWS.items():
        try:
            if row.needs:
                import_module(row.needs)
            names.append(name)
        except ImportError as error:
            lines.append(f"{name} is left out ({error}): {INSTALL}")
    return names, lines


def value_and_gradients(loss: Loss, *features: Tensor) -> tuple[Tensor, ...]:
    value = loss(*features)
    return value, *torch.autograd.grad(value, features, torch.ones_like(value))


def build_call(name: str, batches: Batches) -> Callable[[], object]:
    """One forward and backward; what a loss prepares once and what it imports is done before."""
    loss, both = ROWS[name].build(batches), (batches.x, batches.y)
    if name == GRAM:
        both = (torch.cat(both).detach().requires_grad_(),)
    function = loss if name == PRODUCTS else lambda *features: value_and_gradients(loss, *features)
    function(*(rows[:8].detach().requires_grad_() for rows in both))
    return lambda: function(*both)


def differences_of(name: str, batches: Batches) -> tuple[float, float] | None:
    """The relative errors of the value and, the larger one, of the gradients; `None` without a reference."""
    expected = ROWS[name].reference
    if expected is None:
        return None
    found = value_and_gradients(ROWS[name].build(batches), batches.x, batches.y)
    doubled = [rows.detach().double().requires_grad_() for rows in (batches.x, batches.y)]
    wanted = value_and_gradients(lambda x, y: expected(x, y, batches), *doubled)
    pairs = zip(found, wanted, strict=True)
    errors = [((own.double() - other).norm() / other.norm()).item() for own, other in pairs]
    return errors[0], max(errors[1:])


def check_agreement(names: list[str], options) -> dict[str, tuple[float, float]]:
    """How far each row's value and gradients are from its reference's.

    Raises:
        ValueError: one is over its tolerance.
    """
    batches = make_batches(CHECK_ROWS, options.dim, options.device)._replace(part=CHECK_ROWS // 3)
    found = {name: differences_of(name, batches) for name in names}
    differences = {name: errors for name, errors in found.items() if errors is not None}
    for name, errors in differences.items():
        if not all(error <= most for error, most in zip(errors, ROWS[name].tolerances, strict=True)):
            raise ValueError(f"{name} differs from the reference by {errors[0]:.1e}, its gradients by {errors[1]:.1e}.")
    return differences


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], object], count: int, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / count


def calls_a_turn(call: Callable[[], object], device: str) -> int:
    first = seconds_of(call, 1, device)  # the first call of a size may pay for more than itself
    return 1 if first > 20 * TURN else math.ceil(TURN / seconds_of(call, 1, device))


def take_turns(calls: dict[str, Callable[[], object]], options) -> dict[str, list[float]]:
    """Seconds a call of each row, a round after the other; at least one round, and no more than time allows."""
    counts = {name: calls_a_turn(call, options.device) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for index in range(options.rounds):
        for name in calls if index % 2 else reversed(calls):
            seconds[name].append(seconds_of(calls[name], counts[name], options.device))
        if time.perf_counter() - start > options.max_seconds_per_n:
            break
    return seconds


def measure_memory(name: str, n: int, options) -> int | None:
    if options.no_memory:
        return None
    if options.device == "cuda":
        return bytes_added(build_call(name, make_batches(n, options.dim, "cuda")), "cuda")
    settings = ["--peak_of", name, "--n", str(n), "--dim", str(options.dim), "--device", options.device]
    command = [sys.executable, str(Path(__file__).resolve()), *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def why_left_out(name: str, n: int, before: list[Result], options) -> str | None:
    """Why a row is not run at this n, if so."""
    needed = 4 * ROWS[name].floats(n, options.dim)
    if needed > options.max_bytes:
        return f"would take about {needed / 1e9:.2g} GB of memory"
    last = next((result for result in reversed(before) if result.name == name), None)
    if last is None:
        return None
    if last.seconds is None:
        return f"left out at n = {last.n} already"
    seconds = last.seconds * (n / last.n) ** 2
    return f"would take about {seconds:.2g} s a call" if seconds > options.max_seconds else None


def measure(n: int, names: list[str], before: list[Result], options) -> list[Result]:
    reasons = {name: why_left_out(name, n, before, options) for name in names}
    batches = make_batches(n, options.dim, options.device)
    calls = {name: build_call(name, batches) for name in names if name == GRAM or reasons[name] is None}
    turns = take_turns(calls, options)
    del calls
    results = []
    for name in names:
        if name not in turns:
            results.append(Result(name, n, left_out=reasons[name]))
            continue
        ratios = [own / bare for own, bare in zip(turns[name], turns[GRAM], strict=True)]
        seconds, memory = statistics.median(turns[name]), measure_memory(name, n, options)
        results.append(Result(name, n, seconds, statistics.median(ratios), max(ratios) - min(ratios), memory))
    return results


def megabytes(result: Result) -> str:
    return "-" if result.bytes is None else f"{result.bytes / 1e6:.1f}"


def milliseconds(result: Result) -> str:
    return "-" if result.seconds is None else f"{result.seconds * 1e3:.4g}"


def print_table(results: list[Result], dim: int) -> None:
    print(f"\n{f'n = {results[0].n}, dim = {dim}':22} {'ms':>9} {'ratio':>8} {'spread':>7} {'MB':>9}")
    for result in results:
        ratio, spread = ("-" if value is None else f"{value:.2f}" for value in (result.ratio, result.spread))
        print(f"{result.name:22} {milliseconds(result):>9} {ratio:>8} {spread:>7} {megabytes(result):>9}")
    for result in results:
        if result.left_out is not None:
            print(f"- {result.name} {result.left_out}")


def print_growth(results: list[Result]) -> None:
    sizes = list(dict.fromkeys(result.n for result in results))
    for title, text in (("ms by n", milliseconds), ("MB by n", megabytes)):
        print(f"\n{title:22}", *(f"{n:>9}" for n in sizes))
        for name in dict.fromkeys(result.name for result in results):
            print(f"{name:22}", *(f"{text(result):>9}" for result in results if result.name == name))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[32, 64, 256, 2048, 8192], help="rows of each batch")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of a CPU; default: PyTorch's choice")
    parser.add_argument("--max_bytes", type=float, default=4e9, help="of a call, by a rough estimate")
    parser.add_argument("--max_seconds", type=float, default=20.0, help="of a call, by the n before")
    parser.add_argument("--max_seconds_per_n", type=float, default=300.0, help="no further round starts after these")
    parser.add_argument("--no_memory", action="store_true", help="leaves memory out, a process each on a CPU")
    parser.add_argument("--peak_of", choices=ROWS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> tuple[list[Result], dict[str, tuple[float, float]]]:
    """Returns the tables' results, and each checked row's relative errors."""
    options = parse(arguments)
    if options.peak_of:
        print(bytes_added(build_call(options.peak_of, make_batches(options.n[0], options.dim, "cpu")), "cpu"))
        return [], {}
    if options.threads:
        torch.set_num_threads(options.threads)
    names, lines = installed_rows()
    differences = check_agreement(names, options)
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(device, *lines, sep="\n")
    print(f"\n{f'error at n = {CHECK_ROWS}':22} {'value':>9} {'gradient':>9}")
    for name, errors in differences.items():
        print(f"{name:22}", *(f"{error:9.1e}" for error in errors))
    results: list[Result] = []
    for n in sorted(options.n):
        results += measure(n, names, results, options)
        print_table(results[-len(names) :], options.dim)
    print_growth(results)
    return results, differences


if __name__ == "__main__":
    main()
