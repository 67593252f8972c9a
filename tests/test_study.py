"""The study of `examples/study`: its results are whole, its tables are theirs, and a condition runs."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from test_cli import save_model
from transformers import BertConfig, BertModel

from itra_hf import AlignmentArguments
from itra_hf.comparison.plan import PLAIN

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "study"
MEASURES = ("accuracy", "f1_macro", "nll", "calibration_error", "scatter_ratio", "seconds")


@pytest.fixture(scope="module")
def load():
    def load_one(name):
        folders = [str(FOLDER), str(FOLDER.parent)]
        sys.path[:0] = folders
        try:
            return importlib.import_module(name)
        finally:
            for folder in folders:
                sys.path.remove(folder)

    return load_one


@pytest.fixture(scope="module")
def show(load):
    return load("show")


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("[frs]*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_results_are_whole(path, load):
    condition = json.loads(path.read_text(encoding="utf-8"))
    seeds = load("search").SEARCHES[path.stem].seeds if path.parent.name == "search" else load("run").SEEDS
    assert not condition["failed"]
    assert not condition["missing"]
    assert PLAIN in condition["figures"]
    for figures in condition["figures"].values():
        for measure in MEASURES:
            assert set(figures[measure]) == {str(seed) for seed in seeds}


def test_curves_are_whole(load, show, tmp_path, monkeypatch):
    curves = load("curves")
    files = show.read_curves(FOLDER / "curves")
    assert set(files) == set(curves.FOLLOWED)
    for content in files.values():
        for variant, measures in content["curves"].items():
            assert set(measures) == {"accuracy", "nll"} | ({"matching_weight"} if variant != PLAIN else set())
            for by_seed in measures.values():
                assert list(by_seed) == [str(seed) for seed in curves.SEEDS]
                steps, _ = show.mean_curve(by_seed)
                assert len(steps) == 10
    monkeypatch.setattr(show, "CURVES", tmp_path / "curves.png")
    show.draw_curves(files)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_curves_keep_what_was_logged_by_step(load):
    log = [{"step": 5, "matching_weight": 0.123456}, {"step": 5, "eval_accuracy": 0.5, "eval_loss": 1.0}, {"loss": 2.0}]
    found = load("curves").to_curves([{"variant": "ITRA", "seed": 3, "log": log}])
    assert found == {"ITRA": {"matching_weight": {3: {5: 0.12346}}, "accuracy": {3: {5: 0.5}}, "nll": {3: {5: 1.0}}}}


def test_search_and_study_share_no_seed(load):
    searched = {seed for search in load("search").SEARCHES.values() for seed in search.seeds}
    assert not searched & set(load("run").SEEDS)


def test_the_defaults_are_among_what_was_searched(load):
    settings = [variant for search in load("search").SEARCHES.values() for variant in search.variants.values()]
    defaults = {**vars(AlignmentArguments()), "alignment": "conditional"}  # which 'auto' is for class ids
    assert any(all(defaults[name] == value for name, value in each.items()) for each in settings)


def test_the_tables_are_those_of_the_results(show):
    results = show.read_results(FOLDER / "results")
    assert show.main_table(results) in (ROOT / "README.md").read_text(encoding="utf-8")
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    first = show.main_table(show.read_results(FOLDER / "first"))
    for table in (show.main_table(results), show.others_table(results), first):
        assert table in page
    assert show.search_table(show.read_results(FOLDER / "search")) in page


def condition(gain, seeds=("1", "2", "3"), **changes):
    """A results file of two variants, of which the second gains in every seed, but not as much."""
    plain = {measure: {seed: int(seed) / 10 for seed in seeds} for measure in MEASURES}
    own = {name: {seed: value + gain * int(seed) for seed, value in each.items()} for name, each in plain.items()}
    return {"corpus": "reuters-r8", "size": 200, "args": {}, "figures": {PLAIN: plain, "ITRA": own}, **changes}


def test_conditions_together_count_once_a_seed(show):
    found = show.difference([condition(0.01), condition(0.03)], "ITRA", "accuracy")
    assert found.mean == pytest.approx(0.04)
    assert found.seeds == 3
    assert show.cell(found, "accuracy") == "+4.00 ± 4.97"
    assert show.difference([condition(0.01), condition(0.03, ("2", "3"))], "ITRA", "accuracy").seeds == 2


def test_a_row_a_condition_and_one_for_the_small_clean_ones(show):
    results = {
        "a": condition(0.01),
        "b": condition(0.01, size=1000),
        "c": condition(0.01, args={"label_noise": 0.2}),
        "d": condition(0.01, size=None),
    }
    names = ["R8, 200", "R8, 1,000", "R8, 200, 20% wrong labels", "R8, all documents", show.SMALL]
    assert list(show.groups(results)) == names
    assert [line.split(" | ")[0][2:] for line in show.main_table(results).splitlines()[2:]] == names


def test_text_goes_between_the_marks_and_nowhere_else(show, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n", encoding="utf-8")
    show.put(path, "a", "new")
    assert path.read_text(encoding="utf-8") == "before\n<!-- a: begin -->\nnew\n<!-- a: end -->\nafter\n"
    with pytest.raises(ValueError, match="lacks the marks <!-- b: begin -->"):
        show.put(path, "b", "new")


@pytest.mark.slow
def test_a_condition_runs_and_leaves_its_figures(load, tmp_path, monkeypatch):
    study = load("run")
    model = save_model(tmp_path / "model", BertModel, BertConfig, pad_token="[PAD]")
    small = {"model_name_or_path": model, "max_predict_samples": 40}
    monkeypatch.setattr(study, "COMMON", study.COMMON | small)
    monkeypatch.setattr(study, "EPOCHS", {20: 1.0})
    monkeypatch.setattr(study, "OUTPUT", tmp_path / "output")
    files = study.write_files("reuters-r8")
    path = tmp_path / "results" / "tiny.json"
    study.run(study.Condition("reuters-r8", 20, {"label_noise": 0.2}), {"ITRA": {}}, files, path, seeds=[1])
    left = json.loads(path.read_text(encoding="utf-8"))
    assert (left["corpus"], left["size"], left["args"], left["tested"]) == ("reuters-r8", 20, {"label_noise": 0.2}, 40)
    assert list(left["figures"]) == [PLAIN, "ITRA"]
    assert set(MEASURES) <= set(left["figures"]["ITRA"])
