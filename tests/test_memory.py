"""The memory of past features: its queue, its estimate of today's moments, its corrections."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from itra_hf.memory import FeatureMemory, update_moments

DIM = 5


def batches(count, rows=8, seed=0):
    return torch.randn(count, rows, DIM, generator=torch.Generator().manual_seed(seed))


def remember(memory, features, labels=None):
    """What is recalled at each batch of a run."""
    recalled = []
    for step, batch in enumerate(features):
        recalled.append(memory.recall(batch, step))
        memory.take_in(batch, None if labels is None else labels[step])
    return recalled


# ---- The queue ----


def test_it_recalls_the_newest_rows_before_the_current_batch_in_order():
    features, labels = batches(6, rows=4), torch.arange(24).view(6, 4)
    recalled = remember(FeatureMemory(10, 0, "none"), features, labels)
    assert recalled[0] is None
    for step in range(1, 6):
        rows, own = recalled[step]
        assert torch.equal(rows, features[:step].flatten(0, 1)[-10:])
        assert torch.equal(own, labels[:step].flatten()[-10:])


def test_a_batch_larger_than_the_memory_leaves_its_last_rows():
    (batch,) = batches(1)
    memory = FeatureMemory(3, 0, "none")
    memory.take_in(batch, None)
    assert torch.equal(memory.features, batch[-3:])


def test_the_warm_up_only_fills_it():
    recalled = remember(FeatureMemory(100, 3, "none"), batches(5))
    assert [rows is None for rows in recalled] == [True, True, True, False, False]
    assert len(recalled[3][0]) == 24


def test_labels_of_any_kind_are_kept_and_none_are_none():
    targets = torch.rand(3, 8, 2)
    recalled, unlabelled = (remember(FeatureMemory(100, 0, "mean"), batches(3), labels) for labels in (targets, None))
    assert torch.equal(recalled[2][1], targets[:2].flatten(0, 1))
    assert unlabelled[2][1] is None


@pytest.mark.parametrize("correction", ["none", "mean", "moments"])
def test_what_is_stored_keeps_the_dtype_of_the_features_and_does_not_follow_their_changes(correction):
    batch = batches(1)[0].bfloat16()
    memory, untouched = (FeatureMemory(100, 0, correction) for _ in range(2))
    for each, given in ((memory, batch), (untouched, batch.clone())):
        each.recall(given, 0)
        each.take_in(given, None)
    batch += 1
    assert memory.features.dtype == torch.bfloat16
    recalled, expected = (each.recall(batches(1)[0].bfloat16(), 1)[0] for each in (memory, untouched))
    assert recalled.dtype == torch.float32
    assert torch.equal(recalled, expected)


# ---- Today's moments ----


def test_without_drift_the_mean_becomes_much_surer_than_a_batch_mean():
    squares = []
    for seed in range(20):
        moments = None
        for batch in batches(100, rows=16, seed=seed) + 3:
            moments = update_moments(moments, batch)
        squares.append((moments.mean - 3).square().mean())
        assert_close(moments.variance.mean(), torch.tensor(1.0), atol=0.2, rtol=0)
    assert torch.stack(squares).mean() < (1 / 16) / 5  # a batch mean's is 1/16


def test_the_mean_keeps_up_with_drift():
    moments, shift = None, torch.linspace(-1, 1, DIM)
    for step, batch in enumerate(batches(60, rows=16)):
        moments = update_moments(moments, batch + step * shift)
    assert (moments.mean - 59 * shift).square().mean() < 0.25
    assert moments.drift > 0


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_few_rows_a_batch_still_give_the_mean_and_the_variance(rows):
    moments = None
    for batch in 2 * batches(400, rows=rows) + 3:
        moments = update_moments(moments, batch)
    assert_close(moments.variance.mean(), torch.tensor(4.0), atol=0, rtol=0.4)
    assert (moments.mean - 3).square().mean() < 4 / rows / 2


# ---- Corrections ----


@pytest.mark.parametrize(("correction", "error"), [("mean", 0.15), ("moments", 0.3)])
def test_recalled_features_are_moved_along_with_drift(correction, error):
    clean, shift = batches(40, rows=16), torch.linspace(-0.5, 0.5, DIM)
    drifted = clean + torch.arange(40).view(-1, 1, 1) * shift
    today = clean[-9:-1].flatten(0, 1) + 39 * shift  # the last eight batches before, as they would be now

    def distance(kind):
        recalled = remember(FeatureMemory(128, 0, kind), drifted)[-1][0]
        return (recalled - today).square().mean()

    assert distance("none") > 2
    assert distance(correction) < error


def test_moments_recover_a_change_of_scale_that_the_mean_alone_does_not():
    clean = batches(40, rows=16)
    scales = torch.linspace(1, 5, 40).view(-1, 1, 1)

    def spread(kind):
        return remember(FeatureMemory(256, 0, kind), clean * scales)[-1][0].std().item()

    assert spread("mean") < 4.2
    assert spread("moments") == pytest.approx(5, rel=0.1)


def test_without_change_corrections_change_little():
    features = batches(60, rows=16)
    for kind in ("mean", "moments"):
        recalled, stored = (remember(FeatureMemory(64, 0, name), features)[-1][0] for name in (kind, "none"))
        assert (recalled - stored).square().mean() < 0.02


@pytest.mark.parametrize("correction", ["mean", "moments"])
def test_batches_of_one_row_keep_their_spread(correction):
    recalled = remember(FeatureMemory(64, 0, correction), batches(100, rows=1) + 3)[-1][0]
    assert recalled.std(dim=0).mean() > 0.5


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("correction", ["none", "mean", "moments"])
def test_constant_features_stay_as_they_are(correction, rows):
    for value in (0.0, 0.1, -3e4):
        features = torch.full((20, rows, DIM), value)
        recalled = remember(FeatureMemory(16, 0, correction), features)[-1][0]
        assert_close(recalled, torch.full_like(recalled, value))


def test_a_coordinate_that_wakes_up_again_stays_within_bounds():
    features = batches(60)
    features[10:50, :, 0] = 0.1
    for rows, _ in remember(FeatureMemory(64, 0, "moments"), features)[1:]:
        assert rows.abs().max() < 20


# ---- Checkpoints ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("correction", ["none", "moments"])
def test_a_file_restores_it_bit_for_bit(correction, dtype, tmp_path):
    features, labels = batches(12).to(dtype), torch.arange(96).view(12, 8)
    memory, restored = (FeatureMemory(30, 2, correction) for _ in range(2))
    remember(memory, features[:6], labels)
    save_file(memory.state_dict(), tmp_path / "memory.safetensors")
    restored.load_state_dict(load_file(tmp_path / "memory.safetensors"))
    for step in range(6, 12):
        pairs = [each.recall(features[step], step) for each in (memory, restored)]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*pairs, strict=True))
        for each in (memory, restored):
            each.take_in(features[step], labels[step])


def test_an_empty_memory_can_be_saved(tmp_path):
    save_file(FeatureMemory(4, 1, "mean").state_dict(), tmp_path / "memory.safetensors")
    restored = FeatureMemory(4, 1, "mean")
    restored.load_state_dict(load_file(tmp_path / "memory.safetensors"))
    assert restored.recall(batches(1)[0], 5) is None


def test_a_memory_that_became_smaller_keeps_the_newest():
    features, labels = batches(3), torch.arange(24).view(3, 8)
    large, small = FeatureMemory(20, 0, "none"), FeatureMemory(5, 0, "none")
    remember(large, features, labels)
    small.load_state_dict(large.state_dict())
    rows, own = small.recall(features[0], 3)
    assert torch.equal(rows, features[2, -5:])
    assert own.tolist() == [19, 20, 21, 22, 23]
