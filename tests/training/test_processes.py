"""Several processes give what one process with the whole batch gives."""

import itertools

import pytest
from launched import REBALANCES, SHARDS_AT_LOAD, assert_same, launch, train
from places import EXAMPLES

TWO = {"per_device_train_batch_size": 4, "matching_weight": 1.0}
EPOCHS = {"max_steps": -1, "num_train_epochs": 3}
ADAM = {"optim": "adamw_torch", "learning_rate": 1e-3}  # plain SGD has no state, which a sharded resume can't load
UNEVEN = {"accelerator_config": {"even_batches": False}}
MEMORY = {"companion": "memory", "memory_size": 30}
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
    "accumulated": {"arguments": {**UNEVEN, "gradient_accumulation_steps": 2, "weight_mode": "constant"}},
    "summed_loss": {"arguments": {"dataloader_drop_last": True}, "summed": True},
    "joint_floats": {"arguments": {**UNEVEN, "alignment": "joint"}, "kind": "floats"},
    "auto_floats": {"arguments": UNEVEN, "kind": "floats"},
    "marginal": {"arguments": {**UNEVEN, "alignment": "marginal", "estimator": "unbiased", "bandwidth": "median"}},
    "class_matched": {"arguments": {**UNEVEN, "companion": "class_matched"}},
    "averaged": {"arguments": {**UNEVEN, "companion_decay": 0.9}},
    "rising": {"arguments": {**UNEVEN, "weight_mode": "rising"}, "count": 45},
    "averaged_with_its_own_loss": {"arguments": {**UNEVEN, "companion_decay": 0.5}, "kind": "own loss"},
    "split": {"arguments": {**UNEVEN, "companion": "split"}},
    "memory": {"arguments": {**UNEVEN, **MEMORY}},
    "memory_constant": {"arguments": {**UNEVEN, **MEMORY, "weight_mode": "constant"}},
    "own_loss": {"arguments": UNEVEN, "kind": "own loss"},
    "collated_apart": {"arguments": UNEVEN, "kind": "collated apart"},
    "collated_apart_at_times": {"arguments": {"dataloader_drop_last": True}, "kind": "collated apart at times"},
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
}
if REBALANCES:  # like the next, not in transformers 5.8
    SAME["rebalanced"] = {"arguments": {"train_sampling_strategy": "batch_rebalance"}}
if SHARDS_AT_LOAD:
    SAME["sharded_at_load"] = {"arguments": UNEVEN, "family": "Qwen2", "sharded_at_load": True}
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
        {"arguments": {"gather_features": False}, "count": 64},
        {"arguments": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}},
    ),
    "not_gathered_constant": (
        {"arguments": {"gather_features": False, "weight_mode": "constant"}, "count": 64},
        {"arguments": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "weight_mode": "constant"}},
    ),
}

if SHARDS_AT_LOAD:
    ONLY_TWO["auto_where_weights_are_in_parts"] = (
        {
            "arguments": {**UNEVEN, "companion": "auto", "companion_decay": 0.9},
            "family": "Qwen2",
            "sharded_at_load": True,
        },
        {"arguments": {"companion": "memory", "companion_decay": None}},
    )

MEMORIES = {"_with_one_memory": True, "_with_a_memory_each": False}


def whole(run):
    """The run with the defaults of this file."""
    return {**run, "arguments": {**TWO, **run["arguments"]}}


def saved_and_resumed(folder, arguments, suffix=""):
    run = {"arguments": {**arguments, "save_strategy": "steps", "save_steps": 3, "max_steps": 12}}
    checkpoint = folder / f"saved{suffix}" / "checkpoint-9"
    return {f"saved{suffix}": run, f"resumed{suffix}": {**run, "resume": str(checkpoint)}}


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    runs = {**SAME, **{name: run for name, (run, _) in ONLY_TWO.items()}}
    each_reads = {"accelerator_config": {"dispatch_batches": False}}
    runs["uneven_streams"] = {"arguments": each_reads, "kind": "uneven stream", "count": 64}
    runs["two_widths"] = {"arguments": {**UNEVEN, "alignment": "auto"}, "kind": "numbers of two widths"}
    runs["reported_by_one"] = {"arguments": UNEVEN, "kind": "reported by one"}
    runs |= saved_and_resumed(folder, {**UNEVEN, "logging_steps": 2})  # the checkpoint is between two log lines
    runs |= saved_and_resumed(folder, {**UNEVEN, "logging_steps": 2, "companion_decay": 0.9}, "_averaged")
    for suffix, gathers in MEMORIES.items():
        runs |= saved_and_resumed(folder, {**UNEVEN, **MEMORY, "logging_steps": 2, "gather_features": gathers}, suffix)
    return launch(folder, {name: whole(run) for name, run in runs.items()}, 2)


@pytest.mark.parametrize("name", SAME)
def test_two_processes_follow_the_trajectory_of_one(name, two_processes, tmp_path):
    run = whole(SAME[name])
    reference = train(tmp_path, **{**run, "arguments": {**run["arguments"], "per_device_train_batch_size": 8}})
    assert reference["processes"] == 1
    assert len(reference["steps"]) == 20
    assert max(step["matching_weight"] for step in reference["steps"]) > 0
    if name.endswith("at_times"):  # which steps take two passes depends on the batches, but alike on all processes
        assert 20 < reference["passes"] < 40
        reference["passes"] = two_processes[name][0]["passes"]
        assert 20 < reference["passes"] < 40
    assert_same(two_processes[name], reference)


