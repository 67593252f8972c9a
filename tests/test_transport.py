"""The Sinkhorn divergence against a plain Sinkhorn iteration run to convergence, and against exact assignments."""

import sys

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from itra_hf import transport
from itra_hf.transport import sinkhorn_divergence


def batch(rows, dim=3, seed=0, shift=0.0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def scale_of(x, y):
    return 2 * torch.cat([x, y]).var(dim=0).sum()


def costs(x, y):
    return (x[:, None] - y[None]).square().sum(-1) / 2


def transport_cost(cost, temperature):
    """Entropic optimal transport between uniform weights: alternating updates in the log domain, to convergence."""
    rows, columns = (torch.tensor(float(size), dtype=cost.dtype).log() for size in cost.shape)
    left = torch.zeros(len(cost), dtype=cost.dtype)
    for _ in range(20_000):
        right = -temperature * ((left[:, None] - cost) / temperature - rows).logsumexp(0)
        new = -temperature * ((right[None] - cost) / temperature - columns).logsumexp(1)
        change, left = (new - left).abs().max(), new
        if change < 1e-10:
            return (left.mean() + right.mean()).item()
    raise AssertionError("The reference did not converge.")


def reference(x, y, scale, blur):
    x, y = x / scale.sqrt(), y / scale.sqrt()
    across, *within = (transport_cost(costs(*pair), blur**2) for pair in ((x, y), (x, x), (y, y)))
    return across - sum(within) / 2


SETTINGS = [
    (8, 7, 3, 0.5, 0.3),
    (16, 16, 2, 1.0, 0.5),
    (5, 12, 64, 0.2, 0.3),
    (16, 16, 32, 0.0, 1.0),
    (4, 4, 3, 2.0, 2.5),
]


@pytest.mark.parametrize(("n", "m", "dim", "shift", "blur"), SETTINGS)
def test_agrees_with_a_converged_iteration(n, m, dim, shift, blur, monkeypatch):
    x, y = batch(n, dim), batch(m, dim, seed=1, shift=shift)
    scale = scale_of(x, y)
    expected = reference(x, y, scale, blur)
    assert sinkhorn_divergence(x, y, scale, blur).item() == pytest.approx(expected, rel=0.01)
    monkeypatch.setattr(transport, "SCALING", 0.995)
    assert sinkhorn_divergence(x, y, scale, blur).item() == pytest.approx(expected, rel=3e-4)


@pytest.mark.parametrize(("dim", "shift"), [(2, 0.5), (16, 0.2), (256, 0.0)])
def test_small_blur_gives_the_exact_assignment(dim, shift):
    x, y = batch(24, dim), batch(24, dim, seed=1, shift=shift)
    scale = scale_of(x, y)
    cost = costs(x, y) / scale
    rows, columns = linear_sum_assignment(cost.numpy())
    expected = cost[rows, columns].mean().item()
    assert sinkhorn_divergence(x, y, scale, 0.02).item() == pytest.approx(expected, rel=0.01)


def test_wide_blur_gives_the_distance_of_means():
    x, y = batch(9), batch(7, seed=1, shift=0.5)
    scale = scale_of(x, y)
    expected = (x.mean(0) - y.mean(0)).square().sum() / scale / 2
    assert sinkhorn_divergence(x, y, scale, 50.0).item() == pytest.approx(expected.item(), rel=1e-2)


def test_known_value_of_single_rows():
    x, y = torch.zeros(1, 2, requires_grad=True), torch.tensor([[3.0, 4.0]])
    value = sinkhorn_divergence(x, y, torch.tensor(100.0))
    value.backward()
    assert value.item() == pytest.approx(25 / 200, rel=1e-5)
    torch.testing.assert_close(x.grad, -y / 100)


def test_shift_of_a_batch_costs_half_its_square():
    x = batch(12)
    y = x + torch.tensor([0.3, 0.0, -0.4], dtype=torch.float64)
    scale = torch.tensor(1.0, dtype=torch.float64)
    for blur in (0.3, 1.0):
        assert sinkhorn_divergence(x, y, scale, blur).item() == pytest.approx(0.125, rel=0.01)


def test_gradients(monkeypatch):
    # Gradients are those at the optimum, so the iteration has to come close to it.
    monkeypatch.setattr(transport, "SCALING", 0.99)
    x, y = batch(5).requires_grad_(), batch(4, seed=1, shift=0.5).requires_grad_()
    scale = torch.tensor(6.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: sinkhorn_divergence(a, b, scale, 1.0), (x, y), atol=1e-5, rtol=1e-3)


def test_gradients_without_convergence_are_close():
    x, y = batch(5).requires_grad_(), batch(4, seed=1, shift=0.5).requires_grad_()
    scale = torch.tensor(6.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: sinkhorn_divergence(a, b, scale, 1.0), (x, y), atol=2e-4, rtol=1e-2)


def test_a_step_along_the_gradient_brings_batches_closer():
    x, y = batch(16).requires_grad_(), batch(16, seed=1, shift=1.0)
    scale = scale_of(x.detach(), y)
    value = sinkhorn_divergence(x, y, scale)
    (gradient,) = torch.autograd.grad(value, x)
    moved = sinkhorn_divergence(x.detach() - 16 * scale * 0.5 * gradient, y, scale)
    assert moved < 0.4 * value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 3, 384])
