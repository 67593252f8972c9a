"""The halves of a batch, and their alignment."""

import pytest
import torch
from torch.testing import assert_close

from itra_hf import MatchingLoss
from itra_hf.batches import FeatureBatch
from itra_hf.companions.halves import Halves, split_halves

GENERATOR = torch.Generator().manual_seed(0)
LABELS = {
    "none": None,
    "ids": torch.randint(0, 4, (37,), generator=GENERATOR),
    "ids, some unlabelled": torch.randint(0, 3, (26,), generator=GENERATOR) - 100,
    "sorted ids": torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "one class": torch.ones(7, dtype=torch.long),
    "no class twice": torch.arange(6),
    "floats": torch.randn(9, generator=GENERATOR),
    "multi-hot": torch.randint(0, 2, (8, 3), generator=GENERATOR).float(),
    "one row": torch.tensor([2]),
    "two rows": torch.tensor([1, 1]),
}
CLASS_IDS = [name for name, labels in LABELS.items() if labels is not None and labels.dtype == torch.long]


@pytest.mark.parametrize("name", LABELS)
def test_every_row_is_in_one_of_two_halves_of_equal_size(name):
    labels = LABELS[name]
    rows = 11 if labels is None else len(labels)
    first, second = split_halves(rows, labels, torch.device("cpu"))
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(rows))
    assert len(first) - len(second) in (0, 1)


@pytest.mark.parametrize("name", CLASS_IDS)
def test_every_class_is_halved(name):
    labels = LABELS[name]
    first, second = (labels[half] for half in split_halves(len(labels), labels, labels.device))
    for label in labels.unique():
        assert abs(int((first == label).sum() - (second == label).sum())) <= 1


ALIGNMENTS = {
    "conditional": LABELS["ids"],
    "conditional, some unlabelled": LABELS["ids, some unlabelled"],
    "joint": LABELS["floats"],
    "marginal": None,
    "conditional, two rows": LABELS["two rows"],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ALIGNMENTS)
def test_aligning_halves_has_the_value_and_the_gradient_of_the_loss_of_the_two(name, dtype):
    labels = ALIGNMENTS[name]
    rows = 11 if labels is None else len(labels)
    features = torch.randn(rows, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    loss = MatchingLoss(name.split(",")[0])
    match = Halves().match(loss, FeatureBatch(features, labels))
    exact = features.to(match.value.dtype).requires_grad_()
    first, second = split_halves(rows, labels, features.device)
    parts = [(exact[half], None if labels is None else labels[half]) for half in (first, second)]
    expected = loss(*parts[0], *parts[1])
    assert expected > 0
    assert_close(match.value, expected.detach())
    assert_close(match.gradient, torch.autograd.grad(expected, exact)[0])


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"alignment": "conditional"}, 0),
        ({"alignment": "joint"}, 0),
        ({"alignment": "joint"}, 0.5),
        ({"alignment": "marginal"}, 0),
    ],
)
def test_a_batch_of_one_row_has_nothing_to_align(settings, label):
    match = Halves().match(MatchingLoss(**settings), FeatureBatch(torch.randn(1, 3), torch.tensor([label])))
    assert match.value == 0
    assert_close(match.gradient, torch.zeros(1, 3))
