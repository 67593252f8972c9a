"""Says where modules are that had another name before version 0.3."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "compactness": "reports.compactness",
    "gradient_noise": "reports.gradient_noise",
    "kernels": "losses.kernels",
    "matching": "losses.matching",
    "metrics": "text.metrics",
    "mmd": "losses.mmd",
    "plots": "reports.plots",
    "reporting": "hub.publishing",
}


class MovedModules:
    """A finder that refuses old names, and says the new ones."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Finds nothing.

        Raises:
            ModuleNotFoundError: the name is an old one.
        """
        package, _, old = name.partition(".")
        if package == __package__ and old in MOVED:
            raise ModuleNotFoundError(f"{name} is now {package}.{MOVED[old]}.", name=name)
        return None


def install() -> None:
    """Looks at names that no other finder knows."""
    if MovedModules not in sys.meta_path:
        sys.meta_path.append(MovedModules)
