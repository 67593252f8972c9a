"""Several processes give what one process with the whole batch gives."""

import json
import os
import subprocess
import sys

import pytest
import torch
from launched import LOGGED, train

pytestmark = pytest.mark.xdist_group("processes")

HERE = os.path.dirname(__file__)
TWO = {"per_device_train_batch_size": 4, "matching_weight": 1.0}
EPOCHS = {"max_steps": -1, "num_train_epochs": 3}
SHARDED = {"fsdp": True, "fsdp_config": {"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"]}}
ADAM = {"optim": "adamw_torch", "learning_rate": 1e-3}  # torch can't load the state of a sharded plain SGD
UNEVEN = {"accelerator_config": {"even_batches": False}}
# 61 examples: 7 whole steps of 8, then 4 on one process and 1 on the other
SAME = {
    "balanced": {"arguments": {"dataloader_drop_last": True}},
    "constant": {"arguments": {"dataloader_drop_last": True, "weight_mode": "constant"}},
    "uneven": {"arguments": UNEVEN},
    "uneven_constant": {"arguments": {**UNEVEN, "weight_mode": "constant"}},
    "unused_parameters_looked_for": {"arguments": {**UNEVEN, "ddp_find_unused_parameters": True}},
    "unused_parameters_not_looked_for": {"arguments": {**UNEVEN, "ddp_find_unused_parameters": False}},
    "static_graph": {
        "arguments": {**UNEVEN, "ddp_static_graph": True, "ddp_find_unused_parameters": False},
    },
    "rebalanced": {"arguments": {"train_sampling_strategy": "batch_rebalance"}},
    "accumulated": {"arguments": {**UNEVEN, "gradient_accumulation_steps": 2, "weight_mode": "constant"}},
    "summed_loss": {"arguments": {"dataloader_drop_last": True}, "summed": True},
    "joint_floats": {"arguments": {**UNEVEN, "alignment": "joint"}, "kind": "floats"},
    "marginal": {"arguments": {**UNEVEN, "alignment": "marginal", "estimator": "unbiased", "bandwidth": "median"}},
    "class_matched": {"arguments": {**UNEVEN, "companion": "class_matched"}},
    "companion_without_gradient": {"arguments": {**UNEVEN, "companion_gradient": False}},
    "companion_task_loss": {"arguments": {**UNEVEN, "companion_task_loss": True}},
    # the Trainer does not pass `dataloader_drop_last` on to streams, and completes their last batch
    "stream": {"arguments": {}, "kind": "stream", "count": 64},
    "plain_stream": {"arguments": {}, "kind": "plain stream", "count": 64},
    "stream_that_each_reads": {
        "arguments": {"accelerator_config": {"dispatch_batches": False}},
        "kind": "plain stream",
        "count": 64,
    },
    "class_matched_stream": {
        "arguments": {"companion": "class_matched", "companion_buffer_size": 20},
        "kind": "stream",
        "count": 64,
    },
    "fully_sharded": {"arguments": {**UNEVEN, **SHARDED}},
    "fully_sharded_constant": {"arguments": {**UNEVEN, **SHARDED, "weight_mode": "constant"}},
}
ONLY_TWO = {  # the order of the examples in one process that gives the same batches
    "completed_last_batch": (
        {"arguments": {"train_sampling_strategy": "sequential", "max_steps": 8}},
        {"order": [*range(61), 0, 1, 2]},
    ),
    "a_batch_too_few": (
        {"arguments": {**UNEVEN, "train_sampling_strategy": "sequential", **EPOCHS}, "count": 12},
        {"order": [*range(8)]},
    ),
    "not_gathered": (
        {"arguments": {"gather_features": False, "weight_mode": "constant"}, "count": 64},
        {"arguments": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "weight_mode": "constant"}},
    ),
}


