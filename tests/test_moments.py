"""CORAL and the central moment discrepancy against loops over rows and coordinates."""

import math
import statistics

import pytest
import torch

from itra_hf.moments import central_moments, coral

LOSSES = [coral, central_moments]


def batch(rows, dim=4, seed=0, dtype=torch.float64):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mean_squared_distance(x, y):
    rows = torch.cat([x, y])
    values = [(rows[i] - rows[j]).square().sum().item() for i in range(len(rows)) for j in range(i)]
    return torch.tensor(statistics.fmean(values), dtype=x.dtype)


def column(rows, i, unit):
    return [row[i] / unit for row in rows.tolist()]


def covariance(rows, i, j, unit):
    one, two = column(rows, i, unit), column(rows, j, unit)
    mean_one, mean_two = statistics.fmean(one), statistics.fmean(two)
    return statistics.fmean((a - mean_one) * (b - mean_two) for a, b in zip(one, two, strict=True))


def brute_coral(x, y, scale):
    dim = x.shape[1]
    deviation = math.sqrt(scale / (2 * dim))
    return sum(
        (covariance(x, i, j, deviation) - covariance(y, i, j, deviation)) ** 2 for i in range(dim) for j in range(dim)
    ) / (4 * dim**2)


def brute_central_moments(x, y, scale, orders):
    dim = x.shape[1]
    width = 4 * math.sqrt(scale / (2 * dim))

    def moment(values, order):
        mean = statistics.fmean(values)
        return mean if order == 1 else statistics.fmean((value - mean) ** order for value in values)

    total = 0.0
    for order in range(1, orders + 1):
        gaps = [moment(column(x, i, 1), order) - moment(column(y, i, 1), order) for i in range(dim)]
        total += math.sqrt(sum(gap**2 for gap in gaps)) / width**order
    return total


@pytest.mark.parametrize(("n", "m", "dim"), [(8, 7, 4), (3, 9, 1), (1, 5, 3), (2, 2, 6)])
def test_agrees_with_brute_force(n, m, dim):
    x, y = batch(n, dim), 2 * batch(m, dim, seed=1) + 0.5
    scale = mean_squared_distance(x, y)
    assert coral(x, y, scale).item() == pytest.approx(brute_coral(x, y, scale), rel=1e-9)
    for orders in (1, 2, 3, 5, 6):
        expected = brute_central_moments(x, y, scale.item(), orders)
        assert central_moments(x, y, scale, orders).item() == pytest.approx(expected, rel=1e-9)
    assert central_moments(x, y, scale).item() == central_moments(x, y, scale, 5).item()


def test_known_values():
    # One coordinate: variances 1 and 0, means 0 and 3; the pooled rows' scale is not asked for.
    x, y, scale = torch.tensor([[-1.0], [1.0]]), torch.tensor([[3.0], [3.0]]), torch.tensor(2.0)
    assert coral(x, y, scale).item() == pytest.approx(0.25)
    assert central_moments(x, y, scale, 5).item() == pytest.approx(3 / 4 + 1 / 4**2 + 0 + 1 / 4**4 + 0)


def test_scale_makes_the_pooled_standard_deviation_the_unit():
    x, y = 5 * batch(500, 6), 5 * batch(500, 6, seed=1)
    deviation = torch.cat([x, y]).var(dim=0).mean().sqrt()
    assert (mean_squared_distance(x[:50], y[:50]) / 12).sqrt().item() == pytest.approx(deviation.item(), rel=0.1)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss):
    x, y = batch(6).requires_grad_(), batch(5, seed=1).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, scale), (x, y))


def test_gradients_of_each_order():
    x, y = batch(6).requires_grad_(), batch(5, seed=1).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64)
    for orders in (1, 2, 3, 4):
        assert torch.autograd.gradcheck(lambda a, b, o=orders: central_moments(a, b, scale, o), (x, y))


