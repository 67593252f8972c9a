"""Where the project's files lie, and its examples as modules."""

import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
EXAMPLES = ROOT / "examples"


def load(name):
    """A file of `examples/` as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def import_from(name, *folders):
    """The module that these folders have by a name, by which its own processes find it too."""
    sys.path[:0] = map(str, folders)
    try:
        return importlib.import_module(name)
    finally:
        for folder in folders:
            sys.path.remove(str(folder))
