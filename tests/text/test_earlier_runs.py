"""What an earlier run left: checkpoints that don't fit any more, and results that are not this run's."""

import json

import pytest
from commands import examples, refused, rows, write, write_config

from itra_hf.cli import main
from itra_hf.text.data import Task
from itra_hf.text.train import check_checkpoint

SAVING = {"save_strategy": "steps", "save_steps": 2}


def train(folder, model, data, *options, **fields):
    config = write_config(folder, model, train_file=write(folder, "train.csv", data), **fields)
    main(["train", config, *options])
    return config


@pytest.mark.parametrize("other", ["violet", "amber"])
def test_a_checkpoint_of_other_classes_is_refused(other, model_folder, tmp_path, capsys):
    train(tmp_path, model_folder, rows(30), **SAVING)
    renamed = rows(30, lambda name, index: other if name == "red" else name)
    write(tmp_path, "train.csv", renamed)
    said = refused(["train", str(tmp_path / "config.yaml"), "--resume_from_checkpoint", "true"], capsys)
    now = ", ".join(map(repr, sorted(["blue", "green", other])))
    assert f"has the classes 'blue', 'green', 'red', and the training data {now}." in said


def test_a_checkpoint_of_another_number_of_classes_is_refused(model_folder, tmp_path, capsys):
    train(tmp_path, model_folder, rows(30), **SAVING)
    write(tmp_path, "train.csv", rows(32, lambda name, index: "violet" if index % 8 == 0 else name))
    said = refused(["train", str(tmp_path / "config.yaml"), "--resume_from_checkpoint", "true"], capsys)
    assert "and the training data 'blue', 'green', 'red', 'violet'" in said


def test_a_checkpoint_whose_classes_have_another_order_is_refused(tmp_path):
    names = {"id2label": {"0": "red", "1": "blue"}}
    (tmp_path / "config.json").write_text(json.dumps(names), encoding="utf-8")
    check_checkpoint(str(tmp_path), Task("single_label_classification", ["red", "blue"], ["text"], "label"))
    with pytest.raises(ValueError, match=r"'red', 'blue', and the training data 'blue', 'red'\."):
        check_checkpoint(str(tmp_path), Task("single_label_classification", ["blue", "red"], ["text"], "label"))


def test_the_folder_of_a_finished_run_is_no_checkpoint(model_folder, tmp_path, capsys):
    config = train(tmp_path, model_folder, rows(30), **SAVING)
    out = tmp_path / "out"
    said = refused(["train", config, "--resume_from_checkpoint", str(out)], capsys)
    assert f"{str(out)!r} is no checkpoint, for it is the folder of a finished run" in said
    assert "did you mean" in said
    main(["train", config, "--resume_from_checkpoint", str(out / "checkpoint-4"), "--max_steps", "6"])
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 6


def test_results_of_an_earlier_run_do_not_stay_beside_a_new_model(model_folder, tmp_path):
    test = write(tmp_path, "test.csv", examples(12, seed=1))
    train(tmp_path, model_folder, examples(30, seed=0), test_file=test, eval_compactness=True)
    out = tmp_path / "out"
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    (out / "figures").mkdir(exist_ok=True)
    for name in ("feature_map.png", "mine.png"):
        (out / "figures" / name).write_bytes(b"old")
    assert (out / "test_predictions.csv").is_file()
    assert "eval_compactness_scatter_ratio" in json.loads((out / "all_results.json").read_text())
    train(tmp_path, model_folder, examples(30, seed=0))
    assert not (out / "test_predictions.csv").exists()
    assert not (out / "test_results.json").exists()
    found = json.loads((out / "all_results.json").read_text())
    assert not [name for name in found if name.startswith("test_") or "compactness" in name]
    assert [path.name for path in (out / "figures").iterdir() if path.read_bytes() == b"old"] == ["mine.png"]
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_results_are_json_where_a_figure_is_not_a_number(model_folder, tmp_path):
    numbers = rows(12, lambda name, index: index + 0.5)
    train(tmp_path, model_folder, numbers, max_eval_samples=1)  # which have no r2

    def refuse(name):
        raise AssertionError(name)

    for path in (tmp_path / "out").glob("*_results.json"):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