@pytest.mark.parametrize("name", ONLY_TWO)
def test_two_processes_are_what_one_is_with_the_same_batches(name, two_processes, tmp_path):
    run, alone = ONLY_TWO[name]
    run = whole(run)
    arguments = {**run["arguments"], "per_device_train_batch_size": 8, **alone.get("arguments", {})}
    reference = train(tmp_path, **{**run, "arguments": arguments, "order": alone.get("order")})
    if name.startswith("not_gathered"):  # one process takes the two batches one after the other
        reference["passes"] //= 2
    assert_same(two_processes[name], reference)


def test_a_batch_too_few_shortens_the_epoch(two_processes):
    assert len(two_processes["a_batch_too_few"][1]["steps"]) == 3


def test_streams_of_different_lengths_do_not_hang(two_processes):
    first, second = two_processes["uneven_streams"]
    assert len(first["steps"]) == len(second["steps"]) == 20
    assert first["parameters"] == second["parameters"]


def test_targets_of_different_widths_do_not_hang(two_processes):
    first, second = two_processes["two_widths"]
    assert first["parameters"] == second["parameters"]
    aligned = ["matching_loss" in step for step in first["steps"]]
    assert len(aligned) == 20
    assert 0 < sum(aligned) < 20


def test_a_callback_may_log_from_one_process(two_processes):
    first, second = two_processes["reported_by_one"]
    assert [step for step in first["steps"] if "matching_loss" in step] == second["steps"]
    assert len(second["steps"]) == 20
    assert sum(step == {"loss": 0.5} for step in first["steps"]) == 20


def check_resumed(results, suffix=""):
    saved, resumed = results[f"saved{suffix}"][0], results[f"resumed{suffix}"][0]
    assert len(resumed["steps"]) == 2
    assert resumed["steps"][-1] == saved["steps"][-1]
    for key in ("task_loss", "matching_loss", "matching_weight"):  # the Trainer's own `loss` starts anew
        # what the processes had until the checkpoint is saved as one average
        assert resumed["steps"][0][key] == pytest.approx(saved["steps"][-2][key], rel=1e-6)
    assert resumed["parameters"] == saved["parameters"]


@pytest.mark.parametrize("suffix", ["", "_averaged", *MEMORIES])
def test_two_processes_resume_bit_for_bit(suffix, two_processes):
    check_resumed(two_processes, suffix)


@pytest.mark.parametrize("suffix", MEMORIES)
def test_two_processes_share_a_memory_where_they_gather_features(suffix, two_processes):
    saved, resumed = ([rank["memory"] for rank in two_processes[f"{run}{suffix}"]] for run in ("saved", "resumed"))
    assert saved == resumed
    assert [len(memory["labels"]) for memory in saved] == [30, 30]
    assert (saved[0] == saved[1]) is MEMORIES[suffix]


SHARDED = [
    pytest.param("fsdp2", ["--fsdp_transformer_layer_cls_to_wrap", "BertLayer"]),
    pytest.param("deepspeed", ["--zero_stage", "2"], marks=pytest.mark.deepspeed),
    pytest.param("deepspeed", ["--zero_stage", "3"], marks=pytest.mark.deepspeed),
]


@pytest.mark.slow
@pytest.mark.parametrize(("config", "options"), SHARDED)
def test_sharded_models_follow_the_trajectory_of_one_process_and_resume(config, options, tmp_path):
    runs = {
        name: {"arguments": {**ADAM, **UNEVEN, "weight_mode": name}} for name in ("balanced", "constant")
    } | saved_and_resumed(tmp_path, {**ADAM, **UNEVEN, "logging_steps": 2})
    runs = {name: whole(run) for name, run in runs.items()}
    path = str(EXAMPLES / "accelerate" / f"{config}.yaml")
    results = launch(tmp_path, runs, 2, "--config_file", path, *options)
    for name in ("balanced", "constant"):
        arguments = {**runs[name]["arguments"], "per_device_train_batch_size": 8}
        reference = train(tmp_path, arguments)
        assert reference["passes"] == 20  # one forward pass a step
        assert_same(results[name], reference)
    check_resumed(results)


@pytest.mark.slow
def test_four_processes_with_few_examples_each(tmp_path):
    run = whole({"arguments": {**UNEVEN, "per_device_train_batch_size": 2}, "count": 63})
    ranks = launch(tmp_path, {"four": run}, 4)["four"]
    reference = train(tmp_path, **{**run, "arguments": {**run["arguments"], "per_device_train_batch_size": 8}})
    assert_same(ranks, reference)


@pytest.mark.slow
def test_two_processes_measure_the_compactness_that_one_does(tmp_path):
    # 33 examples: the last batches are completed with examples that must not count twice
    arguments = {"learning_rate": 0.0, "max_steps": 2, "eval_compactness": True, "per_device_eval_batch_size": 4}
    run = whole({"arguments": arguments, "evaluated": 33})
    ranks = launch(tmp_path, {"evaluated": run}, 2)["evaluated"]
    reference = train(tmp_path, **run)
    for rank, (index, expected) in itertools.product(ranks, enumerate(reference["evaluations"])):
        figures = {name: value for name, value in expected.items() if "compactness" in name}
        got = {name: value for name, value in rank["evaluations"][index].items() if "compactness" in name}
        assert len(figures) == 6
        assert got == pytest.approx(figures, rel=1e-6)
