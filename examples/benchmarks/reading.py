"""How long reading a CSV file takes, against `datasets.load_dataset`, each with an empty cache.

    python -m examples.benchmarks reading [--rows 1000000] [--length 64]

Both readers take turns in one process. The ratio is the median over rounds of this package's time over that of
`datasets.load_dataset("csv", ...)`. Two files are read: cells without quotation marks, and texts in quotation marks
with commas in them.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets

from itra_hf.text.files import Reading, read_files


def write(path: Path, rows: int, length: int, quoted: bool) -> None:
    """Writes texts of some length, with one of seven labels each."""
    text = ("some, words " if quoted else "some words ") * length
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows((f"{row:08d} {text}"[:length], f"class {row % 7}") for row in range(rows))


def seconds(read: Callable[[str], datasets.Dataset], rows: int) -> float:
    """The time to read into an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        data = read(cache)
        taken = time.perf_counter() - start
        if len(data) != rows:
            raise ValueError(f"{len(data)} rows were read of {rows}.")
        del data
    return taken


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=64, help="characters of a text")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    datasets.disable_progress_bars()
    results: dict[str, list[float]] = {}
    print(f"{'':24} {'itra_hf, s':>10} {'datasets, s':>11} {'ratio':>6} {'spread':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for name, quoted in (("plain cells", False), ("quoted cells", True)):
            path = Path(folder, "rows.csv")
            write(path, options.rows, options.length, quoted)
            readers: list[Callable[[str], datasets.Dataset]] = [
                lambda cache: read_files([str(path)], Reading(), cache),  # noqa: B023
                lambda cache: datasets.load_dataset("csv", data_files=str(path), split="train", cache_dir=cache),  # noqa: B023
            ]
            rounds = [[seconds(read, options.rows) for read in readers] for _ in range(options.rounds + 1)][1:]
            ratios = results[name] = [ours / theirs for ours, theirs in rounds]
            ours, theirs = (statistics.median(each) for each in zip(*rounds, strict=True))
            spread = max(ratios) - min(ratios)
            print(f"{name:24} {ours:10.2f} {theirs:11.2f} {statistics.median(ratios):6.2f} {spread:6.2f}")
    return results


if __name__ == "__main__":
    main()
