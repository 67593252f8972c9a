"""The pictures of the method's claims: each script draws, and its page says what it finds."""

import re

import numpy as np
import pytest
from places import EXAMPLES
from transformers import Trainer

from examples.claims import adaptive_weight, compact, modes
from itra_hf import ITRATrainer

GUIDE = EXAMPLES / "guide"
PAGE = (GUIDE / "claims.md").read_text(encoding="utf-8")
SHORT = {"num_train_epochs": 2, "size": 64}


def ranges(row):
    """The smallest and largest values of a row of the page."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {row} |"))
    return [tuple(map(float, found)) for found in re.findall(r"([\d.]+) to ([\d.]+)", line)]


@pytest.mark.parametrize("script", [compact, adaptive_weight, modes], ids=lambda script: script.__name__)
def test_the_page_shows_each_picture_with_its_command(script):
    assert script.PICTURE.parent == GUIDE
    assert 10_000 < script.PICTURE.stat().st_size < 100_000
    assert f"]({script.PICTURE.name})" in PAGE
    assert f"python -m {script.__name__}\n" in PAGE


@pytest.mark.parametrize("script", [compact, adaptive_weight])
def test_scripts_that_train_draw(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "PICTURE", tmp_path / "drawn.png")
    monkeypatch.setattr(script, "SEEDS", (1, 2))
    monkeypatch.setattr(script, "SETTINGS", script.SETTINGS | SHORT)
    if script is adaptive_weight:
        monkeypatch.setattr(script, "EVERY", 2)
    script.main()
    assert script.PICTURE.stat().st_size > 10_000
    assert re.search(r"drawn: seed [12]|times the variance", capsys.readouterr().out)


def test_modes_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modes, "PICTURE", tmp_path / "drawn.png")
    monkeypatch.setattr(modes, "SEEDS", (1, 2))
    monkeypatch.setattr(modes.flow, "__defaults__", (5,))
    modes.main()
    assert modes.PICTURE.stat().st_size > 10_000
    assert len(re.findall(r"^\| ", capsys.readouterr().out, re.MULTILINE)) == len(modes.LOSSES)


def test_the_pull_is_that_of_the_algebra():
    for distance in (0.0, 0.5, 1.0, 2.0, 5.0):
        measured = adaptive_weight.measured_pull(distance, companions=1, spread=0.0)
        assert measured == pytest.approx(adaptive_weight.pull(np.array(distance)), abs=1e-6)
    pulls = adaptive_weight.pull(adaptive_weight.DISTANCES)
    assert adaptive_weight.DISTANCES[pulls.argmax()] == 1
    assert pulls[-1] < 1e-4 * pulls.max()


@pytest.mark.parametrize("name", modes.LOSSES)
def test_the_modes_end_as_far_apart_as_the_page_says(name):
    low, high = ranges(name)[0]
    _, apart = modes.flow(modes.LOSSES[name], modes.SHARES[0], modes.SEEDS[0])
    assert low - 0.1 <= apart[-1] <= high + 0.1


@pytest.mark.parametrize(("share", "low", "high"), [(0.3, 9.7, 10.2), (0.5, 8.5, 9.2)])
def test_the_median_leaves_uneven_modes_alone_and_draws_even_ones_together(share, low, high):
    assert low < modes.flow(modes.mmd("median"), share, modes.SEEDS[0])[1][-1] < high


@pytest.mark.slow
def test_a_seed_of_compact_is_as_the_page_says():
    for kind in (Trainer, ITRATrainer):
        low, high = ranges(f"`{kind.__name__}`: within / between scatter")[0]
        features, _ = compact.run(kind, 1)
        assert 0.8 * low <= compact.ratio(features) <= 1.2 * high


@pytest.mark.slow
def test_alignment_lowers_the_noise_of_the_gradient_as_the_page_says():
    plain, aligned = (
        np.array([adaptive_weight.noise(kind, seed)[0][:, 1] for seed in (1, 2)]) for kind in adaptive_weight.KINDS
    )
    mean, _, _ = adaptive_weight.mean_ratio(plain, aligned)
    said = float(re.search(r"\*\*([\d.]+) times\*\*", PAGE).group(1))
    assert mean == pytest.approx(said, rel=0.5)
