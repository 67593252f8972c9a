"""Renews `settings.md` from the fields of `ITRAConfig` and their help.

python examples/guide/settings.py
"""

from dataclasses import MISSING, fields
from pathlib import Path

from itra_hf import AlignmentArguments

PAGE = Path(__file__).resolve().parent / "settings.md"
ABOUT = """# Settings

Fields of `ITRAConfig`, beside those of `TrainingArguments`. `itra-hf train --help` prints the same.
This page is made by `python examples/guide/settings.py`.
"""


def page() -> str:
    """The page, a row a field."""
    rows = ["| field | default | what it does |", "|---|---|---|"]
    for each in fields(AlignmentArguments):
        default = each.default if each.default is not MISSING else each.default_factory()  # type: ignore[misc]
        text = each.metadata["help"].replace("|", "\\|")
        rows.append(f"| `{each.name}` | `{default}` | {text} |")
    return "\n".join([ABOUT, *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
