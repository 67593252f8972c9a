"""The study: does alignment help, on packaged text?

python -m examples.study mechanism what makes a companion help, by `mechanism.md`
python -m examples.study protocol  does it help, against what costs nothing? by `protocol.md`
python -m examples.study references logistic regression on the documents of the protocol
python -m examples.study longer    why the second batch does less in longer runs
python -m examples.study rivals    which remedy for which data? by `rivals.md`
python -m examples.study run       the study's conditions, with other seeds and other documents to test on
python -m examples.study curves    a few of its runs again, with evaluations in between
python -m examples.study show      renews the tables and pictures of the README and the study's page from all of these
"""

import argparse
import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Runs the part that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "part", choices=("mechanism", "protocol", "references", "longer", "rivals", "run", "curves", "show")
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the part")
    chosen = parser.parse_args()
    sys.argv = [str(FOLDER / f"{chosen.part}.py"), *chosen.options]
    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
