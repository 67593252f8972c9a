"""How reliable the verdicts of a comparison are, on many simulated studies, and the spoiling of training data."""

import math

import numpy as np
import pytest
from scipy import stats

from itra_hf.comparison.measures import BY_NAME, describe, paired_difference
from itra_hf.comparison.spoiling import flip_labels, thin_classes

STUDIES, SEEDS = 4000, 5


def normal(random, shape):
    return 0.9 + 0.01 * random.standard_normal(shape)


def heavy_tailed(random, shape):
    return 0.9 + 0.01 * random.standard_t(3, shape)


def skewed(random, shape):
    return 0.9 - 0.01 * random.exponential(size=shape)


def accuracy(random, shape):
    """Of 300 test examples."""
    return random.binomial(300, 0.9, shape) / 300


def study(variant, baseline, better="higher"):
    return paired_difference(dict(enumerate(variant)), dict(enumerate(baseline)), better)


def simulate(draw, gain=0.0, seeds=SEEDS, studies=STUDIES):
    """Studies of a variant that is a baseline's twin but for a gain in its mean."""
    random = np.random.default_rng(0)
    pairs = draw(random, (studies, 2, seeds))
    return [study(variant + gain, baseline) for variant, baseline in pairs]


def share(found, verdict):
    return np.mean([each.verdict == verdict for each in found])


# ---- Reliability ----


def test_normal_noise_gives_wrong_verdicts_in_one_study_of_twenty():
    found = simulate(normal)
    tolerance = 3.3 * math.sqrt(0.05 * 0.95 / STUDIES)
    assert share(found, "better") + share(found, "worse") == pytest.approx(0.05, abs=tolerance)
    assert share(found, "better") == pytest.approx(0.025, abs=tolerance)
    assert np.mean([each.low <= 0 <= each.high for each in found]) == pytest.approx(0.95, abs=tolerance)


def test_the_interval_covers_a_gain_that_is_there_as_often():
    covered = [each.low <= 0.01 <= each.high for each in simulate(normal, gain=0.01)]
    assert np.mean(covered) == pytest.approx(0.95, abs=3.3 * math.sqrt(0.05 * 0.95 / STUDIES))


@pytest.mark.parametrize("draw", [heavy_tailed, skewed, accuracy])
def test_other_noise_gives_hardly_more_wrong_verdicts(draw):
    # Differences of two draws of one distribution are symmetric; heavy tails make Student's t a little cautious.
    found = simulate(draw)
    assert 0.02 < share(found, "better") + share(found, "worse") < 0.065


def test_noise_that_is_skewed_in_one_variant_alone_stays_within_a_stated_bound():
    random = np.random.default_rng(0)
    found = [study(0.91 - 0.01 * random.exponential(size=SEEDS), np.full(SEEDS, 0.9)) for _ in range(STUDIES)]
    assert share(found, "better") + share(found, "worse") < 0.14  # the worst case: an exponential alone


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_differences_of_a_few_test_examples_and_seeds_give_few_wrong_verdicts(seeds):
    """Where all seeds happen to agree, the values say nothing about the noise."""
    found = simulate(lambda random, shape: random.binomial(20, 0.9, shape) / 20, seeds=seeds)
    assert share(found, "better") + share(found, "worse") < 0.075


def test_two_standard_deviations_are_found_in_most_studies():
    # The noise of a difference is sqrt(2) times that of either.
    assert share(simulate(normal, gain=2 * 0.01 * math.sqrt(2)), "better") > 0.85
    assert share(simulate(normal, gain=-2 * 0.01 * math.sqrt(2)), "worse") > 0.85


def test_power_grows_with_seeds():
    power = [share(simulate(normal, gain=0.015, seeds=seeds, studies=1000), "better") for seeds in (2, 3, 5, 10, 20)]
    assert power == sorted(power)
    assert power[0] < 0.2
    assert power[-1] > 0.95


def test_pairing_finds_a_gain_that_is_small_beside_the_noise_that_seeds_share():
    random = np.random.default_rng(0)
    shared = normal(random, (500, SEEDS))
    found = [study(each + 0.002 + 0.0005 * random.standard_normal(SEEDS), each) for each in shared]
    assert share(found, "better") > 0.95


