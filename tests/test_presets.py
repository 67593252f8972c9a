"""`ITRAConfig.paper` and `preset: paper`: what they set, what overrides them, and what they refuse."""

import dataclasses
import json

import pytest
from commands import refused, rows, write, write_config
from transformers import TrainingArguments

from itra_hf import AlignmentArguments, ITRAConfig
from itra_hf.cli import parse, parse_comparison
from itra_hf.comparison.variants import PLAIN, TWICE
from itra_hf.config_checks import build_matching_loss
from itra_hf.presets import PRESETS

CUSTOM = "from transformers import Trainer\n\n\nclass Own(Trainer):\n    pass\n"
QUIET = {"report_to": "none", "use_cpu": True}
METHOD = [field.name for field in dataclasses.fields(AlignmentArguments)]
PUBLISHED = {
    "companion": "sample",
    "companion_decay": 0.0,
    "weight_mode": "constant",
    "kernel": "gaussian",
    "class_weighting": "alike",
}


def settings_of(args):
    return {name: getattr(args, name) for name in METHOD}


def expected(**more):
    return settings_of(AlignmentArguments(**{**PUBLISHED, "matching_weight": 0.05, **more}))


@pytest.fixture
def train(tmp_path):
    """The training arguments of a config file and options."""

    def read(*options, **fields):
        return parse([write_config(tmp_path, "model", train_file="x.csv", **fields), *options])[2]

    return read


@pytest.fixture
def plan(tmp_path):
    """Reads a comparison with some fields and variants; options follow the file."""
    data = write(tmp_path, "train.csv", rows(30))

    def read(*options, variants=None, **fields):
        if variants is not None:
            fields["variants"] = json.dumps(variants)
        return parse_comparison([write_config(tmp_path, "model", train_file=data, **fields), *options])

    return read


def runs(plan):
    """The first run of each variant."""
    return {run.variant: run for run in plan.runs() if run.seed == plan.args.seeds[0]}


def method_of(run):
    return {name: value for name, value in run.fields.items() if name in METHOD}


# ---- In Python ----


def test_paper_is_the_published_method():
    args = ITRAConfig.paper("out", matching_weight=0.05, **QUIET)
    assert type(args) is ITRAConfig
    assert (args.output_dir, args.report_to, args.use_cpu) == ("out", [], True)
    assert settings_of(args) == expected()
    assert PRESETS["paper"] == PUBLISHED
    with pytest.raises(TypeError, match="matching_weight"):
        ITRAConfig.paper("out")


def test_a_run_weighs_classes_as_its_settings_say():
    for weighting in ("size", "alike"):
        args = AlignmentArguments.paper(matching_weight=0.05, class_weighting=weighting)
        assert build_matching_loss(args).class_weighting == weighting


def test_subclasses_have_it_too():
    @dataclasses.dataclass
    class Mine(TrainingArguments):
        extra: int = 3

    @dataclasses.dataclass
    class MineWithAlignment(AlignmentArguments, Mine):
        companion: str = "split"

    args = MineWithAlignment.paper("out", matching_weight=0.05, extra=4, **QUIET)
    assert (type(args), args.extra, args.companion) == (MineWithAlignment, 4, "sample")
    assert settings_of(AlignmentArguments.paper(matching_weight=0.05)) == expected()


@pytest.mark.parametrize(
    ("settings", "dropped"),
    [
        ({"weight_mode": "balanced", "estimator": "unbiased", "memory_size": 256}, {}),
        ({"companion_decay": 0.5, "companion": "class_matched"}, {}),
        ({"companion": "memory", "memory_size": 64}, {"companion_decay": None}),
        ({"companion": "split"}, {"companion_decay": None}),
        ({"alignment": "joint"}, {"class_weighting": "size"}),
        ({"matching_loss": "examples/distances.py:coral"}, {"kernel": "gaussian"}),
    ],
)
def test_any_setting_overrides_it_and_what_can_not_act_then_keeps_its_default(settings, dropped):
    args = ITRAConfig.paper(matching_weight=0.05, **settings, **QUIET)
    assert settings_of(args) == expected(**settings, **dropped)


def test_settings_that_do_nothing_are_refused_beside_it_too():
    with pytest.raises(ValueError, match="memory_size=64 does nothing with companion='sample'"):
        ITRAConfig.paper(matching_weight=0.05, memory_size=64)
    with pytest.raises(ValueError, match="There is no companion_gradient any more"):
        ITRAConfig.paper(matching_weight=0.05, companion_gradient=True)


# ---- `itra-hf train` ----


