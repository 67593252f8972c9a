"""The matching losses against an independent version with loops over pairs and classes, in float64."""

import math
import statistics

import pytest
import torch
from loops import ALIGNMENTS, ESTIMATORS, KERNELS, WEIGHTINGS, batch, brute_force, length_scale

from itra_hf import MatchingLoss


@pytest.mark.parametrize("bandwidth", ["mean", "median", 0.7])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_agrees_with_brute_force(alignment, name, estimator, bandwidth):
    loss = MatchingLoss(alignment, name, bandwidth, estimator)
    for seed in range(3):
        x, labels = batch(8, seed=seed)
        y, other = batch(7, seed=seed + 100)
        expected = brute_force(x, labels, y, other, alignment, name, bandwidth, estimator)
        assert loss(x, labels, y, other).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_both_class_weightings_agree_with_brute_force(weighting, estimator):
    loss = MatchingLoss("conditional", "laplacian", 7.0, estimator, class_weighting=weighting)
    for seed in range(3):
        x, labels = batch(9, classes=4, seed=seed)
        y, other = batch(7, classes=4, seed=seed + 100)
        expected = brute_force(x, labels, y, other, "conditional", "laplacian", 7.0, estimator, weighting)
        assert loss(x, labels, y, other).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        x.requires_grad_()
        y.requires_grad_()
        assert torch.autograd.gradcheck(loss, (x, labels, y, other))


@pytest.mark.parametrize(
    "settings", [{"bandwidth": 2.0}, {"matching_loss": lambda x, y: (x.mean() - y.mean()).square()}]
)
@pytest.mark.parametrize("labels_of_no_class", [-100, 8])  # unlabelled, and in one batch only
def test_classes_alike_count_those_alone_that_both_batches_hold(labels_of_no_class, settings):
    (x, _), (y, _) = batch(7), batch(9, seed=1)
    labels, other = (
        torch.tensor([0, 1, 1, 1, *[labels_of_no_class] * 3]),
        torch.tensor([0, 0, 0] + [1] * 4 + [-100] * 2),
    )
    loss = MatchingLoss("conditional", class_weighting="alike", **settings)
    alone = MatchingLoss("marginal", **settings)
    values = [alone(x[labels == label], None, y[other == label], None).item() for label in (0, 1)]
    assert loss(x, labels, y, other).item() == pytest.approx(statistics.fmean(values), rel=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", ["float", "multi-label"])
def test_joint_alignment_of_other_targets(kind, estimator):
    x, y = batch(6)[0], batch(5, seed=1)[0]
    shape = (6,) if kind == "float" else (6, 4)
    generator = torch.Generator().manual_seed(2)
    targets = torch.randn(shape, generator=generator) if kind == "float" else torch.rand(shape, generator=generator)
    targets = targets.double() if kind == "float" else (targets > 0.5).double()
    loss = MatchingLoss("joint", estimator=estimator)
    expected = brute_force(x, targets, y, targets[:5], "joint", "gaussian", "mean", estimator)
    assert loss(x, targets, y, targets[:5]).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_gradients(alignment, name, estimator):
    # A fixed bandwidth: 'mean' and 'median' are constants to autograd by definition.
    loss = MatchingLoss(alignment, name, 2.0, estimator)
    (x, labels), (y, other) = batch(6), batch(5, seed=1)
    x.requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, labels, b, other), (x, y))


def test_bandwidth_gets_no_gradient():
    (x, labels), (y, other) = batch(6), batch(6, seed=1)
    x.requires_grad_()
    fixed = length_scale([*x.detach(), *y], "mean")
    (adaptive,) = torch.autograd.grad(MatchingLoss("marginal", bandwidth="mean")(x, labels, y, other), x)
    (constant,) = torch.autograd.grad(MatchingLoss("marginal", bandwidth=fixed)(x, labels, y, other), x)
    torch.testing.assert_close(adaptive, constant)


@pytest.mark.slow
def test_expectations_over_random_draws():
    # Unbiased: 0. Biased: (1/m + 1/n) * (1 - E k); for standard normals of dimension d and squared
    # length scale s, E k = (1 + 2 / s) ** (-d / 2).
    dim, n, m, scale = 4, 6, 9, 5.0
    generator = torch.Generator().manual_seed(0)
    values = {name: [] for name in ESTIMATORS}
    for _ in range(4000):
        x, y = (torch.randn(rows, dim, generator=generator) for rows in (n, m))
        for name in ESTIMATORS:
            values[name].append(MatchingLoss("marginal", "gaussian", scale, estimator=name)(x, None, y, None).item())
    expected_kernel = (1 + 2 / scale) ** (-dim / 2)
    for name, expected in (("unbiased", 0.0), ("biased", (1 / n + 1 / m) * (1 - expected_kernel))):
        error = statistics.stdev(values[name]) / math.sqrt(len(values[name]))
        assert abs(statistics.fmean(values[name]) - expected) < 4 * error


