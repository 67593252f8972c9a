"""What `itra-hf compare` refuses before the first run."""

import json

import pytest
from commands import refused, write_config
from studies import CUSTOM

from itra_hf import cli
from itra_hf.comparison.plan import ComparisonArguments, make_plan
from itra_hf.comparison.variants import TWICE

BROKEN_FILE = {"trainer": "{folder}/broken.py:Own"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": "[]"}, "seeds=[] must be different integers >= 0"),
        ({"seeds": "[1, 1]"}, "seeds=[1, 1] must be different integers >= 0"),
        ({"seeds": "[-1]"}, "seeds=[-1] must be different integers >= 0"),
        ({"seeds": "[1.5]"}, "'seeds' can't be [1.5]"),
        ({"seeds": "[4294967296]"}, "seeds"),
        ({"max_train_samples": "[0]"}, "max_train_samples=[0] must be integers >= 1"),
        ({"max_train_samples": "[9, 9]"}, "max_train_samples=[9, 9] must be different sizes"),
        ({"equal_compute": "half"}, "equal_compute='half' is not one of 'batch', 'steps', 'both', 'none'"),
        ({"metric": "acc"}, "metric='acc' is not one of 'accuracy'"),
        ({"label_noise": 1}, "label_noise=1.0 must be from 0 to below 1"),
        ({"label_noise": ".nan"}, "label_noise=nan must be from 0 to below 1"),
        ({"class_imbalance": 0.5}, "class_imbalance=0.5 must be a number >= 1"),
        ({"class_imbalance": ".inf"}, "class_imbalance=inf must be a number >= 1"),
        ({"unknown_classes": -1}, "unknown_classes=-1 must be an integer >= 0"),
        ({"unknown_classes": 1.5}, "'unknown_classes' can't be 1.5"),
        ({"metric": "unknown_energy"}, "metric='unknown_energy' needs unknown_classes >= 1"),
        ({"metric": "new_classes_1", "unknown_classes": 1}, "metric='new_classes_1' needs unknown_classes >= 2"),
        ({"processes": 0}, "processes=0 must be an integer >= 1"),
        ({"sedes": "[1]"}, "unknown field 'sedes'. Did you mean 'seeds'?"),
        ({"matching_weight": -1}, "matching_weight=-1.0 must be from 0 to 10 "),
        ({"prediction_loss_only": True}, "prediction_loss_only=True leaves no predictions to measure"),
        ({"variants": "{}"}, "variants must map names to settings"),
        ({"variants": "[a]"}, "variants must map names to settings"),
        ({"variants": {"a": 1}}, "Variant 'a' must be a mapping"),
        ({"variants": {" ": {}}}, "A variant needs a name, and ' ' is none"),
        ({"variants": {"a": {"matching_wieght": 1}}}, "'a' has an unknown field 'matching_wieght'. Did you mean"),
        ({"variants": {"a": {"train_file": "x"}}}, "'a' has an unknown field 'train_file'"),
        ({"variants": {"a": {"seed": 1}}}, "'a': 'seed' belongs to the whole comparison"),
        ({"variants": {"a": {"matching_weight": -1}}}, "'a': matching_weight=-1.0 must be from 0 to 10 "),
        ({"variants": {"a": {"twice_compute": 2}}}, "'a': twice_compute=2 must be true or false"),
        ({"variants": {"a": {"trainer_arguments": [1]}}}, "'a': trainer_arguments=[1] must be a mapping"),
        ({"variants": {"a": {"trainer": "Own"}}}, "'a': trainer='Own' must be 'Trainer', 'ITRATrainer'"),
        ({"variants": {"a": {"trainer": "no/such.py:Own"}}}, "'a': trainer='no/such.py:Own' can't be loaded"),
        ({"variants": {"a": {"trainer": "no_such:Own"}}}, "'a': trainer='no_such:Own' can't be loaded"),
        ({"variants": {"a": {"trainer": "{folder}/own.py:Other"}}}, "own.py:Other' can't be loaded"),
        ({"variants": {"a": BROKEN_FILE}}, "broken.py:Own' can't be loaded"),
        ({"variants": {"a": {"trainer": "json:loads"}}}, "trainer='json:loads'"),
        ({"variants": {"a": {"trainer": "{folder}/own.py:Own", "trainer_arguments": {"b": 1}}}}, "trainer_arguments"),
        ({"variants": {"a": {"trainer": "Trainer", "companion": "memory"}}}, "'a': companion='memory' is of trainers"),
        ({"variants": {"a": {"trainer": "{folder}/own.py:Own", "matching_weight": 1}}}, "matching_weight=1.0 is of"),
        ({"variants": {"a": {"trainer": "{folder}/own.py:Own", "preset": "paper"}}}, "preset='paper' is of trainers"),
        ({"variants": {"Trainer": {}}}, "name 'Trainer' is taken"),
        ({"variants": {TWICE["batch"]: {}}}, "is taken"),
        ({"variants": {TWICE["steps"]: {}}}, "is taken"),
        ({"variants": '{1: {}, "1": {matching_weight: 0.5}}'}, "is taken"),
        ({"train_file": "nowhere.csv"}, "There is no file 'nowhere.csv'"),
    ],
)
def test_bad_settings_are_refused_before_the_first_run(fields, message, train_file, tmp_path, capsys, monkeypatch):
    (tmp_path / "own.py").write_text(CUSTOM)
    (tmp_path / "broken.py").write_text("def (\n")
    monkeypatch.setattr(cli, "compare", lambda plan: pytest.fail("it ran"))
    variants = json.dumps(fields["variants"]) if isinstance(fields.get("variants"), dict) else fields.get("variants")
    fields = {**fields, "variants": None if variants is None else variants.replace("{folder}", str(tmp_path))}
    fields = {name: value for name, value in fields.items() if value is not None}
    config = write_config(tmp_path, "model", **{"train_file": train_file, **fields})
    assert message in refused(["compare", config], capsys)


def test_a_variant_that_is_no_mapping_is_refused_in_python_too():
    with pytest.raises(ValueError, match="variants must map names to settings"):
        make_plan(ComparisonArguments(), {"train_file": "x.csv"}, {}, "out")