def test_a_percentile_bootstrap_of_five_values_would_cover_about_84_percent():
    random = np.random.default_rng(0)
    values = random.standard_normal((2000, SEEDS))
    means = np.stack([values[:, random.integers(0, SEEDS, SEEDS)].mean(axis=1) for _ in range(1000)])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.84, abs=0.03)


# ---- One study ----


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(0).standard_normal(7)
    result = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = study(values, np.zeros(7))
    assert (found.low, found.high) == pytest.approx((result.low, result.high))


def test_twins_tie_everywhere():
    found = study([0.9, 0.8, 0.7], [0.9, 0.8, 0.7])
    assert found[:-1] == (3, 0.0, 0.0, 0.0, 0, 0, "no difference shown")


@pytest.mark.parametrize(("seeds", "verdict"), [(2, None), (3, None), (5, None), (6, "better"), (10, "better")])
def test_the_same_gain_in_every_seed_counts_as_its_signs_do(seeds, verdict):
    baseline = np.linspace(0.5, 0.7, seeds)
    found = study(baseline + 1 / 60, baseline)
    assert found.verdict == (verdict or "no difference shown")
    told = describe(BY_NAME["accuracy"], found, "Trainer")
    if verdict:
        assert (found.low, found.high) == pytest.approx((1 / 60, 1 / 60))
        assert "95 % interval +1.67 to +1.67" in told
    else:
        assert math.isnan(found.low)
        assert "+1.67 points, the same in every seed, of which there are too few" in told


def test_lower_is_better_where_it_is():
    found = study([0.2, 0.21, 0.2], [0.3, 0.3, 0.31], "lower")
    assert (found.wins, found.losses, found.verdict) == (3, 0, "better")
    assert found.mean < 0
    assert study([0.3, 0.3, 0.31], [0.2, 0.21, 0.2], "lower").verdict == "worse"


def test_seeds_of_one_variant_alone_and_ties_do_not_count():
    found = paired_difference({1: 0.5, 2: 0.7, 3: 0.9, 9: 0.1}, {3: 0.9, 2: 0.6, 1: 0.6, 8: 0.3}, "higher")
    assert (found.seeds, found.wins, found.losses) == (3, 1, 1)
    assert found.each == pytest.approx({1: -0.1, 2: 0.1, 3: 0.0})


def test_one_seed_has_no_interval_and_no_shared_seed_is_refused():
    found = study([0.5], [0.4])
    assert found.verdict == "one seed only"
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.raises(ValueError, match=r"share no seed: \[1\] and \[2\]"):
        paired_difference({1: 0.5}, {2: 0.5}, "higher")


# ---- Spoiling ----


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("amount", [0.0, 0.13, 0.5, 0.99])
def test_noise_flips_exactly_the_share_and_never_to_the_same_class(classes, amount):
    labels = np.random.default_rng(1).integers(0, classes, 401)
    flipped = flip_labels(labels, amount, classes, seed=3)
    assert np.count_nonzero(flipped != labels) == round(amount * 401)
    assert set(flipped) <= set(range(classes))
    assert (flip_labels(labels, amount, classes, seed=3) == flipped).all()


def test_noise_draws_the_other_classes_alike_and_other_examples_with_another_seed():
    labels = np.zeros(4000, dtype=int)
    counts = np.bincount(flip_labels(labels, 0.75, 4, seed=0), minlength=4)
    assert stats.chisquare(counts[1:]).pvalue > 1e-3
    assert (flip_labels(labels, 0.75, 4, seed=0) != flip_labels(labels, 0.75, 4, seed=1)).any()
    assert not labels.any()


def test_imbalance_thins_geometrically_in_an_order_of_the_seed():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 2, 5, 7], 64))
    rows = thin_classes(labels, 64, seed=0)
    assert sorted(np.unique(labels[rows], return_counts=True)[1]) == [1, 4, 16, 64]
    assert (np.diff(rows) > 0).all()
    largest = {int(np.bincount(labels[thin_classes(labels, 64, seed)]).argmax()) for seed in range(20)}
    assert largest == {0, 2, 5, 7}


def test_imbalance_keeps_one_of_each_class_and_all_at_ratio_one():
    labels = np.array([0, 0, 1, 1, 1])
    assert set(labels[thin_classes(labels, 1e9, seed=0)]) == {0, 1}
    assert thin_classes(labels, 1.0, seed=0).tolist() == [0, 1, 2, 3, 4]
    assert thin_classes(np.zeros(3, dtype=int), 10, seed=0).tolist() == [0, 1, 2]
