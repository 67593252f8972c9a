"""The matching loss on random features and labels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import ALIGNMENTS, ESTIMATORS, KERNELS
from strategies import ALL_CHECKS, LABELS, draw_label

from itra_hf import MatchingLoss


@st.composite
def feature_batches(draw):
    """Features (some rows twice, any scale), labels, and the same of the companion; float64."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    dim, scale = draw(st.integers(1, 6)), 10 ** draw(st.floats(-6, 4))
    kind, classes = draw(st.sampled_from(LABELS)), draw(st.integers(1, 5))
    pool = torch.randn(draw(st.integers(1, 8)), dim, generator=generator, dtype=torch.float64) * scale
    batches = []
    for _ in range(2):
        rows = draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=7))
        labels = torch.tensor([draw_label(draw, kind, classes) for _ in rows])
        batches += [pool[rows], labels]
    return kind, scale, batches


@st.composite
def losses(draw, kind: str, bandwidths: list) -> MatchingLoss:
    alignments = ALIGNMENTS if kind.startswith("ids") else ALIGNMENTS[1:]
    return MatchingLoss(
        draw(st.sampled_from(alignments)),
        draw(st.sampled_from(KERNELS)),
        draw(st.sampled_from(bandwidths)),
        draw(st.sampled_from(ESTIMATORS)),
    )


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=ALL_CHECKS)
@given(st.data())
def test_the_matching_loss_is_symmetric_and_invariant(data):
    kind, scale, (x, x_labels, y, y_labels) = data.draw(feature_batches())
    # A kernel much narrower than the features' scale would tell apart what only rounding moves.
    loss = data.draw(losses(kind, ["mean", "median", scale**2]))
    value = pytest.approx(loss(x, x_labels, y, y_labels).item(), abs=1e-5)
    assert loss(y, y_labels, x, x_labels).item() == value
    order = torch.tensor(data.draw(st.permutations(range(len(x)))))
    assert loss(x[order], x_labels[order], y, y_labels).item() == value
    moved = scale * data.draw(st.floats(-10, 10))
    assert loss(x + moved, x_labels, y + moved, y_labels).item() == value


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=ALL_CHECKS)
@given(st.data(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_the_matching_loss_and_its_gradient_are_finite(data, dtype):
    kind, _, (x, x_labels, y, y_labels) = data.draw(feature_batches())
    loss = data.draw(losses(kind, ["mean", "median", 1e-6, 1.0, "100"]))
    features = [part.detach().to(dtype, copy=True).requires_grad_() for part in (x, y)]
    value = loss(features[0], x_labels, features[1], y_labels)
    value.backward()
    assert bool(value.isfinite())
    assert all(bool(part.grad.isfinite().all()) for part in features)
    assert loss.estimator == "unbiased" or value.item() >= -1e-6
