"""Rivals in two processes: the steps of one process with a batch of twice the size, alone and aligned."""

import pytest
import torch
from launched import assert_same, launch, train

# Transport, small losses, supervised contrast and R-Drop look at each process's own batch.
GLOBAL = (
    *("LogitAdjustedTrainer", "ClassBalancedTrainer", "EqualizationTrainer", "GeneralizedCrossEntropyTrainer"),
    *("ExtrapolatedTrainer", "StagewiseTrainer", "AveragedTrainer"),
)
OWN = ("TransportTrainer", "SmallLossTrainer", "SupConTrainer")


def run_of(rival, size, weight):
    arguments = {"per_device_train_batch_size": size, "max_steps": 10, "matching_weight": weight, "logging_steps": 1}
    return {"arguments": arguments, "count": 32, "rival": rival}


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    runs = {f"{rival}-{weight}": (rival, weight) for rival in GLOBAL for weight in (0.0, 0.2)}
    found = launch(tmp_path, {name: run_of(rival, 4, weight) for name, (rival, weight) in runs.items()}, 2)
    for name, (rival, weight) in runs.items():
        assert_same(found[name], train(str(tmp_path / name), **run_of(rival, 8, weight)))


@pytest.mark.slow
def test_processes_with_batches_of_their_own_end_with_the_same_weights(tmp_path):
    found = launch(tmp_path, {rival: run_of(rival, 4, 0.2) for rival in OWN}, 2)
    for first, second in found.values():
        assert first["parameters"] == second["parameters"]
        assert [step["loss"] for step in first["steps"]] == [step["loss"] for step in second["steps"]]


@pytest.mark.slow
def test_the_second_stage_fits_one_head_to_the_features_of_all_processes(tmp_path):
    first, second = launch(tmp_path, {"two": run_of("RetargetedTrainer", 4, 0.2)}, 2)["two"]
    reference = train(str(tmp_path / "one"), **run_of("RetargetedTrainer", 8, 0.2))
    assert first["parameters"] == second["parameters"]
    head, expected = (torch.tensor(each["parameters"]["classifier.weight"]) for each in (first, reference))
    assert (head - expected).norm() < 1e-3 * expected.norm()  # the fit makes rounding of the features larger


@pytest.mark.slow
def test_a_process_without_labels_takes_part(tmp_path):
    order = [*range(32)] * 3
    runs = {
        rival: {**run_of(rival, 4, 0.0), "kind": "unlabelled at times", "order": order}
        for rival in ("EqualizationTrainer", "TransportTrainer", "LogitAdjustedTrainer")
    }
    for first, second in launch(tmp_path, runs, 2).values():
        assert first["parameters"] == second["parameters"]
        assert len(first["steps"]) == 10
