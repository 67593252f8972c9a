"""The study of `examples/study`: its results are whole, its tables are theirs, and a condition runs."""

import json

import pytest
import torch
from commands import save_model
from places import EXAMPLES, ROOT, import_from
from transformers import BertConfig, BertModel

from itra_hf import AlignmentArguments
from itra_hf.alignment.weight import MatchingWeight
from itra_hf.comparison.variants import PLAIN

FOLDER = EXAMPLES / "study"
SEARCHED = {101, 102, 103, 104}  # seeds that earlier defaults were chosen by
MEASURES = ("accuracy", "f1_macro", "nll", "calibration_error", "scatter_ratio", "seconds")


@pytest.fixture(scope="module")
def load():
    return lambda name: import_from(name, FOLDER, EXAMPLES)


@pytest.fixture(scope="module")
def show(load):
    return load("show")


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("[frs]*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_results_are_whole(path, load):
    condition = json.loads(path.read_text(encoding="utf-8"))
    seeds = SEARCHED if path.parent.name == "search" else set(load("run").SEEDS)
    assert not condition["failed"]
    assert not condition["missing"]
    assert PLAIN in condition["figures"]
    for figures in condition["figures"].values():
        for measure in MEASURES:
            found = set(map(int, figures[measure]))
            assert found and found <= seeds if path.parent.name == "search" else found == seeds


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


def test_the_tables_are_those_of_the_results(show):
    results = show.read_results(FOLDER / "results")
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


# ---- What makes a companion help ----


@pytest.mark.parametrize("path", sorted(FOLDER.glob("mechanism/*/*.json")), ids=lambda path: path.stem)
def test_each_run_of_the_mechanism_is_one_of_the_plan(path, load):
    mechanism, run = load("mechanism"), json.loads(path.read_text(encoding="utf-8"))
    condition = mechanism.CONDITIONS[path.parent.name]
    assert run["variant"] in (*condition.variants, *mechanism.EARLIER)
    assert run["seed"] in mechanism.SEEDS
    assert path.stem == f"{run['variant']}-{run['seed']}"
    assert run["trained"] == condition.size
    wanted = set(MEASURES) | ({"unknown_energy", "unknown_mahalanobis"} if condition.unknown_classes else set())
    assert wanted <= set(run["figures"])
    assert run["matching_weights"] or run["variant"] in ("plain", "smoothing")


def test_the_mechanism_has_seeds_and_documents_of_its_own(load):
    mechanism = load("mechanism")
    assert not SEARCHED & set(load("run").SEEDS)
    assert not set(mechanism.SEEDS) & (SEARCHED | set(load("run").SEEDS))
    plan = (FOLDER / "mechanism.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in plan for name in mechanism.CONDITIONS)


def test_every_cell_of_the_mechanism_builds_its_settings(load, tmp_path, monkeypatch):
    mechanism = load("mechanism")
    monkeypatch.setattr(mechanism, "OUTPUT", tmp_path)
    monkeypatch.syspath_prepend(FOLDER)  # as for `python -m examples.study`
    monkeypatch.setattr(mechanism, "write_files", lambda corpus: {"train_file": "documents.csv"})
    for name, condition in mechanism.CONDITIONS.items():
        assert [run.variant for run in mechanism.runs_of(name, [201])] == list(condition.variants)


@pytest.mark.parametrize(
    ("variant", "steps"),
    [
        ("average-0", 0),
        ("average-0.9", 9),
        ("average-0.97", 0.97 / 0.03),
        ("snapshot-32", 32),
        ("memory-256", 8),
        ("memory-256-corrected", None),
        ("average-0.97-halvings", None),
        ("plain", None),
    ],
)
def test_lags_are_those_of_the_plan(variant, steps, load):
    assert load("lag").lag(variant) == (None if steps is None else pytest.approx(steps))


def test_the_table_of_the_mechanism_pairs_runs_by_seed(load, tmp_path, monkeypatch):
    lag = load("lag")
    folder = tmp_path / "mechanism" / "some"
    folder.mkdir(parents=True)
    names = ("accuracy", "nll", "calibration_error", "scatter_ratio")
    for variant, gain, seeds in (("plain", 0.0, (1, 2, 3)), ("average-0.9", 0.01, (1, 2)), ("memory-64", 0.02, (3,))):
        for seed in seeds:
            figures = dict.fromkeys(names, seed / 10 + gain * seed)
            run = {"variant": variant, "seed": seed, "figures": figures}
            (folder / f"{variant}-{seed}.json").write_text(json.dumps(run), encoding="utf-8")
    monkeypatch.setattr(lag, "FOLDER", tmp_path)
    rows = [line.strip("| ").split(" | ") for line in lag.table("some").splitlines()]
    assert rows[2][:4] == ["average-0.9", "9", "2", "+1.50 ± 6.35"]
    assert rows[3][:4] == ["memory-64", "2", "1", "+6.00"]


def test_the_page_has_the_tables_of_the_mechanism(load):
    lag, page = load("lag"), (FOLDER / "README.md").read_text(encoding="utf-8")
    for condition in lag.conditions():
        assert lag.table(condition) in page
    assert lag.between(lag.PAIRS) in page
    for text in (page, (ROOT / "README.md").read_text(encoding="utf-8")):
        assert lag.summary(lag.DEFAULT) in text


def test_the_defaults_are_those_of_the_study(load):
    mechanism, lag = load("mechanism"), load("lag")
    cell, defaults = mechanism.CELLS[lag.DEFAULT], AlignmentArguments()
    assert cell["trainer_arguments"] == {"rule": "late-rising"}  # which is the package's "rising"
    assert cell["companion"] == "sample"
    for name in ("companion_decay", "matching_weight"):
        assert cell[name] == getattr(defaults, name)
    assert (defaults.companion, defaults.weight_mode) == ("auto", "rising")


def test_the_studys_late_rising_weight_is_the_packages(load):
    rules = load("weights")
    given = (torch.device("cpu"), lambda own: own)
    ours = rules.FollowingLoss("late-rising", 0.7, "balanced", False, *given)
    theirs = MatchingWeight(0.7, "rising", False, *given)
    for step in range(200):
        for weight in (ours, theirs):
            weight.note(torch.tensor([(8.0 if step < 60 else 0.5) ** 2, 4.0]))
        assert ours(step, step / 20).item() == pytest.approx(theirs(step, step / 20).item())


@pytest.mark.slow
def test_a_run_of_the_mechanism_is_made_once(load, tmp_path, monkeypatch, capsys):
    mechanism = load("mechanism")
    monkeypatch.syspath_prepend(FOLDER)
    model = save_model(tmp_path / "model", BertModel, BertConfig, pad_token="[PAD]")
    monkeypatch.setattr(
        mechanism, "COMMON", mechanism.COMMON | {"model_name_or_path": model, "max_predict_samples": 90}
    )
    monkeypatch.setattr(mechanism, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(mechanism, "RESULTS", tmp_path / "results")
    cells = ("cosine-average-0.97", "snapshot-8", "size-64-fresh", "average-0.97-halvings", "plain")
    tiny = mechanism.Condition("20newsgroups", 24, 8.0, 1e-3, 5, cells)
    monkeypatch.setattr(mechanism, "CONDITIONS", {"tiny": tiny})
    for run in mechanism.runs_of("tiny", [201]):
        for printed in (f"tiny {run.variant}-201 done\n", ""):
            mechanism.finish(run, tmp_path / "results" / "tiny", tmp_path / "output" / "mechanism" / "tiny")
            assert capsys.readouterr().out == printed
        left = json.loads((tmp_path / "results" / "tiny" / f"{run.variant}-201.json").read_text(encoding="utf-8"))
        assert left["trained"] == 24
        assert ("cosine_now" in left) == run.variant.startswith("cosine")
    assert not list((tmp_path / "output" / "mechanism" / "tiny").iterdir())


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


# ---- Against what costs nothing ----


def test_the_protocol_has_seeds_of_its_own_and_names_what_is_run(load):
    protocol, others = load("protocol"), SEARCHED | set(load("run").SEEDS) | set(load("mechanism").SEEDS)
    seeds = set(protocol.SEEDS) | set(protocol.TUNING_SEEDS)
    assert len(seeds) == len(protocol.SEEDS) + len(protocol.TUNING_SEEDS)
    assert not seeds & others
    plan = (FOLDER / "protocol.md").read_text(encoding="utf-8")
    assert all(f"`{name.split('-')[0]}`" in plan for name in protocol.CONDITIONS)
    assert f"{protocol.SEEDS[0]} to {protocol.SEEDS[-1]}" in plan


def test_every_run_of_the_protocol_builds_its_settings(load, tmp_path, monkeypatch):
    protocol = load("protocol")
    monkeypatch.setattr(protocol, "OUTPUT", tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(protocol, "read_corpus", lambda corpus: {})
    monkeypatch.setattr(protocol, "write_splits", lambda name, splits: {"train_file": "documents.csv"})
    for name, condition in protocol.CONDITIONS.items():
        variants = [*protocol.VARIANTS, *(protocol.FURTHER if condition.further else ())]
        runs = list(protocol.runs_of(name, [501], [*protocol.VARIANTS, *protocol.FURTHER]))
        assert [run.variant for run in runs] == variants
        assert {run.temperature_share for run in runs} == {0.1}


def test_the_protocol_s_second_batch_is_the_package_s_default(load):
    settings, defaults = load("protocol").SECOND_BATCH, AlignmentArguments()
    assert defaults.companion == "auto"  # which is a second batch of these
    assert defaults.alignment == "auto"  # which is conditional for classes
    for name in settings.keys() - {"companion", "alignment"}:
        assert settings[name] == getattr(defaults, name)


def test_corpora_of_the_protocol_keep_their_splits_apart(load):
    protocol = load("protocol")
    for corpus, classes in (("tweets", 2), ("r52-frequent", 15), ("20newsgroups", 20)):
        splits = protocol.read_corpus(corpus)
        assert len(set(splits["train"].Category)) == classes
        assert set(splits["test"].Category) <= set(splits["train"].Category)
    tweets = protocol.read_corpus("tweets")
    assert not set(tweets["train"].Text) & set(tweets["test"].Text)
    assert len(tweets["train"]) / (len(tweets["train"]) + len(tweets["test"])) == pytest.approx(0.7, abs=0.001)


def test_the_tweets_learning_rate_is_the_best_of_those_tried(load):
    protocol, cells = load("protocol"), load("cells")
    figures = cells.read_figures(FOLDER / "protocol" / "tuning")
    losses = {}
    for rate in protocol.RATES:
        by_seed = figures[f"rate-{rate:g}"]["nll"]
        assert sorted(by_seed) == protocol.TUNING_SEEDS
        losses[rate] = sum(by_seed.values())
    assert min(losses, key=losses.get) == protocol.TWEETS_RATE


@pytest.mark.parametrize("path", sorted(FOLDER.glob("protocol/[fns]*/*.json")), ids=lambda path: path.stem)
def test_each_run_of_the_protocol_is_one_of_the_plan(path, load):
    protocol, run = load("protocol"), json.loads(path.read_text(encoding="utf-8"))
    condition = protocol.CONDITIONS[path.parent.name]
    assert run["variant"] in {**protocol.VARIANTS, **(protocol.FURTHER if condition.further else {})}
    assert run["seed"] in protocol.SEEDS[: condition.seeds]
    assert path.stem == f"{run['variant']}-{run['seed']}"
    assert {"nll_scaled", "selective_accuracy", "scatter_ratio"} <= set(run["figures"])
