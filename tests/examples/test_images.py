"""The comparison on images: it runs, its table is what the study's page shows, its seeds are its own."""

import math

import pytest
from places import EXAMPLES
from transformers import Trainer

from examples import images
from itra_hf import ITRATrainer
from itra_hf.comparison.measures import BY_NAME


@pytest.mark.parametrize("kind", [Trainer, ITRATrainer])
def test_a_run_has_all_figures(kind):
    figures = images.run(kind, seed=3, epochs=1, images=32)
    assert set(figures) == set(images.SHOWN)
    assert all(math.isfinite(value) for value in figures.values())


def test_the_table_pairs_runs_by_seed():
    plain = {seed: dict.fromkeys(images.SHOWN, 0.1 * seed) for seed in (1, 2, 3)}
    aligned = {seed: dict.fromkeys(images.SHOWN, 0.1 * seed + 0.01 * seed) for seed in (1, 2, 3)}
    assert "| accuracy | 20.00 % | +2.00 points | -0.48 to +4.48 |" in images.table(plain, aligned).splitlines()


def test_the_page_has_the_scripts_measures_and_settings():
    page = (EXAMPLES / "study" / "README.md").read_text(encoding="utf-8").partition("## Images")[2].partition("\n# ")[0]
    for name in images.SHOWN:
        assert f"\n| {BY_NAME[name].title} | " in page
    for text in (f"{images.IMAGES} images", f"{images.EPOCHS} epochs", f"{images.LEARNING_RATE:g}"):
        assert text in page
    for seed in images.TUNING_SEEDS:
        assert seed not in images.SEEDS
        assert str(seed) in page
    assert not {*images.MENDING_SEEDS} & {*images.SEEDS, *images.TUNING_SEEDS}
    assert f"{images.MENDING_SEEDS[0]} to {images.MENDING_SEEDS[-1]}" in page
    for name in images.MENDS:
        assert name in page
