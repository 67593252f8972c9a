"""Runs a benchmark of this folder, with its own options; without a name, lists them.

    python -m examples.benchmarks [NAME [OPTIONS]]

`python -m examples.benchmarks NAME --help` says what a benchmark measures and which options it takes. It runs as its
file would, so `python examples/benchmarks/NAME.py [OPTIONS]` is the same.
"""

import argparse
import ast
import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def benchmarks() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("[!_]*.py"))}


def first_line(path: Path) -> str:
    """The first line of a file's docstring; the file is read, not imported."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark that the arguments name."""
    found = benchmarks()
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=found, help="without one, all are listed")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the benchmark")
    chosen = parser.parse_args(arguments)
    if chosen.name is None:
        for name, path in found.items():
            print(f"{name:{max(map(len, found))}}  {first_line(path)}")
        return
    sys.argv = [str(found[chosen.name]), *chosen.options]
    sys.path.insert(0, str(FOLDER))  # benchmarks import each other
    runpy.run_path(str(found[chosen.name]), run_name="__main__")


if __name__ == "__main__":
    main()
