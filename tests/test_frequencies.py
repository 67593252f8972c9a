"""The frequencies of random features: which kernel they stand for, and how they are drawn."""

import math
import statistics

import pytest
import torch
from looped_mmd import KERNELS, MULTIPLIERS, batch, exact_kernel, random_kernel

from itra_hf.random_features import draw_frequencies, random_feature_squared_mmd


@pytest.mark.parametrize("name", KERNELS)
def test_frequencies_stand_for_the_kernel(name):
    count, dim = 60_000, 3
    kernel = random_kernel(draw_frequencies(dim, count, name, MULTIPLIERS, 1))
    exact = exact_kernel(name, multipliers=MULTIPLIERS)
    origin, direction = torch.zeros(dim).double(), torch.tensor([2.0, -1.0, 2.0]).double() / 3
    for length in (0.0, 0.7, 1.5, 3.0, 8.0):
        assert kernel(length * direction, origin) == pytest.approx(exact(length * direction, origin), abs=0.01)


@pytest.mark.parametrize(("name", "constant"), [("gaussian", 0.5), ("inverse_multiquadric", 1.4)])
def test_error_of_gradients(name, constant):
    dim, rows, scale = 48, 16, torch.tensor(96.0).double()
    x, y = batch(rows, dim)[0].requires_grad_(), batch(rows, dim, seed=1)[0] + 0.5

    def kernel(a, b):
        d2 = (a[:, None] - b[None]).square().sum(-1) / scale
        return torch.exp(-d2 / 2) if name == "gaussian" else (1 + d2 / 2).rsqrt()

    (exact,) = torch.autograd.grad(kernel(x, x).mean() - 2 * kernel(x, y).mean(), x)
    for factor in (2, 32):
        errors = []
        for seed in range(4):
            draw = draw_frequencies(dim, factor * dim, name, (1.0,), seed)
            value = random_feature_squared_mmd(x, None, y, None, draw, scale, "marginal", "biased")
            errors.append(((torch.autograd.grad(value, x)[0] - exact).norm() / exact.norm()).item())
        assert statistics.fmean(errors) < 1.25 * constant / math.sqrt(factor)


def test_columns_are_standard_normal_and_orthogonal_in_blocks():
    dim = 8
    columns = draw_frequencies(dim, 8000, "gaussian", (1.0,), 3)
    assert columns.mean(1).abs().max() < 4 / math.sqrt(8000)
    torch.testing.assert_close(columns @ columns.T / 8000, torch.eye(dim), atol=0.06, rtol=0)
    assert columns.norm(dim=0).square().var().item() == pytest.approx(2 * dim, rel=0.1)  # chi squared, not constant
    block = columns[:, dim : 2 * dim]
    gram = block.T @ block
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-4, rtol=0)


def test_multipliers_get_equal_shares():
    norms = draw_frequencies(64, 300, "gaussian", (1e-6, 1.0, 1e6), 0).norm(dim=0) / 8
    assert [int(((norms / size > 0.3) & (norms / size < 3)).sum()) for size in (1e3, 1.0, 1e-3)] == [100, 100, 100]
    with pytest.raises(ValueError, match="2 random features are too few for 3 bandwidth multipliers"):
        draw_frequencies(4, 2, "gaussian", MULTIPLIERS, 0)


@pytest.mark.parametrize("name", KERNELS)
def test_seeds_and_generators(name):
    state = torch.get_rng_state()
    first, again, other = (draw_frequencies(3, 40, name, MULTIPLIERS, seed) for seed in (5, 5, 6))
    drawn = draw_frequencies(3, 40, name, MULTIPLIERS, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert torch.equal(first, drawn)
    assert not torch.equal(first, other)
    assert first.shape == (3, 40)
    assert torch.isfinite(first).all()
