"""The configs for `accelerate launch`: its own parser reads them, and its command line overrides them."""

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, patch_environment
from accelerate.utils.launch import prepare_multi_gpu_env
from places import EXAMPLES
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

FOLDER = EXAMPLES / "accelerate"
TYPES = {"ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP, "deepspeed": DistributedType.DEEPSPEED}
SWITCHES = {"ddp": "multi_gpu", "fsdp2": "use_fsdp", "deepspeed": "use_deepspeed"}


def parse(name, *options):
    command = ["--config_file", str(FOLDER / f"{name}.yaml"), *options, "-m", "itra_hf", "train", "config.yaml"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    return args, defaults


def test_every_file_is_tested():
    assert {path.stem for path in FOLDER.iterdir()} == set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_files_load_and_choose_their_launcher(name):
    loaded = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert loaded.distributed_type == TYPES[name]
    args, _ = parse(name)
    assert [switch for switch in SWITCHES.values() if getattr(args, switch)] == [SWITCHES[name]]
    assert (args.num_processes, args.num_machines, args.machine_rank) == (4, 1, 0)
    assert args.mixed_precision == "no"
    assert (args.training_script, args.training_script_args) == ("itra_hf", ["train", "config.yaml"])


@pytest.mark.parametrize("name", TYPES)
def test_nested_keys_are_options_of_accelerate_launch(name):
    known = {action.dest for action in launch_command_parser()._actions}
    args, defaults = parse(name)
    nested = {**defaults.fsdp_config, **defaults.deepspeed_config}
    assert set(nested) <= known
    for key, value in nested.items():
        assert getattr(args, key) == value


@pytest.mark.parametrize("name", TYPES)
def test_the_command_line_makes_it_several_machines(name):
    options = ["--num_processes", "8", "--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "10.0.0.1"]
    args, _ = parse(name, *options, "--main_process_port", "29500", "--mixed_precision", "bf16")
    assert (args.num_processes, args.num_machines, int(args.machine_rank)) == (8, 2, 1)
    assert (args.main_process_ip, args.main_process_port, args.mixed_precision) == ("10.0.0.1", 29500, "bf16")
    if name != "deepspeed":  # whose launcher wants deepspeed installed
        prepare_multi_gpu_env(args)
        assert (args.nproc_per_node, args.nnodes, args.node_rank) == ("4", "2", 1)
        assert args.rdzv_endpoint == "10.0.0.1:29500"


def test_fsdp_reaches_the_processes_as_version_2_with_whole_models():
    environment = prepare_multi_gpu_env(parse("fsdp2", "--main_process_port", "0")[0])
    with patch_environment(**{key: value for key, value in environment.items() if key.startswith("FSDP_")}):
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert (plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (True, False)
    overridden, _ = parse("fsdp2", "--fsdp_reshard_after_forward", "false")
    assert prepare_multi_gpu_env(overridden)["FSDP_RESHARD_AFTER_FORWARD"] == "false"


def test_the_command_line_selects_zero_3():
    assert parse("deepspeed")[0].zero_stage == 2
    args, _ = parse("deepspeed", "--zero_stage", "3")
    assert args.zero_stage == 3
    assert args.zero3_save_16bit_model is True
