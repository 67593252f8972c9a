"""Config files: a field of text has its characters, and every other its value, whatever YAML would make of them."""

import pickle

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HfArgumentParser

from itra_hf import ITRAConfig
from itra_hf.cli import parse, parse_comparison
from itra_hf.text.config_files import _Loader, as_typed, named_actions

ACTIONS = named_actions(HfArgumentParser(ITRAConfig))


@pytest.fixture
def read(tmp_path):
    """The value of one field in a file."""

    def read(field, text):
        path = tmp_path / "config.yaml"
        head = "" if field == "model_name_or_path" else "model_name_or_path: m\n"
        path.write_text(
            f"{head}train_file: x.csv\noutput_dir: o\nuse_cpu: true\nreport_to: none\n{field}: {text}\n",
            encoding="utf-8",
        )
        return next(getattr(each, field) for each in parse([str(path)]) if hasattr(each, field))

    return read


WORDS = ["1.10", "007", "1_000", "0x1F", "12:30", "2024-01-01", "2024-13-45", "1e3", ".inf", "no", "on", "true", "="]


@pytest.mark.parametrize("word", WORDS)
def test_text_has_its_characters(word, read):
    fields = ["model_name_or_path", "model_revision", "run_name", "hub_model_id", "hub_revision", "language"]
    for field in [*fields, "label_column_name", "metric_for_best_model"]:
        for text in (word, f"'{word}'", f'"{word}"  # of it'):
            value = read(field, text)
            assert (value, type(value)) == (word, str)
    assert read("label_names", f"[{word}, '~', ~]") == [word, "~", "~"]


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("learning_rate", "2e-5", 2e-5),
        ("learning_rate", "1", 1.0),
        ("learning_rate", "1_0.5", 10.5),
        ("max_steps", "1_000", 1000),
        ("seed", "0x1F", 31),
        ("seed", "'7'", 7),
        ("label_names", "[labels, 2.50]", ["labels", "2.50"]),
        ("label_names", "2", ["2"]),
        ("bandwidth", "1.50", "1.50"),
        ("eval_compactness", "true", True),
        ("eval_compactness", "yes", True),
        ("gather_features", "no", False),
        ("dataloader_pin_memory", "False", False),
        ("tf32", "~", None),
        ("run_name", "null", None),
        ("run_name", "", None),
        ("save_strategy", "no", "no"),
        (
            "lr_scheduler_kwargs",
            "{a: 1.10, b: [0x1F, no, ~], c: 2e-5, 4: true}",
            {"a": 1.1, "b": [31, "no", None], "c": 2e-5, 4: True},
        ),
        ("lr_scheduler_kwargs", """'{"a": 1.5}'""", {"a": 1.5}),
        ("gradient_checkpointing_kwargs", "{use_reentrant: false}", {"use_reentrant": False}),
    ],
)
def test_every_other_field_has_its_value(field, text, value, read):
    found = read(field, text)
    found = getattr(found, "value", found)
    assert (found, type(found)) == (value, type(value))
    assert b"written_yaml" not in pickle.dumps(found)  # which loads where this package is not


def test_a_field_that_may_be_one_text_or_several(read):
    assert ACTIONS["report_to"].nargs is None  # the command line takes one
    path_like = as_typed("report_to", yaml.load("[tensorboard, 007]", _Loader), ACTIONS["report_to"])
    assert path_like == ["tensorboard", "007"]
    with pytest.raises(ValueError, match=r"'run_name' takes one value, not the list"):
        as_typed("run_name", yaml.load("[a, b]", _Loader), ACTIONS["run_name"])


def test_a_nested_config_and_what_is_a_text_or_a_boolean(read):
    assert read("accelerator_config", "{split_batches: true, dispatch_batches: ~}").split_batches is True
    for text, value in (("true", True), ("false", False)):
        both = ACTIONS["fsdp"].nargs == "?"  # not yet in transformers 5.8
        assert as_typed("fsdp", yaml.load(text, _Loader), ACTIONS["fsdp"]) == (value if both else text)


def test_variants_of_a_comparison(tmp_path):
    lines = [
        "1.10: {run_name: 007, learning_rate: 2e-5}",
        "no: {trainer_arguments: {}, twice_compute: ~}",
        "2024-01-01:",
    ]
    path = tmp_path / "compare.yaml"
    variants = "".join(f"  {line}\n" for line in lines)
    path.write_text(
        f"model_name_or_path: m\ndataset_name: d\nrun_name: 1_0\nuse_cpu: true\nvariants:\n{variants}", encoding="utf-8"
    )
    plan = parse_comparison([str(path)])
    assert [variant.name for variant in plan.variants[-3:]] == ["1.10", "no", "2024-01-01"]
    assert dict(plan.variants[-3].settings) == {"run_name": "007", "learning_rate": 2e-5}
    assert plan.common["run_name"] == "1_0"
    path.write_text("model_name_or_path: m\ndataset_name: d\nuse_cpu: true\nvariants:\n", encoding="utf-8")
    assert parse_comparison([str(path)]).variants[-1].name == "ITRATrainer"


GONE_TELLS = "There is no companion_gradient any more: companion_decay=0 is what True was"


@pytest.mark.parametrize("read_file", [parse, parse_comparison])
def test_a_name_that_is_gone_says_what_to_write_instead_in_a_file_and_on_the_command_line(read_file, tmp_path):
    path = tmp_path / "config.yaml"
    lines = "model_name_or_path: m\ndataset_name: d\noutput_dir: o\nuse_cpu: true\nreport_to: none\n"
    path.write_text(lines, encoding="utf-8")
    read_file([str(path)])
    gone = [
        "--companion_gradient false",
        "--companion_gradient=false",
        "--companion-gradient",
        "--no_companion_gradient",
    ]
    for option in gone:
        with pytest.raises(ValueError, match=GONE_TELLS):
            read_file([str(path), *option.split()])
    path.write_text(f"{lines}companion_gradient: false\n", encoding="utf-8")
    with pytest.raises(ValueError, match=GONE_TELLS):
        read_file([str(path)])


def test_a_name_that_is_gone_says_what_to_write_instead_in_a_variant(tmp_path):
    path = tmp_path / "compare.yaml"
    path.write_text(
        "model_name_or_path: m\ndataset_name: d\nvariants: {a: {companion: sample, companion_gradient: false}}\n",
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match=f"Variant 'a': {GONE_TELLS}"):
        parse_comparison([str(path)])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.from_regex(r"[-+]?[0-9][0-9_:.xeE+-]{0,8}[0-9]", fullmatch=True))
def test_any_number_like_text_has_its_characters(text):
    assert as_typed("run_name", yaml.load(text, _Loader), ACTIONS["run_name"]) == text
