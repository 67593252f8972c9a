"""What `itra-hf compare` plans: variants, keys of runs, and steps."""

import json
from dataclasses import replace

import pytest
from commands import rows, write, write_config
from studies import CUSTOM
from trainers import Toy, toy_examples
from transformers import Trainer, TrainingArguments

from itra_hf.by_name import own_file
from itra_hf.cli import parse_comparison
from itra_hf.comparison import plan as planning
from itra_hf.comparison.plan import ComparisonArguments, Run
from itra_hf.comparison.run import count_steps
from itra_hf.comparison.variants import DEFAULTS, PLAIN, TWICE, load_trainer


@pytest.fixture
def plan(tmp_path, train_file):
    """Reads a comparison with some fields and variants; options follow the file."""

    def read(*options, variants=None, **fields):
        if variants is not None:
            fields["variants"] = json.dumps(variants)
        return parse_comparison([write_config(tmp_path, "model", train_file=train_file, **fields), *options])

    return read


def keys(plan):
    """By variant and seed, size."""
    return {(run.variant, run.seed, run.train_samples): run.key for run in plan.runs()}


def names(plan):
    return [variant.name for variant in plan.variants]


# ---- Variants ----


def test_without_variants_itra_is_compared_with_equal_steps_and_equal_compute(plan):
    assert names(plan()) == [PLAIN, "ITRATrainer"]  # a memory takes the compute of a plain run
    assert names(plan(companion="sample")) == [PLAIN, "ITRATrainer"]
    learning = {"companion": "sample", "companion_decay": 0.0}
    assert names(plan(**learning)) == [PLAIN, TWICE["batch"], "ITRATrainer"]
    assert names(plan(**learning, equal_compute="both")) == [PLAIN, *TWICE.values(), "ITRATrainer"]
    assert names(plan(**learning, equal_compute="steps")) == [PLAIN, TWICE["steps"], "ITRATrainer"]
    assert names(plan(**learning, equal_compute="none")) == [PLAIN, "ITRATrainer"]


@pytest.mark.parametrize(
    ("settings", "twice"),
    [
        ({}, False),
        ({"companion": "sample", "companion_decay": 0.0}, True),
        ({"companion": "sample"}, False),  # a third of a batch's work more
        ({"companion": "class_matched", "companion_decay": 0.0}, True),
        ({"companion": "split"}, False),
        ({"companion": "memory"}, False),
        ({"trainer": "Trainer"}, False),
        ({"trainer": "Trainer", "twice_compute": True}, True),
        ({"twice_compute": False}, False),
        ({"companion": "sample", "matching_weight": 0}, False),  # nothing is aligned, so there is no second batch
    ],
)
def test_a_run_of_twice_the_compute_stands_beside_variants_that_need_it(settings, twice, plan):
    assert (TWICE["batch"] in names(plan(variants={"one": settings}))) == twice


def test_variants_take_any_setting_typed_as_on_the_command_line(plan):
    found = plan(variants={"a": {"label_names": ["labels"], "learning_rate": "2e-5", "save_strategy": "no"}})
    assert dict(found.variants[-1].settings) == {
        "label_names": ["labels"],
        "learning_rate": 2e-5,
        "save_strategy": "no",
    }


