"""Companion sampling and pairing."""

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import BatchEncoding

from itra_hf.batches import COMPANION
from itra_hf.companions.pairs import CompanionSampler, PairCollator, PairedDataset, find_label_column, read_class_ids


def test_draws_depend_on_seed_epoch_and_index_alone():
    draws = [CompanionSampler(50, 7)(i, 3) for i in range(50)]
    backwards = CompanionSampler(50, 7)
    assert draws == [backwards(i, 3) for i in reversed(range(50))][::-1]
    assert draws != [CompanionSampler(50, 7)(i, 4) for i in range(50)]
    assert draws != [CompanionSampler(50, 8)(i, 3) for i in range(50)]


def chi_square(counts, cells, draws):
    return sum((counts.get(cell, 0) - draws / cells) ** 2 / (draws / cells) for cell in range(cells))


def test_an_example_is_never_its_own_companion_and_draws_are_uniform():
    size, epochs = 11, 5000
    sampler = CompanionSampler(size, 0)
    for index in (0, 5, 10):
        counts = Counter(sampler(index, epoch) for epoch in range(epochs))
        assert index not in counts
        others = {j - (j > index): n for j, n in counts.items()}
        assert chi_square(others, size - 1, epochs) < 27.9  # 99.9 % point of chi-square with 9 degrees of freedom


def test_class_matched_draws_uniformly_from_the_class():
    labels = np.array([2, 0, 2, 0, 2, 9, 2, 0, 2])
    sampler = CompanionSampler(len(labels), 0, labels)
    assert sampler(5, 0) == 5  # its class has no other
    for index in (0, 1, 8):
        own = [j for j in np.flatnonzero(labels == labels[index]) if j != index]
        counts = Counter(sampler(index, epoch) for epoch in range(3000))
        assert set(counts) == set(own)
        assert chi_square({own.index(j): n for j, n in counts.items()}, len(own), 3000) < 16.3  # 99.9 %, 3 degrees


@pytest.mark.parametrize("size", [0, 1])
def test_too_few_examples_are_refused(size):
    with pytest.raises(ValueError, match="needs at least two"):
        CompanionSampler(size, 0)


def read(workers, batch_size, epochs, persistent=False):
    dataset = Dataset.from_dict({"x": list(range(23))})
    paired = PairedDataset(dataset, CompanionSampler(23, 5))
    loader = DataLoader(
        paired,
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=persistent,
        collate_fn=lambda pairs: [(first["x"], second["x"]) for first, second in pairs],
    )
    result = []
    for epoch in range(epochs):
        paired.set_epoch(epoch)
        result.append([pair for batch in loader for pair in batch])
    return result


def test_workers_and_batch_size_change_nothing():
    expected = read(0, 4, 3)
    assert expected[0] != expected[1]
    assert read(2, 4, 3) == expected
    assert read(2, 7, 3, persistent=True) == expected
    assert read(0, 1, 3) == expected


def test_plain_datasets_are_read_item_by_item():
    paired = PairedDataset(list(range(100, 110)), CompanionSampler(10, 0))
    assert paired[3] == paired.__getitems__([3])[0]
    assert paired[3][0] == 103


def test_collator_pads_both_batches_to_one_length():
    def collate(rows):
        length = max(len(row) for row in rows)
        return BatchEncoding({"ids": torch.tensor([row + [0] * (length - len(row)) for row in rows])})

    batch = PairCollator(collate)([([1], [2, 3]), ([4], [5])])
    assert isinstance(batch, BatchEncoding)
    assert batch["ids"].tolist() == [[1, 0], [4, 0]]
    assert batch["itra_companion"]["ids"].tolist() == [[2, 3], [5, 0]]


def test_collator_without_one_row_an_example_is_called_once_a_batch():
    def pack(rows):
        return {"ids": torch.tensor([token for row in rows for token in row]), "count": len(rows)}

    batch = PairCollator(pack)([([1], [2, 3]), ([4], [5])])
    assert batch["ids"].tolist() == [1, 4]
    assert batch["itra_companion"]["ids"].tolist() == [2, 3, 5]
    assert batch["count"] == batch["itra_companion"]["count"] == 2


class Weighing:
    """Adds weights of the classes, a column that no example has, and a draw from the global random numbers."""

    def __init__(self, weights):
        self.weights, self.calls = weights, []

    def __call__(self, rows):
        self.calls.append(len(rows))
        torch.rand(3)
        column = torch.tensor([row["x"] for row in rows])
        return {"x": column, "squares": column**2, "weights": torch.ones(self.weights)}


@pytest.mark.parametrize("rows", [3, 5, 6, 10])
def test_weights_of_the_classes_stay_whole_however_many_examples_there_are(rows):
    collator = Weighing(10)
    collate = PairCollator(collator)
    for _ in range(2):
        batch = collate([({"x": index}, {"x": index + 100}) for index in range(rows)])
        for half in (batch, batch[COMPANION]):
            assert {name: len(half[name]) for name in ("x", "squares", "weights")} == {
                "x": rows,
                "squares": rows,
                "weights": 10,
            }


def test_a_value_that_no_example_has_is_looked_at_once_and_draws_nothing():
    collator = Weighing(6)
    collate = PairCollator(lambda rows: {name: value for name, value in collator(rows).items() if name != "weights"})
    torch.manual_seed(0)
    drawn = []
    for _ in range(3):
        first = collate([({"x": index}, {"x": index + 100}) for index in range(4)])
        drawn.append(torch.rand(1))
        assert first["squares"].tolist() == [0, 1, 4, 9]
        assert first[COMPANION]["squares"].tolist() == [100**2, 101**2, 102**2, 103**2]
    assert collator.calls == [8, 4, 8, 8]
    torch.manual_seed(0)
    for one in drawn:
        torch.rand(3)
        assert torch.equal(one, torch.rand(1))


def test_class_ids_come_from_arrow_columns_and_from_plain_items():
    rows = [{"x": 0.0, "label": label} for label in (3, 1, 3)]
    for dataset in (Dataset.from_list(rows), rows):
        assert read_class_ids(dataset, ["labels"]).tolist() == [3, 1, 3]
    shuffled = Dataset.from_list(rows).select([2, 1])
    assert read_class_ids(shuffled, ["labels"]).tolist() == [3, 1]


@pytest.mark.parametrize("labels", [[0.5, 1.5], [[1, 0], [0, 1]]])
def test_class_ids_refuse_other_targets(labels):
    dataset = Dataset.from_dict({"labels": labels})
    with pytest.raises(ValueError, match="companion='sample' works with any labels"):
        read_class_ids(dataset, ["labels"])


def test_missing_label_column_lists_the_columns():
    with pytest.raises(ValueError, match=r"looked for labels, label, label_ids\); it has: text, topic"):
        find_label_column(Dataset.from_dict({"text": ["a"], "topic": [1]}), ["labels"])


def test_class_ids_beyond_16_bits_and_negative_seeds():
    ids = np.array([0, 65536, 0, 65536, 1, 65537] * 20)
    drawn = CompanionSampler(len(ids), -1, ids).companions(0)
    assert (ids[drawn] == ids).all()


def test_class_ids_of_selected_rows():
    data = Dataset.from_dict({"labels": [0, 1, 2, 3]}).select([3, 1])
    assert read_class_ids(data, ["labels"]).tolist() == [3, 1]