def test_a_config_file_takes_a_preset(train):
    assert settings_of(train(preset="paper", matching_weight=0.05)) == expected()
    other = train(preset="paper", matching_weight=0.05, weight_mode="balanced", companion="memory", memory_size=64)
    assert settings_of(other) == expected(
        weight_mode="balanced", companion="memory", companion_decay=None, memory_size=64
    )
    assert settings_of(train(preset="~")) == settings_of(AlignmentArguments())


def test_the_command_line_takes_a_preset_and_overrides_that_of_a_file(train):
    assert settings_of(train("--preset", "paper", "--matching_weight", "0.05")) == expected()
    assert settings_of(train("--matching-weight=0.05", preset="paper")) == expected()
    assert settings_of(train("--companion", "split", preset="paper", matching_weight=0.05)) == expected(
        companion="split", companion_decay=None
    )


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "paper"}, "preset='paper' needs matching_weight beside it, a number >= 0"),
        ({"preset": "Paper", "matching_weight": 0.1}, "preset='Paper' is not one of 'paper'"),
        ({"preset": "[paper]", "matching_weight": 0.1}, "The config field 'preset' takes one value"),
        ({"prest": "paper"}, "unknown field 'prest'. Did you mean 'preset'?"),
    ],
)
def test_a_preset_without_a_weight_and_an_unknown_one_are_refused(command, fields, message, tmp_path, capsys):
    data = write(tmp_path, "train.csv", rows(30))
    config = write_config(tmp_path, "model", train_file=data, **fields)
    assert message in refused([command, config], capsys)


# ---- `itra-hf compare` ----


def test_a_variant_takes_a_preset_that_overrides_what_all_runs_share(plan):
    common = {"companion": "split", "weight_mode": "balanced", "matching_weight": 0.05}
    found = runs(plan(variants={"ITRA": {}, "paper": {"preset": "paper"}}, **common))
    assert method_of(found["paper"]) == expected()
    assert method_of(found["ITRA"]) == settings_of(AlignmentArguments(**common))
    assert TWICE["batch"] in found  # a second batch needs a run of as much compute beside it
    own = runs(plan(variants={"paper": {"preset": "paper", "weight_mode": "rising", "matching_weight": 0.05}}))
    assert method_of(own["paper"]) == expected(weight_mode="rising")


def test_a_preset_at_the_top_is_overridden_beside_it_and_by_a_variant(plan):
    variants = {"as it is": {}, "split": {"companion": "split"}, "joint": {"alignment": "joint"}}
    found = runs(plan(variants=variants, preset="paper", matching_weight=0.05, weight_mode="balanced"))
    assert method_of(found["as it is"]) == expected(weight_mode="balanced")
    assert method_of(found["split"]) == expected(weight_mode="balanced", companion="split", companion_decay=None)
    assert method_of(found["joint"]) == expected(weight_mode="balanced", alignment="joint", class_weighting="size")


def test_a_preset_at_the_top_leaves_the_runs_without_the_method_as_they_are(plan, tmp_path):
    (tmp_path / "own.py").write_text(CUSTOM)
    variants = {
        "ITRA": {"companion": "sample"},
        "plain": {"trainer": "Trainer"},
        "own": {"trainer": f"{tmp_path}/own.py:Own"},
    }
    before, after = (plan(variants=variants, matching_weight=0.05, **more) for more in ({}, {"preset": "paper"}))
    changed = {name for name, run in runs(before).items() if run.key != runs(after)[name].key}
    assert changed == {"ITRA"}
    assert {PLAIN, TWICE["batch"], "plain", "own"} < set(runs(after))
    assert [dict(variant.settings) for variant in after.variants if variant.name in ("plain", "own")] == [{}, {}]
    assert "preset" not in after.common


def test_a_preset_is_the_same_run_as_its_settings_written_out(plan):
    short = runs(plan("--preset", "paper", matching_weight=0.05, variants={"one": {}}))["one"]
    written = runs(plan(variants={"one": {**PUBLISHED, "matching_weight": 0.05}}))["one"]
    assert short.key == written.key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "paper"}, "Variant 'a': preset='paper' needs matching_weight beside it"),
        ({"preset": "poster", "matching_weight": 0.1}, "Variant 'a': preset='poster' is not one of 'paper'"),
        ({"preset": ["paper"], "matching_weight": 0.1}, r"Variant 'a': preset=\['paper'\] is not one of 'paper'"),
        ({"prest": "paper"}, "Variant 'a' has an unknown field 'prest'. Did you mean 'preset'"),
    ],
)
def test_a_variants_preset_without_a_weight_and_an_unknown_one_are_refused(settings, message, plan):
    with pytest.raises(ValueError, match=message):
        plan(variants={"a": settings})
