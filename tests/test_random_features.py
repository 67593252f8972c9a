"""Random Fourier features against loops over pairs with the frequencies' kernel, and against the exact kernels."""

import math
import statistics

import pytest
import torch
from looped_mmd import (
    BANDWIDTH,
    KERNELS,
    MULTIPLIERS,
    batch,
    exact_kernel,
    loops,
    mean_squared_distance,
    random_kernel,
)
from torch.utils._python_dispatch import TorchDispatchMode

from itra_hf.random_features import LABEL_SEED, draw_frequencies, random_feature_squared_mmd

ALIGNMENTS = ["conditional", "joint", "marginal"]
ESTIMATORS = ["biased", "unbiased"]


def targets(kind, labels):
    if kind == "class ids":
        return labels
    generator = torch.Generator().manual_seed(int(labels.sum()))
    values = torch.randn(len(labels), 4, generator=generator)
    return values[:, 0] if kind == "float" else (values > 0).float()


def joint_pair(kernel, alignment, kind, frequencies, pooled_targets):
    if alignment != "joint":
        return lambda a, b: kernel(a[0], b[0])
    if kind == "class ids":
        return lambda a, b: kernel(a[0], b[0]) * float(a[1] == b[1] and a[1] != -100)
    rows = pooled_targets.double().reshape(len(pooled_targets), -1)
    scale = mean_squared_distance(rows)
    own = draw_frequencies(rows.shape[1], frequencies.shape[1], "gaussian", (1.0,), LABEL_SEED)
    columns = torch.cat([frequencies.double() / BANDWIDTH.sqrt(), own.double() / math.sqrt(scale)])

    def pair(a, b):
        difference = torch.cat([a[0] - b[0], (a[1] - b[1]).double().reshape(-1)])
        return torch.cos(difference @ columns).mean().item()

    return pair


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("alignment", "kind"),
    [("marginal", "class ids"), ("conditional", "class ids")]
    + [("joint", kind) for kind in ("class ids", "float", "multi-label")],
)
def test_agrees_with_loops_over_pairs(alignment, kind, estimator):
    for seed in range(3):
        (x, labels), (y, others) = batch(8, seed=seed), batch(7, seed=seed + 50)
        labels[2], others[3], others[4] = -100, -100, -100
        first, second = targets(kind, labels), targets(kind, others)
        frequencies = draw_frequencies(4, 19, "gaussian", MULTIPLIERS, seed)
        value = random_feature_squared_mmd(x, first, y, second, frequencies, BANDWIDTH, alignment, estimator)
        pair = joint_pair(random_kernel(frequencies), alignment, kind, frequencies, torch.cat([first, second]))
        left, right = list(zip(x, first, strict=True)), list(zip(y, second, strict=True))
        assert value.item() == pytest.approx(loops(pair, left, right, alignment, estimator), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("weighting", ["size", "alike"])
def test_both_class_weightings_agree_with_loops_over_pairs(weighting, estimator):
    (x, labels), (y, others) = batch(9, classes=4), batch(7, classes=4, seed=50)
    labels[2], others[3] = -100, -100
    frequencies = draw_frequencies(4, 19, "gaussian", MULTIPLIERS, 0)
    value = random_feature_squared_mmd(
        x, labels, y, others, frequencies, BANDWIDTH, "conditional", estimator, weighting
    )
    sides = list(zip(x, labels, strict=True)), list(zip(y, others, strict=True))
    pair = joint_pair(random_kernel(frequencies), "conditional", "class ids", frequencies, None)
    expected = loops(pair, *sides, "conditional", estimator, weighting)
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("name", KERNELS)
def test_error_shrinks_with_the_root_of_the_count(name, alignment):
    (x, labels), (y, others) = batch(8), batch(8, seed=1)
    y = y + 1.0
    exact = exact_kernel(name, multipliers=MULTIPLIERS)
    pair = joint_pair(exact, alignment, "class ids", None, None)
    left, right = list(zip(x, labels, strict=True)), list(zip(y, others, strict=True))
    expected = loops(pair, left, right, alignment, "biased")

    def error(count):
        draws = [draw_frequencies(4, count, name, MULTIPLIERS, seed) for seed in range(40)]
        values = [
            random_feature_squared_mmd(x, labels, y, others, draw, BANDWIDTH, alignment, "biased").item()
            for draw in draws
        ]
        return math.sqrt(statistics.fmean((value - expected) ** 2 for value in values))

    few, many = error(60), error(60 * 36)
    assert many < 0.02 * expected + 0.004
    assert 3 < few / many < 12  # 6 by theory


@pytest.mark.parametrize("kind", ["float", "multi-label"])
def test_joint_alignment_converges_to_the_product_of_kernels(kind):
    # Labels of the features' width: their frequencies must still be independent of the features'.
    x, y = batch(8)[0], batch(8, seed=1)[0]
    first, second = (x[:, 0], y[:, 0]) if kind == "float" else (x, y)
    rows = torch.cat([first, second]).reshape(16, -1)
    label_kernel = exact_kernel("gaussian", torch.tensor(mean_squared_distance(rows)))
    features_kernel = exact_kernel("gaussian")

    def pair(a, b):
        return features_kernel(a[0], b[0]) * label_kernel(a[1], b[1])

    left, right = list(zip(x, first, strict=True)), list(zip(y, second, strict=True))
    expected = loops(pair, left, right, "joint", "biased")
    for seed in (0, 1):
        frequencies = draw_frequencies(4, 20_000, "gaussian", (1.0,), seed)
        value = random_feature_squared_mmd(x, first, y, second, frequencies, BANDWIDTH, "joint", "biased")
        assert value.item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("alignment", "kind"), [*((alignment, "class ids") for alignment in ALIGNMENTS), ("joint", "float")]
)
def test_gradients(alignment, kind, estimator):
    (x, labels), (y, others) = batch(6), batch(5, seed=1)
    first, second = targets(kind, labels), targets(kind, others)
    frequencies = draw_frequencies(4, 16, "inverse_multiquadric", (0.5, 2.0), 0)

    def loss(a, b):
        return random_feature_squared_mmd(a, first, b, second, frequencies, BANDWIDTH, alignment, estimator)

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.slow
def test_expectations_over_random_batches():
    # Unbiased: 0. Biased: (1/m + 1/n) (1 - E k); for standard normals E cos(w . (x - x')) = exp(-|w|^2).
    n, m, dim = 6, 9, 4
    frequencies = draw_frequencies(dim, 32, "gaussian", (1.0,), 0)
    expected_kernel = (-frequencies.double().square().sum(0) / BANDWIDTH).exp().mean().item()
    generator = torch.Generator().manual_seed(0)
    values = {name: [] for name in ESTIMATORS}
    for _ in range(3000):
        x, y = (torch.randn(rows, dim, generator=generator) for rows in (n, m))
        for name in ESTIMATORS:
            value = random_feature_squared_mmd(x, None, y, None, frequencies, BANDWIDTH, "marginal", name)
            values[name].append(value.item())
    for name, expected in (("unbiased", 0.0), ("biased", (1 / n + 1 / m) * (1 - expected_kernel))):
        error = statistics.stdev(values[name]) / math.sqrt(len(values[name]))
        assert abs(statistics.fmean(values[name]) - expected) < 4 * error


