"""The aligned loss of one batch, and how the two pulls are measured."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from trainers import PAIRED

from itra_hf import AlignmentArguments, MatchingLoss
from itra_hf.alignment.aligner import Aligner
from itra_hf.alignment.weight import MatchingWeight, depends_on
from itra_hf.batches import FeatureBatch
from itra_hf.processes import agree


def aligner(**settings):
    arguments = AlignmentArguments(**{**PAIRED, "alignment": "marginal", **settings})
    return Aligner.from_arguments(arguments, arguments.companion, Accelerator(cpu=True))


def matching_weight(**settings):
    arguments = AlignmentArguments(**{**PAIRED, **settings})
    return MatchingWeight.from_arguments(arguments, torch.device("cpu"), lambda own: own)


def test_the_matching_loss_has_the_value_and_the_gradients_of_the_plain_one():
    x, y = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    total = x.square().sum() + 0.7 * aligner()(FeatureBatch(x, None, y, None)).value
    expected = x.square().sum() + 0.7 * MatchingLoss("marginal")(x, None, y, None)
    torch.testing.assert_close(total, expected)
    for ours, theirs in zip(torch.autograd.grad(total, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_both_batches_features_are_handed_on():
    x, y = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
    aligned = aligner()(FeatureBatch(x, None, y, None))
    assert torch.equal(aligned.features, torch.cat([x, y]).detach())


def test_targets_of_other_widths_in_another_process_are_refused_where_joint_was_asked_for(monkeypatch):
    def seen_by_two(accelerator, *numbers):
        return [[number, number] for number in numbers[:-1]] + [[numbers[-1], 5]]

    monkeypatch.setattr("itra_hf.alignment.aligner.gather_counts", seen_by_two)
    joint = aligner(alignment="joint")
    joint.gather = True
    with pytest.raises(ValueError, match="have 3 and 5 targets an example, which joint alignment can't compare"):
        joint(FeatureBatch(torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)))


def test_pulls_too_small_for_float16_are_measured():
    generator = torch.Generator().manual_seed(0)
    x, y = ((1e4 * torch.randn(64, 8, generator=generator)).half() for _ in range(2))
    weight, captured = matching_weight(), x.requires_grad_() * 1.0
    task_loss = captured.float().square().mean()
    aligned = aligner()(FeatureBatch(captured, None, y, None))
    total = task_loss + weight(0, 0.0) * aligned.value
    weight.watch(total, task_loss, captured, captured, aligned.gradient, weight(0, 0.0))
    total.backward()
    ((_, squared_norm),) = weight._noted
    assert squared_norm.item() == pytest.approx(aligned.gradient.square().sum().item(), rel=1e-2, abs=0)


def test_the_micro_batches_of_one_step_have_one_weight_and_count_together():
    weight = matching_weight()
    weight(0, 0.0)
    weight.note(torch.tensor([4.0, 4.0]))
    assert weight(0, 0.0) == 0
    weight.note(torch.tensor([14.0, 4.0]))
    assert weight(1, 0.1).item() == pytest.approx(0.1 * 3 / 2)
    assert weight.balance.tolist() == pytest.approx([0.3, 0.2])


PULLS = [8.0] * 60 + [0.01] * 150  # of the task loss; the matching loss's is 2


@pytest.mark.parametrize(
    ("mode", "epoch", "expected"),
    [
        ("balanced", 9.0, 0.01),
        ("rising", 0.5, 0.1 * 0.01),
        ("rising", 2.99, 0.1 * 0.01),
        ("rising", 3.0, 8 - 0.01),
        ("rising", 9.0, 8 - 0.01),
    ],
)
def test_weights_follow_the_task_losses_pull_and_the_epoch(mode, epoch, expected):
    weight = matching_weight(weight_mode=mode)
    for step, pull in enumerate(PULLS):
        weight.note(torch.tensor([pull**2, 4.0]))
        weight(step, epoch)
    assert weight(len(PULLS), epoch).item() == pytest.approx(0.1 * expected / 2, rel=0.01)


def test_a_rising_weight_stays_small_until_the_task_loss_lets_go():
    weight = matching_weight(weight_mode="rising", matching_weight=2.0)
    for step in range(100):  # it never does
        weight.note(torch.tensor([8.0**2 + step, 4.0]))
        assert weight(step, step / 10).item() == pytest.approx(2 * 0.1 * weight.balance[0] / weight.balance[1])


def test_a_process_without_measurement_settles_with_the_others():
    weight = matching_weight()
    # The mean over two processes, of which the other has measured (8, 2) once.
    weight.reduce = lambda own: (own + torch.tensor([8.0, 2.0, 1.0])) / 2
    weight.settle()
    assert weight.balance.tolist() == pytest.approx([0.1 * 8**0.5, 0.1 * 2**0.5])
    weight.reduce = lambda own: own
    weight.settle()
    assert weight.balance.tolist() == pytest.approx([0.1 * 8**0.5, 0.1 * 2**0.5])


def test_batches_that_processes_share_are_refused():
    tensor_parallel = SimpleNamespace(non_data_parallel_size=2)
    accelerator = SimpleNamespace(num_processes=2, device=torch.device("cpu"), parallelism_config=tensor_parallel)
    with pytest.raises(ValueError, match="set gather_features=False"):
        Aligner.from_arguments(AlignmentArguments(), "memory", accelerator)
    Aligner.from_arguments(AlignmentArguments(gather_features=False), "memory", accelerator)


@pytest.mark.parametrize("other", [True, False])
def test_processes_agree_on_what_holds_for_all_of_them(other):
    answers = torch.tensor([[1], [int(other)]])
    accelerator = SimpleNamespace(num_processes=2, device=torch.device("cpu"), gather=lambda own: answers)
    assert agree(accelerator, True) is other


def test_depends_on():
    x = torch.ones(2, requires_grad=True) * 2
    assert depends_on((x * 3).sum().exp(), x)
    assert not depends_on(torch.ones(2, requires_grad=True).sum(), x)
