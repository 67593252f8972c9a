"""The memory of past features: its queue, what it is compared with, and what a checkpoint keeps of it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from itra_hf import MatchingLoss
from itra_hf.batches import FeatureBatch
from itra_hf.companions.memory import FeatureMemory

DIM = 5


def batches(count, rows=8, seed=0):
    return torch.randn(count, rows, DIM, generator=torch.Generator().manual_seed(seed))


def remember(memory, features, labels=None):
    """What is stored before each batch of a run."""
    stored = []
    for step, batch in enumerate(features):
        stored.append((memory.features, memory.labels))
        memory.take_in(batch, None if labels is None else labels[step])
    return stored


def test_it_holds_the_newest_rows_before_the_current_batch_in_order():
    features, labels = batches(6, rows=4), torch.arange(24).view(6, 4)
    stored = remember(FeatureMemory(10), features, labels)
    assert stored[0] == (None, None)
    for step in range(1, 6):
        rows, own = stored[step]
        assert torch.equal(rows, features[:step].flatten(0, 1)[-10:])
        assert torch.equal(own, labels[:step].flatten()[-10:])


def test_a_batch_larger_than_the_memory_leaves_its_last_rows():
    (batch,) = batches(1)
    memory = FeatureMemory(3)
    memory.take_in(batch, None)
    assert torch.equal(memory.features, batch[-3:])


def test_a_batch_is_matched_with_those_before_it_alone():
    loss, memory = MatchingLoss("conditional"), FeatureMemory(12)
    features, labels = batches(3), torch.arange(24).view(3, 8) % 3
    assert memory.match(loss, FeatureBatch(features[0], labels[0])) is None
    memory.match(loss, FeatureBatch(features[1], labels[1]))
    found = memory.match(loss, FeatureBatch(features[2].bfloat16(), labels[2]))
    before, before_labels = features[:2].flatten(0, 1)[-12:], labels[:2].flatten()[-12:]
    expected = loss.match(features[2].bfloat16(), labels[2], before, before_labels)
    assert torch.equal(found.value, expected.value)
    assert torch.equal(found.gradient, expected.gradient)
    assert not found.companion_gradient.any()


def test_labels_that_do_not_fit_are_refused_before_there_is_anything_to_compare_with():
    with pytest.raises(ValueError, match="needs labels"):
        FeatureMemory(4).match(MatchingLoss("conditional"), FeatureBatch(batches(1)[0], None))


def test_labels_of_any_kind_are_kept_and_none_are_none():
    targets = torch.rand(3, 8, 2)
    stored, unlabelled = (remember(FeatureMemory(100), batches(3), labels) for labels in (targets, None))
    assert torch.equal(stored[2][1], targets[:2].flatten(0, 1))
    assert unlabelled[2][1] is None


def test_what_is_stored_keeps_the_dtype_of_the_features_and_does_not_follow_their_changes():
    batch = batches(1)[0].bfloat16()
    memory, before = FeatureMemory(100), batch.clone()
    memory.take_in(batch, None)
    batch += 1
    assert memory.features.dtype == torch.bfloat16
    assert torch.equal(memory.features, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_restores_it_bit_for_bit(dtype, tmp_path):
    features, labels = batches(12).to(dtype), torch.arange(96).view(12, 8)
    memory, restored = (FeatureMemory(30) for _ in range(2))
    remember(memory, features[:6], labels)
    save_file(memory.state_dict(), tmp_path / "memory.safetensors")
    restored.load_state_dict(load_file(tmp_path / "memory.safetensors"))
    for step in range(6, 12):
        assert torch.equal(memory.features, restored.features)
        assert torch.equal(memory.labels, restored.labels)
        for each in (memory, restored):
            each.take_in(features[step], labels[step])


def test_an_empty_memory_can_be_saved(tmp_path):
    save_file(FeatureMemory(4).state_dict(), tmp_path / "memory.safetensors")
    restored = FeatureMemory(4)
    restored.load_state_dict(load_file(tmp_path / "memory.safetensors"))
    assert restored.features is None


def test_a_memory_that_became_smaller_keeps_the_newest():
    features, labels = batches(3), torch.arange(24).view(3, 8)
    large, small = FeatureMemory(20), FeatureMemory(5)
    remember(large, features, labels)
    small.load_state_dict(large.state_dict())
    assert torch.equal(small.features, features[2, -5:])
    assert small.labels.tolist() == [19, 20, 21, 22, 23]
