"""`ITRAConfig`: parsing, defaults and refusals."""

import copy
import dataclasses
import inspect
import pickle
import re

import pytest
from transformers import HfArgumentParser, TrainingArguments

from itra_hf import AlignmentArguments, ITRAConfig
from itra_hf.config_checks import NEEDS, build_matching_loss
from itra_hf.presets import GONE

CORAL = "examples/distances.py:coral"
QUIET = {"output_dir": "unused", "report_to": "none", "use_cpu": True}


def test_is_training_arguments_with_help_on_every_field():
    config = ITRAConfig(**QUIET)
    assert isinstance(config, TrainingArguments)
    for field in dataclasses.fields(AlignmentArguments):
        assert len(field.metadata["help"]) > 20, field.name
    assert {field.name for field in dataclasses.fields(TrainingArguments)} < {
        field.name for field in dataclasses.fields(ITRAConfig)
    }


def test_argument_parser_reads_every_field():
    line = (
        "--output_dir unused --report_to none --use_cpu --matching_weight 0.2 --weight_mode constant "
        "--alignment joint --estimator unbiased --kernel laplacian --bandwidth 2.5 "
        "--companion class_matched --companion_decay 0.5 --feature cls"
    )
    (config,) = HfArgumentParser(ITRAConfig).parse_args_into_dataclasses(line.split())
    assert (config.matching_weight, config.weight_mode) == (0.2, "constant")
    assert (config.alignment, config.estimator, config.kernel, config.bandwidth) == (
        "joint",
        "unbiased",
        "laplacian",
        "2.5",
    )
    assert (config.companion, config.companion_decay, config.feature) == ("class_matched", 0.5, "cls")


def test_settings_survive_a_dictionary():
    config = ITRAConfig(**QUIET, bandwidth=3.0)
    assert config.to_dict()["bandwidth"] == 3.0
    assert config.to_dict()["alignment"] == "auto"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matching_weight": -0.1}, r"matching_weight=-0.1 must be from 0 to 10 with weight_mode='rising'"),
        ({"matching_weight": float("nan")}, r"matching_weight=nan must be"),
        ({"matching_weight": "much"}, r"matching_weight='much' must be a number"),
        ({"weight_mode": "auto"}, r"weight_mode='auto' is not one of 'rising', 'balanced', 'constant'\.$"),
        ({"weight_mode": "fitted"}, r"'constant' any more: 'rising' does more"),
        ({"weight_mode": "sustained"}, r"'constant' any more: 'rising' pulls as hard once"),
        ({"alignment": "class"}, r"alignment='class' is not one of 'auto', 'conditional', 'joint', 'marginal'"),
        ({"estimator": "v"}, r"estimator='v' is not one of 'biased', 'unbiased'"),
        ({"kernel": "rbf"}, r"kernel='rbf' is not one of 'gaussian'"),
        ({"companion": "queue"}, r"companion='queue' is not one of 'auto', 'sample', 'class_matched'"),
        ({"bandwidth": 0.0}, r"bandwidth=0.0 is neither a positive number from 1e-15 to 1e\+15 nor 'mean'"),
        ({"bandwidth": "wide"}, r"bandwidth='wide' is neither"),
        ({"bandwidth": "1e-60"}, r"bandwidth='1e-60' is neither"),
        ({"matching_weight": 15.0}, r"matching_weight=15.0 must be from 0 to 10 with weight_mode='rising'"),
        ({"matching_weight": 1e30, "weight_mode": "balanced"}, r"matching_weight=1e\+30 must be from 0 to 100"),
        ({"matching_weight": 1e30, "weight_mode": "constant"}, r"must be from 0 to 1e\+06 with weight_mode='constant'"),
        ({"class_weighting": "even"}, r"class_weighting='even' is not one of 'size', 'alike'"),
        ({"companion_decay": "slow"}, r"companion_decay='slow' must be a number"),
        ({"companion": "sample", "companion_decay": 1.0}, r"companion_decay=1.0 must be from 0 to below 1, or None"),
        ({"gather_features": "yes"}, r"gather_features='yes' must be True or False"),
        ({"companion_buffer_size": 0}, r"companion_buffer_size=0 must be an integer >= 1"),
        ({"companion_buffer_size": 2.0}, r"companion_buffer_size=2.0 must be an integer >= 1"),
        ({"feature": ""}, r"feature='' must be 'auto'"),
        (
            {"matching_loss": "coral"},
            r"matching_loss='coral' is no more: the repository's examples/distances.py has it",
        ),
        ({"matching_loss": "wasserstein"}, r"matching_loss='wasserstein' is neither 'mmd' nor a function"),
        ({"matching_loss": "nowhere.py:f"}, r"matching_loss='nowhere.py:f' can't be loaded"),
        ({"matching_loss": CORAL, "alignment": "joint"}, r"alignment='joint' needs matching_loss='mmd'"),
    ],
)
def test_wrong_values_are_named_when_the_config_is_built(settings, message):
    with pytest.raises(ValueError, match=message):
        ITRAConfig(**QUIET, **settings)
    with pytest.raises(ValueError, match=message):
        AlignmentArguments(**settings)


ELSEWHERE = [
    ({"companion": "sample", "memory_size": 64}, "companion='memory'"),
    ({"memory_size": 64}, "companion='memory'"),
    ({"companion": "memory", "companion_decay": 0.0}, "companion='sample' or 'class_matched' or 'auto'"),
    ({"companion": "split", "companion_decay": 0.5}, "companion='sample' or 'class_matched' or 'auto'"),
    ({"companion": "memory", "companion_buffer_size": 10}, "companion='sample' or 'class_matched' or 'auto'"),
    ({"matching_loss": CORAL, "kernel": "laplacian"}, "matching_loss='mmd'"),
    ({"matching_loss": CORAL, "bandwidth": 2.0}, "matching_loss='mmd'"),
    ({"matching_loss": CORAL, "estimator": "unbiased"}, "matching_loss='mmd'"),
    ({"alignment": "marginal", "class_weighting": "alike"}, "alignment='auto' or 'conditional'"),
    ({"alignment": "joint", "class_weighting": "alike"}, "alignment='auto' or 'conditional'"),
]


