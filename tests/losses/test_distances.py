"""Distances other than the MMD: functions of the user's, and those of `examples/distances.py`."""

import operator

import pytest
import torch
from loops import batch

from itra_hf import MatchingLoss

OTHERS = [f"examples/distances.py:{name}" for name in ("coral", "central_moments", "sinkhorn_divergence")]


@pytest.mark.parametrize("weighting", ["size", "alike"])
@pytest.mark.parametrize("name", OTHERS)
def test_by_class_they_are_the_weighted_mean_over_common_classes(name, weighting):
    (x, labels), (y, other) = batch(9), batch(9, seed=1)
    labels[0], other[:2] = -100, 7
    whole = MatchingLoss("marginal", matching_loss=name)
    classes = [c for c in (0, 1, 2) if (labels == c).any() and (other == c).any()]
    values = [whole(x[labels == c], None, y[other == c], None).item() for c in classes]
    sizes = [1 / (1 / int((labels == c).sum()) + 1 / int((other == c).sum())) for c in classes]
    sizes = sizes if weighting == "size" else [1.0] * len(classes)
    expected = sum(map(operator.mul, values, sizes)) / sum(sizes)
    loss = MatchingLoss("conditional", matching_loss=name, class_weighting=weighting)
    assert len(classes) > 1
    assert loss(x, labels, y, other).item() == pytest.approx(expected, rel=1e-9)
    assert loss(x, labels, y, labels + 50).item() == 0


@pytest.mark.parametrize("alignment", ["conditional", "marginal"])
def test_gradients_are_those_of_the_function(alignment):
    def means(x, y):
        return (x.mean(0) - y.mean(0)).square().sum()

    (x, labels), (y, other) = batch(6), batch(5, seed=1)
    loss = MatchingLoss(alignment, matching_loss=means)
    x.requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, labels, b, other), (x, y))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("alignment", ["conditional", "marginal"])
def test_the_examples_are_free_of_scale_and_zero_for_equal_batches(alignment, name):
    loss = MatchingLoss(alignment, matching_loss=name)
    (x, labels), (y, other) = batch(12), batch(12, seed=1)
    assert loss(100 * x + 7, labels, 100 * y + 7, other).item() == pytest.approx(loss(x, labels, y, other).item())
    assert loss(x, labels, x.clone(), labels).item() == pytest.approx(0, abs=1e-5)
    assert loss(x.bfloat16(), labels, y.bfloat16(), other).dtype == torch.float32


def test_coral_compares_covariances_and_central_moments_means_too():
    coral, moments = (MatchingLoss("marginal", matching_loss=name) for name in OTHERS[:2])
    (x, _), (y, _) = batch(40), batch(40, seed=1)
    assert coral(x, None, x + 5, None).item() == pytest.approx(0, abs=1e-12)
    assert moments(x, None, x + 5, None) > 0.1
    scale = 2 * torch.cat([x, y]).var(0, correction=0).sum()
    expected = (torch.cov(x.T) - torch.cov(y.T)).square().sum() / scale**2 / (4 * 25)
    assert coral(x, None, y, None).item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("rows", [(0, 4), (4, 0)])
def test_a_batch_without_rows_is_no_distance_away(rows):
    x, y = (torch.randn(each, 3, requires_grad=True) for each in rows)
    loss = MatchingLoss("marginal", matching_loss=lambda x, y: (x.mean(0) - y.mean(0)).square().sum())(x, None, y, None)
    assert loss == 0
    assert not any(each.any() for each in torch.autograd.grad(loss, (x, y)))


@pytest.mark.parametrize("function", [lambda x, y: 1.0, lambda x, y: x - y, lambda x, y: (x.sum() - y.sum()).detach()])
def test_a_function_that_gives_no_scalar_to_learn_from_is_refused(function):
    (x, _), (y, _) = batch(4), batch(4, seed=1)
    with pytest.raises(ValueError, match="must return a scalar tensor"):
        MatchingLoss("marginal", matching_loss=function)(x, None, y, None)


def test_a_file_of_dataclasses_can_hold_the_distance(tmp_path):
    source = """
from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Settings:
    power: int = 2


def distance(x, y):
    return (x.mean(0) - y.mean(0)).abs().pow(Settings().power).sum()
"""
    # Two files of one name are two modules.
    for place, power in enumerate((2, 3)):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / "mine.py").write_text(source.replace("int = 2", f"int = {power}"), encoding="utf-8")
    (x, _), (y, _) = batch(4), batch(4, seed=1)
    for place, power in enumerate((2, 3)):
        loss = MatchingLoss("marginal", matching_loss=f"{tmp_path}/{place}/mine.py:distance")
        assert loss(x, None, y, None).item() == pytest.approx((x.mean(0) - y.mean(0)).abs().pow(power).sum().item())
