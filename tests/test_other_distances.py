"""Matching losses other than the exact MMD, through `MatchingLoss`."""

import operator

import pytest
import torch
from test_matching import ALIGNMENTS, ESTIMATORS, batch

from itra_hf import MatchingLoss

OTHERS = ["sinkhorn", "coral", "central_moments"]


@pytest.mark.parametrize("weighting", ["size", "alike"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_distances_by_class_are_the_weighted_mean_over_common_classes(name, weighting):
    (x, labels), (y, other) = batch(9), batch(9, seed=1)
    labels[0], other[:2] = -100, 7
    whole = MatchingLoss("marginal", matching_loss=name, bandwidth=2.0)
    classes = [c for c in (0, 1, 2) if (labels == c).any() and (other == c).any()]
    values = [whole(x[labels == c], None, y[other == c], None).item() for c in classes]
    sizes = [1 / (1 / int((labels == c).sum()) + 1 / int((other == c).sum())) for c in classes]
    sizes = sizes if weighting == "size" else [1.0] * len(classes)
    expected = sum(map(operator.mul, values, sizes)) / sum(sizes)
    loss = MatchingLoss("conditional", matching_loss=name, bandwidth=2.0, class_weighting=weighting)
    assert len(classes) > 1
    assert loss(x, labels, y, other).item() == pytest.approx(expected, rel=1e-9)
    assert loss(x, labels, y, labels + 50).item() == 0


@pytest.mark.parametrize(
    "settings", [{"matching_loss": "coral"}, {"matching_loss": "central_moments"}, {"random_features": 64}]
)
@pytest.mark.parametrize("alignment", ["conditional", "marginal"])
def test_gradients_of_the_other_distances(alignment, settings):
    loss = MatchingLoss(alignment, bandwidth=2.0, **settings)
    (x, labels), (y, other) = batch(6), batch(5, seed=1)
    x.requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, labels, b, other), (x, y))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("alignment", ["conditional", "marginal"])
def test_the_other_distances_are_free_of_scale_and_zero_for_equal_batches(alignment, name):
    loss = MatchingLoss(alignment, matching_loss=name)
    (x, labels), (y, other) = batch(12), batch(12, seed=1)
    assert loss(100 * x + 7, labels, 100 * y + 7, other).item() == pytest.approx(loss(x, labels, y, other).item())
    assert loss(x, labels, x.clone(), labels).item() == pytest.approx(0, abs=1e-12)
    assert loss(x.bfloat16(), labels, y.bfloat16(), other).dtype == torch.float32


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("kernel", ["gaussian", "inverse_multiquadric"])
@pytest.mark.parametrize("weighting", ["size", "alike"])
def test_random_features_estimate_the_exact_loss(weighting, kernel, alignment, estimator):
    (x, labels), (y, other) = batch(24), batch(20, seed=1)
    labels[:2] = other[0] = 7  # a rare class, which the two weightings weigh unlike
    x[:2] += 2.0

    def loss(count):
        matching = MatchingLoss(
            alignment, kernel, "mean", (0.5, 1.0, 2.0), estimator, random_features=count, class_weighting=weighting
        )
        return matching(x, labels, y, other).item()

    exact = loss(0)
    errors = [loss(count) - exact for count in (64, 16384)]
    assert abs(errors[1]) < 0.01
    again = loss(64) - exact
    assert again == errors[0]