def test_identical_batches_give_zero(dtype, dim):
    x = batch(16, dim).to(dtype).requires_grad_()
    value = sinkhorn_divergence(x, x.detach().clone(), torch.tensor(2.0 * dim, dtype=dtype))
    value.backward()
    assert value.dtype == dtype
    assert abs(value.item()) < 1e-6
    assert x.grad.abs().max() < 1e-6


def test_coinciding_features_have_finite_gradients():
    for other in (torch.ones(8, 3), torch.cat([torch.ones(7, 3), torch.zeros(1, 3)])):
        x = torch.ones(8, 3, requires_grad=True)
        value = sinkhorn_divergence(x, other, torch.tensor(1.0))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all()


def test_one_row_against_many():
    x, y = batch(1).requires_grad_(), batch(6, seed=1)
    scale = scale_of(x.detach(), y)
    value = sinkhorn_divergence(x, y, scale, 0.3)
    assert value.item() == pytest.approx(reference(x.detach(), y, scale, 0.3), rel=0.01)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(gradient, (x.detach() - y).mean(0, keepdim=True) / scale, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rows", [(0, 4), (4, 0), (0, 0)])
def test_batches_without_rows_give_zero_with_zero_gradient(rows):
    x, y = (batch(count).requires_grad_() for count in rows)
    value = sinkhorn_divergence(x, y, torch.tensor(1.0, dtype=torch.float64))
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()
    assert not y.grad.any()


def test_translation_and_scale_do_not_matter():
    x, y = batch(8), batch(7, seed=1, shift=0.5)
    scale = scale_of(x, y)
    plain = sinkhorn_divergence(x, y, scale).item()
    assert sinkhorn_divergence(x + 1000, y + 1000, scale).item() == pytest.approx(plain, rel=1e-9)
    assert sinkhorn_divergence(x * 7, y * 7, scale * 49).item() == pytest.approx(plain, rel=1e-9)
    assert sinkhorn_divergence(y, x, scale).item() == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_float32_agrees_with_float64_at_any_scale(size):
    x, y = (((batch(32, 64, seed=seed) + 300) * size).float() for seed in (0, 1))  # far from the origin
    scale = torch.tensor(128 * size**2)
    single = sinkhorn_divergence(x, y, scale).item()
    assert single == pytest.approx(sinkhorn_divergence(x.double(), y.double(), scale.double()).item(), rel=1e-5)


def test_a_far_outlier_does_not_break_the_iteration():
    x, y = batch(64), batch(64, seed=1, shift=0.5)
    x[0] += 1000  # scaled, still 6 length scales away, three times the diameter taken
    scale = scale_of(x, y)
    assert sinkhorn_divergence(x, y, scale, 0.5).item() == pytest.approx(reference(x, y, scale, 0.5), rel=0.01)


def test_autograd_stays_as_the_caller_set_it():
    x, y = batch(4).requires_grad_(), batch(4, seed=1)
    scale = torch.tensor(6.0, dtype=torch.float64)
    with torch.no_grad():
        value = sinkhorn_divergence(x, y, scale)
        assert not torch.is_grad_enabled()
    assert not value.requires_grad
    assert torch.is_grad_enabled()
    assert sinkhorn_divergence(x, y, scale).item() == value.item()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "geomloss", None)
    with pytest.raises(ImportError, match=r'pip install "itra_hf\[transport\]"'):
        sinkhorn_divergence(batch(2), batch(2), torch.tensor(1.0))
