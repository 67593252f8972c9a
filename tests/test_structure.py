"""How the package hangs together: imports run one way, files stay short, old names say the new ones."""

import ast
import importlib
import re

import pytest
from places import ROOT
from transformers import Trainer

from itra_hf import ITRAMixin
from itra_hf.moved import MOVED

# Each knows those before it alone.
ORDER = (
    *("processes", "randomness", "by_name", "written_yaml", "moved", "batches", "losses", "config_checks"),
    *("presets", "config", "mixins", "companions", "features", "alignment", "reports", "hub", "trainer", "text"),
    *("comparison", "cli"),
)
FILES = sorted((ROOT / "itra_hf").rglob("*.py"))


def imported(path):
    """The modules of the package that a file imports, dotted, type checkers' imports left out."""
    package = path.relative_to(ROOT / "itra_hf").parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in for_types:
            base = package[: len(package) + 1 - node.level]
            yield node, ".".join([*base, *([node.module] if node.module else [node.names[0].name])])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    own = path.relative_to(ROOT / "itra_hf").with_suffix("").parts
    if own in (("__init__",), ("__main__",)):
        return
    for node, module in imported(path):
        folder = module.split(".")[0]
        assert ORDER.index(folder) <= ORDER.index(own[0]), f"{'.'.join(own)} imports {module}"
        if folder != own[0]:
            assert not any(each.name.startswith("_") for each in node.names), f"{module} is asked for private names"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node) is not None
            start = node.body[0].end_lineno if documented else node.lineno
            assert node.end_lineno - start <= 45, f"{node.name} is long"


def test_few_private_methods_of_the_trainer_are_overridden():
    ours = [base for base in ITRAMixin.__mro__ if base.__module__.startswith("itra_hf")]
    private = {name for base in ours for name in vars(base) if re.match("_[^_]", name) and hasattr(Trainer, name)}
    assert len(private) <= 6, sorted(private)


@pytest.mark.parametrize("old", MOVED)
def test_old_names_say_the_new_ones(old):
    assert (ROOT / "itra_hf" / f"{MOVED[old].replace('.', '/')}.py").is_file()
    with pytest.raises(ModuleNotFoundError, match=f"itra_hf.{old} is now itra_hf.{MOVED[old]}"):
        importlib.import_module(f"itra_hf.{old}")