def test_float_targets_leave_the_global_generator_alone():
    (x, labels), (y, others) = batch(6), batch(5, seed=1)
    state = torch.get_rng_state()
    frequencies = draw_frequencies(4, 16, "gaussian", (1.0,), 0)
    values = [
        random_feature_squared_mmd(x, labels.float(), y, others.float(), frequencies, BANDWIDTH, "joint", "biased")
        for _ in range(2)
    ]
    assert values[0] == values[1]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_identical_batches_give_exactly_zero(alignment, name):
    x, labels = batch(16, dim=384)
    frequencies = draw_frequencies(384, 64, name, MULTIPLIERS, 0)
    for features in (x, x.float()):
        scale = torch.tensor(768.0).to(features.dtype)
        value = random_feature_squared_mmd(
            features, labels, features.clone(), labels, frequencies, scale, alignment, "biased"
        )
        assert value.item() == 0.0
        assert value.dtype == features.dtype


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_translation_and_scale_do_not_matter(alignment, estimator):
    (x, labels), (y, others) = batch(8), batch(7, seed=1)
    frequencies = draw_frequencies(4, 32, "inverse_multiquadric", MULTIPLIERS, 0)

    def value(a, b, bandwidth):
        return random_feature_squared_mmd(a, labels, b, others, frequencies, bandwidth, alignment, estimator).item()

    plain = value(x, y, BANDWIDTH)
    assert plain != 0
    assert value(x + 1000, y + 1000, BANDWIDTH) == pytest.approx(plain, rel=1e-9)
    assert value(x * 7, y * 7, BANDWIDTH * 49) == pytest.approx(plain, rel=1e-9)