def test_pull_is_strongest_at_one_length_scale_and_vanishes_far_away():
    def pull(gap):
        x = torch.tensor([[gap]], dtype=torch.float64, requires_grad=True)
        loss = MatchingLoss("marginal", "gaussian", 1.0)(x, None, torch.zeros_like(x), None)
        return torch.autograd.grad(loss, x)[0].item()

    pulls = {gap: pull(gap) for gap in (0.5, 0.9, 1.0, 1.1, 2.0, 10.0)}
    assert max(pulls, key=pulls.get) == 1.0
    assert pulls[10.0] < 1e-9


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("dim", [1, 3, 384])
def test_identical_batches_give_exactly_zero(alignment, name, dim):
    x, labels = batch(16, dim=dim)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        features = x.to(dtype)
        match = MatchingLoss(alignment, name, "median").match(features, labels, features.clone(), labels)
        assert match.value.item() == 0.0
        assert not match.gradient.any()  # a balanced weight would blow up what is rounding alone


def test_conditional_ignores_classes_of_one_batch_only():
    x, y = batch(4)[0], batch(4, seed=1)[0]
    loss = MatchingLoss("conditional", bandwidth=2.0)
    shared = loss(x[:2], torch.tensor([0, 0]), y[:2], torch.tensor([0, 0]))
    mixed = loss(x, torch.tensor([0, 0, 1, 1]), y, torch.tensor([0, 0, 2, 2]))
    assert mixed.item() == pytest.approx(shared.item(), rel=1e-12)


def test_a_class_counts_as_far_as_its_rows_tell():
    (x, _), (y, _) = batch(4), batch(9, seed=1)
    labels, other = torch.tensor([0, 1, 1, 1]), torch.tensor([0] + [1] * 8)
    loss, alone = MatchingLoss("conditional", bandwidth=2.0), MatchingLoss("marginal", bandwidth=2.0)
    rare = alone(x[labels == 0], None, y[other == 0], None).item()
    frequent = alone(x[labels == 1], None, y[other == 1], None).item()
    expected = (1 / 2 * rare + 24 / 11 * frequent) / (1 / 2 + 24 / 11)
    assert loss(x, labels, y, other).item() == pytest.approx(expected, rel=1e-9)