def launch(folder, runs, processes):
    """Does `runs` in several processes; each rank's results by run."""
    path = os.path.join(folder, f"runs{processes}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(runs, file)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    paths = os.pathsep.join([HERE, os.path.dirname(HERE)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command += [os.path.join(HERE, "launched.py"), path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = {}
    for name in runs:
        results[name] = []
        for rank in range(processes):
            with open(f"{path}.{name}.{rank}", encoding="utf-8") as file:
                results[name].append(json.load(file))
    return results


def whole(run):
    """The run with the defaults of this file."""
    return {**run, "arguments": {**TWO, **run["arguments"]}}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    runs = {**SAME, **{name: run for name, (run, _) in ONLY_TWO.items()}}
    for kind, settings in {"whole": {}, "sharded": {**SHARDED, **ADAM}}.items():
        saved = {"arguments": {**UNEVEN, **settings, "save_strategy": "steps", "save_steps": 3, "max_steps": 12}}
        runs[f"{kind}_saved"] = saved
        runs[f"{kind}_resumed"] = {**saved, "resume": str(folder / f"{kind}_saved" / "checkpoint-9")}
    return launch(folder, {name: whole(run) for name, run in runs.items()}, 2)


def assert_same(ranks, reference):
    for rank in ranks:
        assert rank["processes"] == len(ranks)
        assert rank["passes"] == reference["passes"]
        assert len(rank["steps"]) == len(reference["steps"]) > 0
        for key in LOGGED:
            got = [step[key] for step in rank["steps"]]
            assert got == pytest.approx([step[key] for step in reference["steps"]], rel=2e-5, abs=2e-6), key
        for name, value in rank["parameters"].items():
            expected = torch.tensor(reference["parameters"][name])
            torch.testing.assert_close(torch.tensor(value), expected, rtol=1e-5, atol=1e-6, msg=name)
    assert ranks[0]["parameters"].keys() == reference["parameters"].keys()


@pytest.mark.parametrize("name", SAME)
def test_two_processes_follow_the_trajectory_of_one(name, two_processes, tmp_path):
    run = whole(SAME[name])
    arguments = {key: value for key, value in run["arguments"].items() if not key.startswith("fsdp")}
    reference = train(tmp_path, **{**run, "arguments": {**arguments, "per_device_train_batch_size": 8}})
    assert reference["processes"] == 1
    assert len(reference["steps"]) == 20
    assert max(step["matching_weight"] for step in reference["steps"]) > 0
    assert_same(two_processes[name], reference)


def test_one_forward_pass_a_step_when_sharded(two_processes):
    assert two_processes["fully_sharded"][0]["passes"] == 20


@pytest.mark.parametrize("name", ONLY_TWO)
def test_two_processes_are_what_one_is_with_the_same_batches(name, two_processes, tmp_path):
    run, alone = ONLY_TWO[name]
    run = whole(run)
    arguments = {**run["arguments"], "per_device_train_batch_size": 8, **alone.get("arguments", {})}
    reference = train(tmp_path, **{**run, "arguments": arguments, "order": alone.get("order")})
    if name == "not_gathered":  # one process takes the two batches one after the other
        reference["passes"] //= 2
    assert_same(two_processes[name], reference)


def test_a_batch_too_few_shortens_the_epoch(two_processes):
    assert len(two_processes["a_batch_too_few"][1]["steps"]) == 3


@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_two_processes_resume_bit_for_bit(kind, two_processes):
    saved, resumed = two_processes[f"{kind}_saved"][0], two_processes[f"{kind}_resumed"][0]
    assert resumed["steps"] == saved["steps"][-3:]
    assert resumed["parameters"] == saved["parameters"]


def test_four_processes_with_few_examples_each(tmp_path):
    run = whole({"arguments": {**UNEVEN, "per_device_train_batch_size": 2}, "count": 63})
    ranks = launch(tmp_path, {"four": run}, 4)["four"]
    reference = train(tmp_path, **{**run, "arguments": {**run["arguments"], "per_device_train_batch_size": 8}})
    assert_same(ranks, reference)