@pytest.mark.parametrize(("settings", "needed"), ELSEWHERE)
def test_settings_that_do_nothing_beside_the_others_are_refused(settings, needed):
    name = list(settings)[-1]
    message = re.escape(f"{name}={settings[name]!r} does nothing with ") + f".*it acts with {re.escape(needed)} alone"
    with pytest.raises(ValueError, match=message):
        ITRAConfig(**QUIET, **settings)
    assert ITRAConfig(**QUIET, **settings, matching_weight=0.0).matching_weight == 0  # which switches all of them off


def test_a_refusal_is_tried_for_every_setting_that_needs_another():
    assert {list(settings)[-1] for settings, _ in ELSEWHERE} == set(NEEDS)


@pytest.mark.parametrize(
    "settings",
    [
        {"companion": "memory", "memory_size": 64},
        {"companion": "class_matched", "companion_decay": 0.0, "companion_buffer_size": 10},
        {"companion": "sample", "memory_size": 256, "class_weighting": "alike"},
        {"companion": "split", "companion_decay": None, "kernel": "laplacian"},
        {"matching_loss": CORAL, "kernel": "gaussian", "bandwidth": "mean"},
        {"alignment": "conditional", "class_weighting": "alike"},
    ],
)
def test_settings_that_act_or_are_the_default_are_taken(settings):
    ITRAConfig(**QUIET, **settings)


def test_another_default_of_a_subclass_is_no_setting_that_was_given():
    @dataclasses.dataclass
    class Mine(ITRAConfig):
        companion: str = "sample"
        companion_decay: float = 0.0

    assert Mine(**QUIET, companion="memory").companion_decay == 0
    with pytest.raises(ValueError, match=r"companion_decay=0.97 does nothing with companion='memory'.*Leave it at 0.0"):
        Mine(**QUIET, companion="memory", companion_decay=0.97)
    assert ITRAConfig(**QUIET, companion_decay=None).companion_decay is None
    with pytest.raises(
        ValueError, match=r"companion_decay=0.97 does nothing with companion='memory'.*Leave it at None"
    ):
        ITRAConfig(**QUIET, companion="memory", companion_decay=0.97)


@dataclasses.dataclass
class OnTop(AlignmentArguments, TrainingArguments):
    extra: int = 3


class Keyed:
    """A base whose `__new__` takes what the constructor is given."""

    def __new__(cls, *args, **settings):
        made = super().__new__(cls)
        made.seen = (args, settings)
        return made


@dataclasses.dataclass
class BesideAnother(AlignmentArguments, Keyed):
    pass


@pytest.mark.parametrize("value", [True, False, None])
@pytest.mark.parametrize("made", [AlignmentArguments, ITRAConfig, OnTop, BesideAnother])
def test_a_name_that_is_gone_says_what_to_write_instead(made, value):
    with pytest.raises(
        ValueError, match=r"There is no companion_gradient any more: companion_decay=0 is what True was"
    ):
        made(companion_gradient=value)
    with pytest.raises(TypeError, match="companion_gradients"):
        made(companion_gradients=value)


def test_no_name_is_both_gone_and_there():
    assert not set(GONE) & set(AlignmentArguments.__dataclass_fields__)


def test_arguments_of_ones_own_may_have_a_name_that_is_gone():
    @dataclasses.dataclass
    class Mine(ITRAConfig):
        companion_gradient: bool = True

    assert Mine(**QUIET, companion_gradient=False).companion_gradient is False


@pytest.mark.parametrize("made", [ITRAConfig, OnTop])
def test_configs_are_copied_pickled_replaced_and_looked_at(made):
    args = made(**QUIET, matching_weight=0.25, companion="sample", companion_decay=0.5)
    for again in (
        copy.copy(args),
        copy.deepcopy(args),
        pickle.loads(pickle.dumps(args)),
        pickle.loads(pickle.dumps(args, 0)),
    ):
        assert type(again) is made
        assert again.to_dict() == args.to_dict()
    assert dataclasses.replace(AlignmentArguments(), matching_weight=0.5).matching_weight == 0.5
    assert {"matching_weight", "output_dir"} <= set(inspect.signature(made).parameters)
    assert "matching_weight" in inspect.signature(AlignmentArguments).parameters
    assert BesideAnother(0.5, weight_mode="constant").seen == ((0.5,), {"weight_mode": "constant"})
    with pytest.raises(ValueError, match="no companion_gradient any more"):
        dataclasses.replace(AlignmentArguments(), companion_gradient=False)


def test_mixes_into_training_arguments_of_ones_own():
    @dataclasses.dataclass
    class Mine(TrainingArguments):
        extra: int = 3

    @dataclasses.dataclass
    class MineWithAlignment(AlignmentArguments, Mine):
        pass

    assert MineWithAlignment(**QUIET, matching_weight=0.1).extra == 3
    with pytest.raises(ValueError, match="matching_weight"):
        MineWithAlignment(**QUIET, matching_weight=-1.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": "laplacian", "bandwidth": 2.5, "estimator": "unbiased"},
        {"alignment": "conditional", "class_weighting": "alike"},
        {"matching_loss": CORAL, "alignment": "marginal"},
    ],
)
def test_the_matching_loss_has_the_settings(settings):
    loss = build_matching_loss(AlignmentArguments(**settings))
    assert {name: getattr(loss, name) for name in settings} == settings