def test_trainers_come_from_files_in_folders_with_spaces_also_relative_ones_and_from_modules(tmp_path, monkeypatch):
    (tmp_path / "my folder").mkdir()
    (tmp_path / "my folder" / "own.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)
    for name in ("my folder/own.py:Own", f"{tmp_path}/my folder/own.py:Own", "transformers:Seq2SeqTrainer"):
        assert issubclass(load_trainer(name), Trainer)


def test_a_trainer_file_may_hold_dataclasses(tmp_path):
    text = "from __future__ import annotations\nimport dataclasses\nimport typing\n" + CUSTOM
    (tmp_path / "own.py").write_text(text + "\n\n@dataclasses.dataclass\nclass Settings:\n    a: typing.ClassVar = 1\n")
    assert issubclass(load_trainer(f"{tmp_path}/own.py:Own"), Trainer)


def test_seeds_and_sizes_on_the_command_line_override_the_file(plan):
    found = plan("--seeds", "7", "8", "--max_train_samples", "20", "30", seeds="[1, 2, 3]", equal_compute="none")
    places = [(run.seed, run.train_samples, run.variant) for run in found.runs()]
    assert places == [(seed, size, name) for seed in (7, 8) for size in (20, 30) for name in (PLAIN, "ITRATrainer")]


def test_a_setting_that_is_given_is_kept_though_it_is_the_default(plan):
    """The comparison has quieter defaults of its own for these."""
    fields = {"save_strategy": "steps", "logging_steps": 500}
    run = next(plan(**fields).runs())
    assert {name: run.fields[name] for name in fields} == fields


@pytest.mark.parametrize("where", ["common", "variant"])
def test_settings_that_are_true_by_default_can_be_turned_off(where, plan):
    off = {"gather_features": False, "remove_unused_columns": False}
    given = dict.fromkeys(off, "false") if where == "common" else {"variants": {"a": off}}
    run = next(run for run in plan(companion="sample", **given).runs() if run.trainer == "ITRATrainer")
    assert {name: run.fields.get(name) for name in off} == off


def test_a_common_setting_goes_to_the_variants_that_it_acts_in(plan):
    variants = {"memory": {"companion": "memory"}, "sample": {"companion": "sample"}}
    runs = {run.variant: run.fields for run in plan(memory_size=64, companion_decay=0.5, variants=variants).runs()}
    assert (runs["memory"]["memory_size"], runs["memory"]["companion_decay"]) == (64, DEFAULTS["companion_decay"])
    assert (runs["sample"]["memory_size"], runs["sample"]["companion_decay"]) == (DEFAULTS["memory_size"], 0.5)
    with pytest.raises(ValueError, match="memory_size=64 does nothing with companion='sample'"):
        plan(memory_size=64, variants={"sample": {"companion": "sample"}})


def test_reports_tell_the_settings_that_were_given_alone(plan):
    assert set(plan().common) <= {"model_name_or_path", "train_file", "max_steps", "logging_steps", "use_cpu"} | {
        "learning_rate",
        "report_to",
        "disable_tqdm",
        "save_strategy",
    }


def test_the_best_checkpoint_by_steps_can_be_loaded(plan):
    plan(save_strategy="steps", eval_strategy="steps", load_best_model_at_end="true", eval_steps=2, save_steps=2)


# ---- Keys ----


def test_method_settings_leave_the_plain_runs_as_they_are(plan):
    before, after = (keys(plan(matching_weight=weight, companion="class_matched")) for weight in (0.1, 0.2))
    changed = {name for name, _, _ in before if before[name, 1, None] != after[name, 1, None]}
    assert changed == {"ITRATrainer"}


@pytest.mark.parametrize(
    "fields", [{"learning_rate": "1e-3"}, {"label_noise": 0.1}, {"class_imbalance": 2}, {"unknown_classes": 2}]
)
def test_settings_of_the_training_or_the_data_change_all_runs(fields, plan):
    before, after = keys(plan()), keys(plan(**fields))
    assert not set(before.values()) & set(after.values())


def test_a_run_without_unknown_classes_keeps_the_key_that_it_had_before_there_was_the_setting():
    run = Run("a variant", 1, 200, {"model_name_or_path": "m", "seed": 1}, PLAIN, {}, "", 0.1, 2.0, {"x.csv": "0"})
    assert run.key == "a-variant-200-seed1-485e0c97cc9c"
    assert replace(run, unknown_classes=0).key == run.key != replace(run, unknown_classes=1).key


@pytest.mark.parametrize("count", [-1, 1.5, True, "2"])
def test_a_count_of_unknown_classes_that_is_no_whole_number_is_refused(count):
    with pytest.raises(ValueError, match=f"unknown_classes={count!r} must be an integer >= 0"):
        ComparisonArguments(unknown_classes=count)


def test_more_seeds_variants_and_processes_leave_the_others_as_they_are(plan):
    before = keys(plan(seeds="[1, 2]", variants={"a": {}}))
    after = keys(plan(seeds="[2, 1, 3]", variants={"b": {"matching_weight": 1}, "a": {}}, processes=3, metric="nll"))
    assert before.items() <= after.items()


def test_data_and_trainer_files_count_by_their_content(plan, tmp_path, train_file):
    file = tmp_path / "own.py"
    file.write_text(CUSTOM)
    variants = {"own": {"trainer": f"{file}:Own"}}
    first = keys(plan(variants=variants))
    file.write_text(CUSTOM + "\n")
    second = keys(plan(variants=variants))
    assert {name for name, seed, size in first if first[name, seed, size] != second[name, seed, size]} == {"own"}
    write(tmp_path, "train.csv", rows(33))
    assert not set(second.values()) & set(keys(plan(variants=variants)).values())


@pytest.mark.parametrize("kind", ["file", "module"])
@pytest.mark.parametrize("what", ["trainer", "matching_loss"])
def test_code_of_the_user_s_counts_by_its_content(what, kind, plan, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / f"own_{what}.py"
    name = {"trainer": "Own", "matching_loss": "match"}[what]
    settings = {"own": {what: f"{path if kind == 'file' else path.stem}:{name}"}, "other": {}}
    found = []
    for factor in (1, 2):
        path.write_text(f"{CUSTOM}\n\ndef match(one, other):\n    return {factor} * (one.mean() - other.mean()) ** 2\n")
        found.append(keys(plan(variants=settings)))
    assert {place[0] for place, key in found[0].items() if found[1][place] != key} == {"own"}


def test_code_of_installed_packages_is_not_looked_into(plan):
    rival = "itra_hf.comparison.rivals:EqualizationTrainer"
    variants = {"own": {"trainer": "transformers:Seq2SeqTrainer"}, "rival": {"trainer": rival}, "lost": {}}
    for run in plan(variants=variants).runs():
        assert set(run.sources) == {run.fields["train_file"]}
    assert own_file("no_such.module:name") is None


def test_a_data_set_folder_counts_by_its_content(tmp_path):
    found = []
    for count in (30, 33):
        (tmp_path / "data").mkdir(exist_ok=True)
        write(tmp_path / "data", "train.csv", rows(count))
        found.append(keys(parse_comparison([write_config(tmp_path, "model", dataset_name=str(tmp_path / "data"))])))
    assert not set(found[0].values()) & set(found[1].values())


def test_a_setting_that_is_the_default_anyway_is_the_same_run_and_another_default_another(plan, monkeypatch):
    first = keys(plan(variants={"one": {}}))
    assert keys(plan(variants={"one": {"companion": "auto"}})) == first
    monkeypatch.setitem(planning.DEFAULTS, "matching_weight", 0.7)
    changed = keys(plan(variants={"one": {}}))
    assert {name for name, key in changed.items() if first[name] == key} == {
        (PLAIN, seed, None) for seed in range(1, 6)
    }


def test_a_subclass_with_a_second_batch_also_needs_a_run_of_twice_the_compute(plan, tmp_path):
    path = tmp_path / "own.py"
    path.write_text("from itra_hf import ITRATrainer\n\n\nclass Own(ITRATrainer):\n    pass\n")
    assert TWICE["batch"] in names(
        plan(variants={"one": {"trainer": f"{path}:Own", "companion": "sample", "companion_decay": 0.0}})
    )
    assert TWICE["batch"] not in names(plan(variants={"one": {"trainer": f"{path}:Own"}}))


def test_a_local_model_that_is_saved_again_is_another_one(plan, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(b"1")
    fields = {"model_name_or_path": str(folder), "seeds": "[1]"}
    first = keys(plan(**fields))
    assert keys(plan(**fields)) == first
    weights.write_bytes(b"22")
    assert not set(keys(plan(**fields)).values()) & set(first.values())


def test_keys_are_folder_names_without_surprises_and_without_secrets(plan):
    hostile = ["../../etc", "<script>alert(1)</script>", "a\nb", "{{7*7}}|`$x$`", "-", "ÄÖ", "x" * 300]
    variants = {name: {"matching_weight": weight / 9} for weight, name in enumerate(hostile)}
    found = plan(variants=variants, token="hf_secret", hub_token="hf_secret")
    for key in keys(found).values():
        assert key.replace("-", "").isalnum()
        assert key.isascii()
        assert len(key) < 100
        assert "secret" not in key
    assert len(set(keys(found).values())) == len(keys(found))


def test_another_token_is_not_another_run(plan):
    assert keys(plan(token="hf_first")) == keys(plan(token="hf_second"))


def test_the_key_tells_everything_that_decides_a_run_but_its_variants_name(plan):
    run = next(plan().runs())
    for change in (
        {"seed": 9},
        {"train_samples": 9},
        {"fields": {}},
        {"trainer": "x"},
        {"trainer_arguments": {"a": 1}},
    ):
        assert replace(run, **change).key != run.key
    assert replace(run, variant="other").key.split("-")[-1] == run.key.split("-")[-1]


# ---- Steps ----


@pytest.mark.parametrize(
    ("examples", "drop_last"), [(1, False), (7, False), (8, False), (23, False), (8, True), (23, True)]
)
@pytest.mark.parametrize(("batch", "accumulation"), [(1, 1), (4, 1), (4, 3), (8, 2)])
@pytest.mark.parametrize("length", [{"num_train_epochs": 1.5}, {"num_train_epochs": 3}, {"max_steps": 5}])
def test_steps_are_counted_as_the_trainer_counts_them(examples, drop_last, batch, accumulation, length, tmp_path):
    args = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        dataloader_drop_last=drop_last,
        use_cpu=True,
        **length,
    )
    trainer = Trainer(Toy(), args, train_dataset=toy_examples(examples))
    counted = trainer.set_initial_training_values(args, trainer.get_train_dataloader())[-1]
    assert count_steps(examples, args) == counted
