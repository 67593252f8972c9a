"""The MMD in parts has the same value and gradients, and no more memory than it needs."""

import pytest
import torch
from loops import ALIGNMENTS, ESTIMATORS, batch

from itra_hf import MatchingLoss
from itra_hf.losses.mmd import squared_mmd


@pytest.mark.parametrize("rows_at_once", [1, 3, 7])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_large_batches_in_parts_have_one_value_and_gradient(alignment, estimator, rows_at_once):
    (x, labels), (y, other) = batch(8), batch(7, seed=1)
    whole = squared_mmd(x, labels, y, other, alignment, estimator)
    parts = squared_mmd(x, labels, y, other, alignment, estimator, rows_at_once=rows_at_once)
    torch.testing.assert_close(tuple(parts), tuple(whole), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("targets", [torch.randn(8), (torch.randn(8, 3) > 0).float()])
def test_parts_with_float_and_multi_label_targets(targets):
    (x, _), (y, _) = batch(8), batch(8, seed=1)
    whole, parts = (squared_mmd(x, targets, y, targets.flip(0), "joint", rows_at_once=size) for size in (8, 3))
    torch.testing.assert_close(tuple(parts), tuple(whole), rtol=1e-6, atol=1e-8)


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Sees the results of all operations; `made` are those that are no views."""

    def __init__(self):
        super().__init__()
        self.biggest = self.made = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.biggest = max(self.biggest, result.numel())
            self.made += not function.is_view
        return result


def peak_numbers(x, y, labels, **settings):
    with Watch() as watch:
        squared_mmd(x, labels, y, labels, **settings)
    return watch.biggest


def test_a_small_batch_takes_few_operations():
    (x, labels), (y, other) = batch(16), batch(16, seed=1)
    with Watch() as watch:
        squared_mmd(x, labels, y, other, "conditional", companion_learns=False)
    assert watch.made <= 115  # each costs a GPU a launch, which is what small batches wait for


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_parts_hold_no_numbers_for_all_pairs(alignment):
    x, y = (torch.randn(512, 4) for _ in range(2))
    labels = torch.arange(512) % 3
    assert peak_numbers(x, y, labels, alignment=alignment) == 1024 * 1024
    assert peak_numbers(x, y, labels, alignment=alignment, rows_at_once=16) <= 16 * 1024


def test_only_the_gradients_outlive_the_forward_pass():
    x, y = (torch.randn(64, 3, requires_grad=True) for _ in range(2))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        MatchingLoss("marginal", kernel="laplacian")(x, None, y, None)
    assert saved == [64 * 3] * 2


def test_no_memory_of_order_pairs_times_dim():
    x, y = (torch.randn(256, 2048) for _ in range(2))
    # The two batches themselves; pairs times dim would be 256 times that.
    assert 0 < peak_numbers(x, y, None) <= 2 * 256 * 2048
