"""The memory of past features: its queue, and what a checkpoint keeps of it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from itra_hf.memory import FeatureMemory

DIM = 5


def batches(count, rows=8, seed=0):
    return torch.randn(count, rows, DIM, generator=torch.Generator().manual_seed(seed))


def remember(memory, features, labels=None):
    """What is recalled at each batch of a run."""
    recalled = []
    for step, batch in enumerate(features):
        recalled.append(memory.recall(step))
        memory.take_in(batch, None if labels is None else labels[step])
    return recalled


# ---- The queue ----


def test_it_recalls_the_newest_rows_before_the_current_batch_in_order():
    features, labels = batches(6, rows=4), torch.arange(24).view(6, 4)
    recalled = remember(FeatureMemory(10, 0), features, labels)
    assert recalled[0] is None
    for step in range(1, 6):
        rows, own = recalled[step]
        assert torch.equal(rows, features[:step].flatten(0, 1)[-10:])
        assert torch.equal(own, labels[:step].flatten()[-10:])


def test_a_batch_larger_than_the_memory_leaves_its_last_rows():
    (batch,) = batches(1)
    memory = FeatureMemory(3, 0)
    memory.take_in(batch, None)
    assert torch.equal(memory.features, batch[-3:])


def test_the_warm_up_only_fills_it():
    recalled = remember(FeatureMemory(100, 3), batches(5))
    assert [rows is None for rows in recalled] == [True, True, True, False, False]
    assert len(recalled[3][0]) == 24


def test_labels_of_any_kind_are_kept_and_none_are_none():
    targets = torch.rand(3, 8, 2)
    recalled, unlabelled = (remember(FeatureMemory(100, 0), batches(3), labels) for labels in (targets, None))
    assert torch.equal(recalled[2][1], targets[:2].flatten(0, 1))
    assert unlabelled[2][1] is None


def test_what_is_stored_keeps_the_dtype_of_the_features_and_does_not_follow_their_changes():
    batch = batches(1)[0].bfloat16()
    memory, untouched = (FeatureMemory(100, 0) for _ in range(2))
    for each, given in ((memory, batch), (untouched, batch.clone())):
        each.take_in(given, None)
    batch += 1
    assert memory.features.dtype == torch.bfloat16
    recalled, expected = (each.recall(1)[0] for each in (memory, untouched))
    assert recalled.dtype == torch.float32
    assert torch.equal(recalled, expected)


# ---- Checkpoints ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_restores_it_bit_for_bit(dtype, tmp_path):
    features, labels = batches(12).to(dtype), torch.arange(96).view(12, 8)
    memory, restored = (FeatureMemory(30, 2) for _ in range(2))
    remember(memory, features[:6], labels)
    save_file(memory.state_dict(), tmp_path / "memory.safetensors")
    restored.load_state_dict(load_file(tmp_path / "memory.safetensors"))
    for step in range(6, 12):
        pairs = [each.recall(step) for each in (memory, restored)]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*pairs, strict=True))
        for each in (memory, restored):
            each.take_in(features[step], labels[step])


def test_an_empty_memory_can_be_saved(tmp_path):
    save_file(FeatureMemory(4, 1).state_dict(), tmp_path / "memory.safetensors")
    restored = FeatureMemory(4, 1)
    restored.load_state_dict(load_file(tmp_path / "memory.safetensors"))
    assert restored.recall(5) is None


def test_a_memory_that_became_smaller_keeps_the_newest():
    features, labels = batches(3), torch.arange(24).view(3, 8)
    large, small = FeatureMemory(20, 0), FeatureMemory(5, 0)
    remember(large, features, labels)
    small.load_state_dict(large.state_dict())
    rows, own = small.recall(3)
    assert torch.equal(rows, features[2, -5:])
    assert own.tolist() == [19, 20, 21, 22, 23]