def test_far_from_the_origin_in_float32():
    (x, labels), (y, others) = batch(16, dim=64), batch(16, dim=64, seed=1)
    x, y = (x + 300).float(), (y + 300).float()
    frequencies, scale = draw_frequencies(64, 128, "gaussian", MULTIPLIERS, 0), torch.tensor(128.0)
    single = random_feature_squared_mmd(x, labels, y, others, frequencies, scale, "conditional", "biased")
    exact = random_feature_squared_mmd(
        x.double(), labels, y.double(), others, frequencies, scale.double(), "conditional", "biased"
    )
    assert single.item() == pytest.approx(exact.item(), rel=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_conditional_without_a_common_class_is_zero_with_zero_gradient(estimator):
    frequencies = draw_frequencies(4, 16, "gaussian", (1.0,), 0)
    for labels, others in (([0, 0, 0, 0], [1, 1, 1, 1]), ([-100] * 4, [-100] * 4), ([0, 0, 1, -100], [-100, 2, 2, 2])):
        x, y = batch(4)[0].requires_grad_(), batch(4, seed=1)[0].requires_grad_()
        loss = random_feature_squared_mmd(
            x, torch.tensor(labels), y, torch.tensor(others), frequencies, BANDWIDTH, "conditional", estimator
        )
        loss.backward()
        assert loss.item() == 0
        assert not x.grad.any()
        assert not y.grad.any()


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("rows", [(1, 1), (1, 4), (3, 1)])
def test_batches_of_one_row(alignment, rows):
    frequencies = draw_frequencies(3, 16, "gaussian", (1.0,), 0)
    x, y = torch.zeros(rows[0], 3, requires_grad=True), torch.ones(rows[1], 3)
    labels, others = torch.zeros(rows[0], dtype=torch.long), torch.zeros(rows[1], dtype=torch.long)
    values = {}
    for estimator in ESTIMATORS:
        loss = random_feature_squared_mmd(x, labels, y, others, frequencies, torch.tensor(1.0), alignment, estimator)
        (gradient,) = torch.autograd.grad(loss, x)
        values[estimator] = loss.item()
        assert torch.isfinite(gradient).all()
    kernel = random_kernel(frequencies, torch.tensor(1.0).double())(x[0].detach().double(), y[0].double())
    assert values["unbiased"] == 0
    assert values["biased"] == pytest.approx(2 - 2 * kernel, rel=1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_coinciding_features_have_finite_gradients(name):
    frequencies = draw_frequencies(3, 64, name, MULTIPLIERS, 0)
    x, y = torch.ones(8, 3, requires_grad=True), torch.cat([torch.ones(7, 3), torch.zeros(1, 3)])
    for other in (torch.ones(8, 3), y):
        loss = random_feature_squared_mmd(x, None, other, None, frequencies, torch.tensor(1.0), "marginal", "biased")
        (gradient,) = torch.autograd.grad(loss, x)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("alignment", "kind"), [*((a, "class ids") for a in ALIGNMENTS), ("joint", "float")])
def test_no_memory_of_order_pairs(alignment, kind):
    rows, count = 2048, 16
    x, y = torch.randn(rows, 8, requires_grad=True), torch.randn(rows, 8)
    labels = torch.arange(rows) if kind == "class ids" else torch.randn(rows)  # as many classes as there can be
    biggest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal biggest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    biggest = max(biggest, tensor.numel())
            return result

    frequencies = draw_frequencies(8, count, "gaussian", (1.0,), 0)
    with Watch():
        random_feature_squared_mmd(
            x, labels, y, labels, frequencies, torch.tensor(16.0), alignment, "biased"
        ).backward()
    assert 0 < biggest <= 2 * rows * 2 * count  # pairs would be 32 times that


@pytest.mark.parametrize(
    ("alignment", "labels", "message"),
    [
        ("conditional", None, "conditional alignment needs labels"),
        ("joint", None, "joint alignment needs labels"),
        ("conditional", torch.rand(4), "needs one class id an example"),
    ],
)
def test_labels_that_do_not_fit_are_refused(alignment, labels, message):
    frequencies = draw_frequencies(2, 8, "gaussian", (1.0,), 0)
    with pytest.raises(ValueError, match=message):
        random_feature_squared_mmd(
            torch.zeros(4, 2), labels, torch.ones(4, 2), labels, frequencies, torch.tensor(1.0), alignment, "biased"
        )
