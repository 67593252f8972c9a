"""README and guide: short, their links lead somewhere, and the settings are those of the code."""

import re
import subprocess

import pytest
import yaml
from places import ROOT

from itra_hf import AlignmentArguments

PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").glob("*/*.md"))]


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_readme_is_a_landing_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_settings_are_those_of_the_code(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "guide")
    import settings

    assert settings.PAGE.read_text(encoding="utf-8") == settings.page()


def test_the_readmes_settings_have_their_defaults():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", text, re.MULTILINE))
    assert rows == {name: str(getattr(AlignmentArguments(), name)) for name in rows}
    assert len(rows) == 6


def test_files_that_the_readme_names_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.])((?:examples|itra_hf|tests)/[\w/.]*\w)", text):
        assert (ROOT / path).exists(), path


def test_the_workflow_runs_what_is_there():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    fast, versions = workflow["jobs"]["fast"], workflow["jobs"]["versions"]
    assert fast["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert versions["strategy"]["matrix"]["versions"] == ["floor", "newest"]
    commands = [step["run"] for job in (fast, versions) for step in job["steps"] if "run" in step]
    for command in commands:
        program, script = command.split()[:2]
        assert program == "bash"
        assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0