def test_expectation_of_coral_over_random_batches():
    # For standard normals, E |cov_x - cov_y|^2 with biased covariances: each C = W / n with W Wishart of n - 1 degrees
    # has E|C - E C|^2 = (n - 1) (d^2 + d) / n^2, and E C = (n - 1) / n I.
    dim, n, m, draws = 3, 6, 9, 4000
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor(2.0)
    values = [
        coral(torch.randn(n, dim, generator=generator), torch.randn(m, dim, generator=generator), scale).item() * 4
        for _ in range(draws)
    ]
    spread = sum((k - 1) * (dim**2 + dim) / k**2 for k in (n, m))
    expected = spread + dim * (1 / n - 1 / m) ** 2
    error = statistics.stdev(values) / math.sqrt(draws)
    assert abs(statistics.fmean(values) - expected) < 4 * error


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 3, 384])
def test_identical_batches_give_exactly_zero_with_zero_gradient(loss, dtype, dim):
    x = batch(16, dim, dtype=dtype).requires_grad_()
    value = loss(x, x.detach().clone(), torch.tensor(2.0 * dim, dtype=dtype))
    value.backward()
    assert value.item() == 0
    assert value.dtype == dtype
    assert not x.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_coinciding_features_have_finite_gradients(loss):
    for other in (torch.ones(8, 3), torch.cat([torch.ones(7, 3), torch.zeros(1, 3)])):
        x = torch.ones(8, 3, requires_grad=True)
        value = loss(x, other, torch.tensor(1.0))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all()


def test_means_alone_move_central_moments_but_not_coral():
    x, scale = batch(8), torch.tensor(4.0, dtype=torch.float64)
    shift = torch.tensor([3.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    assert coral(x, x + shift, scale).item() == pytest.approx(0, abs=1e-24)
    width = 4 * math.sqrt(4 / 8)
    assert central_moments(x, x + shift, scale).item() == pytest.approx(5 / width, rel=1e-9)


def test_one_row_against_one_row():
    x, y = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3)
    scale = torch.tensor(3.0)
    value = coral(x, y, scale)
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()
    value = central_moments(x, y, scale)
    value.backward()
    assert value.item() == pytest.approx(math.sqrt(3) / (4 * math.sqrt(0.5)))
    assert torch.isfinite(x.grad).all()
    assert x.grad.any()


def test_one_row_against_many():
    x, y = batch(1).requires_grad_(), batch(6, seed=1)
    scale = mean_squared_distance(x.detach(), y)
    expected = sum(covariance(y, i, j, 1) ** 2 for i in range(4) for j in range(4)) / scale.item() ** 2
    assert coral(x, y, scale).item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(central_moments(x, y, scale), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [(0, 4), (4, 0), (0, 0)])
def test_batches_without_rows_give_zero_with_zero_gradient(loss, rows):
    x, y = (batch(count).requires_grad_() for count in rows)
    value = loss(x, y, torch.tensor(1.0, dtype=torch.float64))
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()
    assert not y.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_translation_and_scale_do_not_matter(loss):
    x, y = batch(8), 2 * batch(7, seed=1)
    scale = torch.tensor(5.0, dtype=torch.float64)
    plain = loss(x, y, scale).item()
    assert plain > 0
    assert loss(x + 1000, y + 1000, scale).item() == pytest.approx(plain, rel=1e-9)
    assert loss(x * 7, y * 7, scale * 49).item() == pytest.approx(plain, rel=1e-9)
    assert loss(y, x, scale).item() == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_float32_agrees_with_float64_at_any_scale(loss, size):
    x, y = (((batch(32, 64, seed=seed) + 300) * size).float() for seed in (0, 1))  # far from the origin
    scale = 128 * size**2
    single = loss(x, y, torch.tensor(scale)).item()
    assert single == pytest.approx(loss(x.double(), y.double(), torch.tensor(scale).double()).item(), rel=1e-4)


def test_no_moments_are_refused():
    with pytest.raises(ValueError, match="orders=0 must be 1 or more"):
        central_moments(batch(3), batch(3), torch.tensor(1.0), 0)