def test_conditional_without_a_common_class_is_zero_with_zero_gradient():
    x, y = batch(4)[0].requires_grad_(), batch(4, seed=1)[0]
    loss = MatchingLoss("conditional")(x, torch.zeros(4, dtype=torch.long), y, torch.ones(4, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_conditional_of_a_single_class_is_marginal():
    (x, _), (y, _) = batch(5), batch(6, seed=1)
    labels = torch.zeros(5, dtype=torch.long), torch.zeros(6, dtype=torch.long)
    for estimator in ESTIMATORS:
        conditional = MatchingLoss("conditional", estimator=estimator)(x, labels[0], y, labels[1])
        marginal = MatchingLoss("marginal", estimator=estimator)(x, None, y, None)
        assert conditional.item() == pytest.approx(marginal.item(), rel=1e-12)


@pytest.mark.parametrize("alignment", ["conditional", "joint"])
def test_unlabelled_examples_change_nothing(alignment):
    (x, labels), (y, other) = batch(6), batch(5, seed=1)
    loss = MatchingLoss(alignment, bandwidth=1.0)
    expected = loss(x, labels, y, other)
    extra, none = torch.randn(9, x.shape[1], dtype=x.dtype), torch.full((9,), -100)
    found = loss(
        torch.cat([x, extra]), torch.cat([labels, none]), torch.cat([extra[:3], y]), torch.cat([none[:3], other])
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert loss(extra, none, y, other).item() == 0


def test_unlabelled_examples_belong_to_no_class():
    (x, labels), (y, other) = batch(6), batch(6, seed=1)
    loss = MatchingLoss("conditional", bandwidth=2.0)
    extra = torch.full((2,), -100)
    more = loss(torch.cat([x, y[:2]]), torch.cat([labels, extra]), torch.cat([y, x[:2]]), torch.cat([other, extra]))
    assert more.item() == pytest.approx(loss(x, labels, y, other).item(), rel=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_batches_of_one_are_finite(alignment, estimator):
    x, y = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3)
    labels = torch.tensor([0])
    loss = MatchingLoss(alignment, estimator=estimator)(x, labels, y, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("bandwidth", ["mean", "median"])
@pytest.mark.parametrize("name", KERNELS)
def test_coinciding_features_have_finite_gradients(name, bandwidth):
    for x, y in (
        (torch.ones(4, 3), torch.ones(4, 3)),
        (torch.ones(8, 3), torch.cat([torch.ones(7, 3), torch.zeros(1, 3)])),
    ):
        x = x.clone().requires_grad_()
        loss = MatchingLoss("marginal", name, bandwidth)(x, None, y, None)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_float32_agrees_with_float64_at_any_scale(alignment, scale):
    (x, labels), (y, other) = batch(16, dim=64, scale=scale), batch(16, dim=64, scale=scale, seed=1)
    x, y = x + 300 * scale, y + 300 * scale  # far from the origin, where uncentred Gram matrices lose their digits
    loss = MatchingLoss(alignment, "gaussian", "mean")
    single = loss(x.float(), labels, y.float(), other)
    assert single.dtype == torch.float32
    exact = loss(x.float().double(), labels, y.float().double(), other).item()
    assert single.item() == pytest.approx(exact, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_compared_in_float32(dtype):
    (x, labels), (y, other) = batch(16, dim=64), batch(16, dim=64, seed=1)
    x, y = x.to(dtype), y.to(dtype)
    loss = MatchingLoss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(x, labels, y, other)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(x.double(), labels, y.double(), other).item(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignment": "conditonal"}, "alignment='conditonal' is not one of 'conditional', 'joint', 'marginal'"),
        ({"kernel": "rbf"}, "kernel='rbf' is not one of"),
        ({"estimator": "u"}, "estimator='u' is not one of"),
        ({"bandwidth": 0}, r"bandwidth=0 is neither a positive number from 1e-15 to 1e\+15 nor 'mean' nor 'median'"),
        ({"bandwidth": -1.0}, "bandwidth=-1.0 is neither"),
        ({"bandwidth": "max"}, "bandwidth='max' is neither"),
        ({"class_weighting": "even"}, "class_weighting='even' is not one of 'size', 'alike'"),
        ({"matching_loss": "wasserstein"}, "matching_loss='wasserstein' is neither 'mmd' nor a function"),
        ({"matching_loss": 3}, "matching_loss=3 is neither 'mmd' nor a function"),
        ({"matching_loss": "math:nothing"}, "matching_loss='math:nothing' can't be loaded"),
        ({"matching_loss": max, "estimator": "unbiased"}, "estimator='unbiased' is of matching_loss='mmd'"),
        ({"matching_loss": max, "alignment": "joint"}, "alignment='joint' needs matching_loss='mmd'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MatchingLoss(**settings)


@pytest.mark.parametrize(
    ("alignment", "labels", "message"),
    [
        ("conditional", torch.rand(4), "alignment='joint' works with float and multi-label targets"),
        ("conditional", torch.ones(4, 2), "alignment='joint' works with float and multi-label targets"),
        ("joint", None, "alignment='marginal' works without"),
        ("joint", torch.zeros(3), "4 and 4 features, but 3 and 3 labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(alignment, labels, message):
    with pytest.raises(ValueError, match=message):
        MatchingLoss(alignment)(torch.zeros(4, 2), labels, torch.ones(4, 2), labels)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got \[4, 2\] and \[4, 3\]"):
        MatchingLoss("marginal")(torch.zeros(4, 2), None, torch.ones(4, 3), None)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_class_ids_of_any_width_are_the_same_ids(dtype):
    (x, labels), (y, other) = batch(8), batch(8, seed=1)
    wide, narrow = ((labels + 100) % 127, (other + 100) % 127), None
    if dtype == torch.uint8:
        wide = labels + 156, other + 156  # -100 as eight bits
    narrow = tuple(each.to(dtype) for each in wide)
    for alignment in ("conditional", "joint"):
        loss = MatchingLoss(alignment)
        assert loss(x, narrow[0], y, narrow[1]).item() == loss(x, wide[0], y, wide[1]).item() > 0
