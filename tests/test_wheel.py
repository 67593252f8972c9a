"""What `pip install` users get: a wheel of a clean copy holds all that the commands need."""

import os
import subprocess
import sys

import pytest
from commands import rows, write
from places import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that the wheel was installed into, without what else the checkout has."""
    folder = tmp_path_factory.mktemp("wheel")
    clean, wheels, installed = folder / "clean", folder / "wheels", folder / "site"
    clean.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", clean], input=archive, check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, clean], check=True)
    (wheel,) = wheels.glob("itra_hf-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", installed, wheel], check=True)
    return installed


def run(site, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "itra_hf", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_all_files_of_the_package(site):
    files = subprocess.run(["git", "ls-files", "itra_hf"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in files.splitlines() if not (site / name).is_file()] == []


def test_the_wheel_trains_and_inspects(site, model_folder, tmp_path):
    write(tmp_path, "train.csv", rows(24))
    told = run(site, tmp_path, "train", "--help")
    assert told.returncode == 0
    assert "--matching_weight" in told.stdout
    files = ("--train_file", "train.csv", "--test_file", "train.csv")
    settings = ("--output_dir", "out", "--max_steps", 2, "--use_cpu", "true", "--report_to", "none")
    trained = run(site, tmp_path, "train", "--model_name_or_path", model_folder, *files, *settings)
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert (tmp_path / "out" / "README.md").is_file()
    inspected = run(site, tmp_path, "inspect", "out", *files)
    assert inspected.returncode == 0, inspected.stderr[-2000:]
    assert "scatter" in inspected.stdout
