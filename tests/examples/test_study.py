"""The study of `examples/study`: its results are whole, its tables are theirs, and a condition runs."""

import inspect
import json

import pandas as pd
import pytest
import torch
from commands import save_model
from places import EXAMPLES, ROOT, import_from
from transformers import BertConfig, BertModel

from itra_hf import AlignmentArguments
from itra_hf.alignment.weight import MatchingWeight
from itra_hf.comparison import rivals as package
from itra_hf.comparison.variants import PLAIN, load_trainer
from itra_hf.features.averages import LAG

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
    assert lag.cosines("20newsgroups-200") in page
    assert lag.summary(lag.DEFAULT) in page


def test_the_defaults_are_those_of_the_study(load):
    mechanism, lag = load("mechanism"), load("lag")
    cell, defaults = mechanism.CELLS[lag.DEFAULT], AlignmentArguments()
    assert cell["trainer_arguments"] == {"rule": "late-rising"}  # which is the package's "rising"
    assert cell["companion"] == "sample"
    assert cell["matching_weight"] == defaults.matching_weight
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
    for name, condition in protocol.CONDITIONS.items():
        known = protocol.known_variants(name)
        assert list(known) == [*protocol.VARIANTS, *protocol.EVERYWHERE, *condition.further]
        runs = list(protocol.runs_of(name, [501], known, train_file="documents.csv"))
        assert [run.variant for run in runs] == list(known)
        assert {run.temperature_share for run in runs} == {0.1}


def test_the_protocol_s_second_batch_is_the_package_s_default(load):
    settings, defaults = load("protocol").SECOND_BATCH, AlignmentArguments()
    assert defaults.companion == "auto"  # which is a second batch of these
    assert defaults.alignment == "auto"  # which is conditional for classes
    assert defaults.companion_decay is None  # which is near these: see the next test
    for name in settings.keys() - {"companion", "alignment", "companion_decay"}:
        assert settings[name] == getattr(defaults, name)


def test_what_stands_for_the_default_looks_back_a_quarter_of_the_run(load, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    protocol, against = load("protocol"), load("against")
    for name, condition in protocol.CONDITIONS.items():
        variant = protocol.SLOWER if protocol.SLOWER in condition.further else against.OURS
        decay = protocol.known_variants(name)[variant]["companion_decay"]
        for path in (protocol.RESULTS / name).glob(f"{variant}-5*.json"):
            steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
            assert decay / (1 - decay) == pytest.approx(steps * LAG, rel=0.15), path


def test_the_runs_of_the_default_have_its_name(load, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    against, protocol = load("against"), load("protocol")
    own = against.read_figures(protocol.RESULTS / "settled-tweets")
    shown = against.read_all()["settled-tweets"]
    assert shown[against.OURS]["nll"] == own[protocol.SLOWER]["nll"]
    assert shown[against.FIXED]["nll"] == own[against.OURS]["nll"]
    assert protocol.SLOWER not in shown
    assert against.FIXED not in against.read_all()["few-tweets"]


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


REPORTED = [each for each in sorted(FOLDER.glob("protocol/*-*")) if not each.name.startswith("tuning")]


@pytest.mark.parametrize("folder", REPORTED, ids=lambda folder: folder.name)
def test_each_run_of_the_protocol_is_one_of_the_plan(folder, load):
    protocol, kind = load("protocol"), folder.name.partition("-")[0]
    references = load("against").REFERENCES
    rivals = load("rivals")
    variants = {*protocol.known_variants(folder.name), *rivals.RIVALS.get(kind, ()), *references}
    variants |= {rivals.ALSO_ALIGNED[kind][0]} if kind in rivals.ALSO_ALIGNED else set()
    for path in folder.iterdir():
        run = json.loads(path.read_text(encoding="utf-8"))
        assert run["seed"] in protocol.SEEDS[: protocol.CONDITIONS[folder.name].seeds]
        assert path.name == f"{run['variant']}-{run['seed']}.json"
        assert run["variant"] in variants
        measured = () if run["variant"] in references else ("nll_scaled", "scatter_ratio")
        assert {"accuracy", "f1_macro", "selective_accuracy", *measured} <= set(run["figures"])


@pytest.mark.slow
def test_a_run_that_is_measured_twice_has_the_plain_trainers_figures(load, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    protocol, cells = load("protocol"), load("cells")
    model = save_model(tmp_path / "model", BertModel, BertConfig, pad_token="[PAD]")
    small = {"model_name_or_path": model, "max_predict_samples": 90}
    monkeypatch.setattr(protocol, "COMMON", protocol.COMMON | small)
    monkeypatch.setattr(protocol, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(protocol, "RESULTS", tmp_path / "results")
    tiny = protocol.Condition("20newsgroups", 40, 4.0, 1e-3, harder=protocol.UNKNOWN)
    monkeypatch.setattr(protocol, "CONDITIONS", {"tiny": tiny})
    asked = {name: protocol.VARIANTS[name] for name in ("plain", "averaged")}
    protocol.make(protocol.runs_of("tiny", [501], asked), "tiny")
    assert capsys.readouterr().out == "tiny plain-501 done\n"
    for run in protocol.runs_of("tiny", [501], asked):
        cells.finish(run, tmp_path / "alone" / "tiny", tmp_path / "output" / "alone")
    both, alone = (cells.read_figures(tmp_path / folder / "tiny") for folder in ("results", "alone"))
    timed = ("seconds", "peak_memory")
    for variant in asked:
        figures = [{k: v for k, v in each[variant].items() if k not in timed} for each in (both, alone)]
        assert figures[0] == figures[1]
    assert both["averaged"]["nll"] != both["plain"]["nll"]


def test_runs_beside_each_other_on_a_gpu_leave_their_time_out(load):
    cells, result = load("cells"), {"variant": "plain", "seed": 1, "steps": 2, "trained": 3, "tested": 4, "log": []}
    result["metrics"] = {"accuracy": 0.5, "seconds": 1.0, "peak_memory": 2.0}
    assert json.loads(cells.small(result))["figures"] == result["metrics"]
    shared = json.loads(cells.small(result, "a GPU"))
    assert (shared["device"], shared["figures"]) == ("a GPU", {"accuracy": 0.5})


def test_what_is_compared_was_run_on_one_kind_of_machine():
    for folder in REPORTED:
        devices = {}
        for path in folder.iterdir():
            run = json.loads(path.read_text(encoding="utf-8"))
            if "losses" in run:  # one that trained
                devices.setdefault(run["seed"], set()).add(run.get("device"))
        assert all(len(each) == 1 for each in devices.values()), folder.name


def test_slower_averages_see_no_document_that_is_reported(load, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    longer, protocol, run = load("longer"), load("protocol"), load("run")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run, "OUTPUT", tmp_path)
    for condition, variants in longer.COMPARED.items():
        runs = list(longer.runs(condition))
        assert {each.seed for each in runs} == set(protocol.TUNING_SEEDS)
        assert {each.variant for each in runs} == set(variants)
        parts = [pd.read_csv(runs[0].fields[f"{part}_file"], keep_default_na=False) for part in ("train", "test")]
        known = protocol.read_corpus(protocol.CONDITIONS[condition].corpus)["train"]
        assert sorted(pd.concat(parts).text) == sorted(known.Text)  # of the training split, each on one side
        assert len(parts[1]) == protocol.TESTED


# ---- Which remedy for which data ----


def test_every_rival_of_the_study_builds_its_settings(load, tmp_path, monkeypatch):
    rivals, protocol = load("rivals"), load("protocol")
    monkeypatch.setattr(protocol, "OUTPUT", tmp_path)
    monkeypatch.chdir(ROOT)
    for condition, kind in rivals.SHOWN.items():
        variants = {name: rival.settings(rival.values[0]) for name, rival in rivals.RIVALS[kind].items()}
        runs = list(protocol.runs_of(condition, [501], variants, train_file="documents.csv"))
        assert [run.variant for run in runs] == list(variants)
        for run, rival in zip(runs, rivals.RIVALS[kind].values(), strict=True):
            assert run.trainer_arguments == {rival.setting: rival.values[0]}


def test_the_tuned_values_are_the_rivals_defaults(load):
    rivals = load("rivals")
    for kind, of_kind in rivals.RIVALS.items():
        for name, rival in of_kind.items():
            default = inspect.signature(getattr(package, rival.trainer)).parameters[rival.setting].default
            assert default == rivals.chosen(kind, name)


def test_a_rival_that_is_aligned_too_has_the_settings_of_both(load, tmp_path, monkeypatch):
    rivals, protocol = load("rivals"), load("protocol")
    monkeypatch.setattr(protocol, "OUTPUT", tmp_path)
    monkeypatch.chdir(ROOT)
    runs = protocol.runs_of("thin-r52", [501], rivals.variants_of("thin-r52"), train_file="documents.csv")
    found = {run.variant: run for run in runs}
    aligned, base, default = (found[name] for name in ("second-batch-adjusted", "logit-adjustment", "second-batch"))
    assert aligned.trainer_arguments == base.trainer_arguments == {"strength": 1.0}
    assert aligned.fields == default.fields
    bases = [each.__name__ for each in load_trainer(aligned.trainer).__mro__]
    assert bases.index("ITRAMixin") < bases.index("LogitAdjustedTrainer")


def test_the_plan_of_the_rivals_names_their_settings_and_values(load):
    plan = (FOLDER / "rivals.md").read_text(encoding="utf-8")
    for kind in load("rivals").RIVALS.values():
        for rival in kind.values():
            values = ", ".join(f"{value:g}" for value in rival.values)
            assert f"| `{rival.setting}` | {values} |" in plan


def test_a_rival_runs_with_the_value_that_was_best_in_the_mean(load, tmp_path, monkeypatch):
    rivals = load("rivals")
    monkeypatch.setattr(rivals, "TUNING", tmp_path)
    (tmp_path / "noise").mkdir()
    assert rivals.chosen("noise", "generalised") is None
    for value, accuracies in ((0.2, (0.5, 0.6, 0.5)), (0.5, (0.4, 0.9, 0.5)), (0.7, (0.6, 0.5, 0.5))):
        for seed, accuracy in zip(rivals.TUNING_SEEDS, accuracies, strict=True):
            run = {"variant": f"generalised-{value:g}", "seed": seed, "figures": {"accuracy": accuracy}}
            (tmp_path / "noise" / f"generalised-{value:g}-{seed}.json").write_text(json.dumps(run), encoding="utf-8")
    assert rivals.chosen("noise", "generalised") == 0.5
    assert rivals.variants_of("noise-r52")["generalised"]["trainer_arguments"] == {"q": 0.5}
    assert "small-loss" not in rivals.variants_of("noise-r52")


def test_time_is_told_by_the_runs_that_are_made_for_it(load, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    rivals, remedies, protocol = load("rivals"), load("remedies"), load("protocol")
    monkeypatch.setattr(remedies, "TIMES", tmp_path)
    for kind, seconds in {
        "few": {"plain": 10.0, "memory": 11.0},
        "noise": {"plain": 20.0, "generalised": 30.0},
    }.items():
        (tmp_path / kind).mkdir()
        for variant, each in seconds.items():
            run = {"variant": variant, "seed": 401, "figures": {"seconds": each}}
            (tmp_path / kind / f"{variant}-401.json").write_text(json.dumps(run), encoding="utf-8")
    assert [remedies.time_ratio("noise", each) for each in ("memory", "generalised")] == [1.1, 1.5]
    assert remedies.time_ratio("noise", "small-loss") is None
    monkeypatch.setattr(protocol, "OUTPUT", tmp_path)
    monkeypatch.setattr(rivals, "held_out", lambda corpus: {"train_file": "documents.csv"})
    monkeypatch.chdir(ROOT)
    assert {run.variant for run in rivals.timed_runs("few")} >= set(protocol.VARIANTS)
    assert "smoothing" not in {run.variant for run in rivals.timed_runs("noise")}


# ---- The tables against what costs nothing ----


def write_runs(folder, figures):
    """Runs' files, from `{condition: {variant: {measure: [a value a seed]}}}`."""
    for condition, variants in figures.items():
        (folder / "protocol" / condition).mkdir(parents=True)
        for variant, measures in variants.items():
            for place, seed in enumerate(range(501, 501 + len(next(iter(measures.values()))))):
                run = {"variant": variant, "seed": seed, "figures": {name: v[place] for name, v in measures.items()}}
                path = folder / "protocol" / condition / f"{variant}-{seed}.json"
                path.write_text(json.dumps(run), encoding="utf-8")


def planted(gain, scores):
    """Figures of five seeds in which the default betters each measure by `gain`, give or take."""
    wave = [0.0, 0.002, -0.002, 0.001, -0.001]
    lower = ("nll", "nll_scaled", "calibration_error", "calibration_error_scaled", "scatter_ratio")
    higher = ("accuracy", "f1_macro", "selective_accuracy", "error_auroc", *scores)
    found = {}
    for variant, share in (("plain", 0.0), ("smoothing", 0.2), ("second-batch", 1.0), ("memory", 0.9)):
        found[variant] = {name: [0.5 + gain * share + each * (1 + share / 100) for each in wave] for name in higher}
        found[variant]["seconds"] = [10.0 + each for each in wave]
        found[variant] |= {name: [0.5 - gain * share + each * (1 + share) for each in wave] for name in lower}
    return found


@pytest.mark.parametrize(("gain", "met"), [(0.05, [True] * 6), (0.0, [True] + [False] * 5), (-0.05, [False] * 6)])
def test_goals_are_met_where_the_planted_gain_is_there(gain, met, load, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    against = load("against")
    names = [f"{kind}-{corpus}" for kind in ("few", "noise", "short") for corpus in ("20newsgroups", "r52", "tweets")]
    scores = dict.fromkeys(names[:2], (*against.SCORES, "new_classes_5"))
    write_runs(tmp_path, {name: planted(gain, scores.get(name, ())) for name in names})
    monkeypatch.setattr(against, "best_scores", lambda: dict.fromkeys(("plain", *against.TUNED_AS), "unknown_energy"))
    monkeypatch.setattr(against, "FOLDER", tmp_path)
    monkeypatch.setattr(against, "PICTURE", tmp_path / "against.png")
    remedies = load("remedies")
    monkeypatch.setattr(remedies, "PICTURE", tmp_path / "remedies.png")
    conditions = against.read_conditions()
    assert list(conditions) == names
    assert [goal.met for goal in load("goals").goals(conditions)] == met
    rows = against.table(conditions, against.MEASURES["accuracy"]).splitlines()[2:]
    cells = [each.strip(" *") for each in rows[0].split("|")]
    assert cells[1:4] == ["20 newsgroups, 200", "5", "50.00 %"]
    assert cells[5].replace("-0.00", "+0.00").startswith(f"{100 * gain:+.2f} ± 0.00")
    assert len(rows) == len(names)
    together = against.grouped(conditions, against.BRIEF).splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in together] == [name for name in against.GROUPS for _ in range(3)]
    assert "| ITRA, second batch | " in together[1]
    assert f"{100 * gain:+.2f} ± 0.00" in together[1].replace("-0.00", "+0.00")
    for name, measures in against.SECTIONS.items():
        assert against.section(conditions, name).count("| training documents |") == len(measures)
    noise = remedies.table(conditions, "noise").replace("*", "").replace("-0.00", "+0.00")
    assert f"| label smoothing | 5 | {100 * gain / 5:+.2f} ± 0.00" in noise
    for each, picture in ((against, "against.png"), (remedies, "remedies.png")):
        each.draw(conditions)
        assert (tmp_path / picture).stat().st_size > 10_000


def test_advice_names_what_helped_on_both_corpora(load, tmp_path, monkeypatch):
    against, remedies = load("against"), load("remedies")
    runs = {f"{kind}-{corpus}": planted(0.05, ()) for kind in ("few", "noise") for corpus in remedies.BOTH}
    # Harm on one corpus, and no gain on the other.
    runs["noise-r52"]["memory"] = runs["noise-r52"]["plain"]
    runs["noise-20newsgroups"]["memory"] = planted(-0.05, ())["memory"]
    runs["noise-r52"]["smoothing"] = runs["noise-r52"]["plain"]
    del runs["few-r52"]
    write_runs(tmp_path, runs)
    monkeypatch.setattr(against, "best_scores", lambda: dict.fromkeys(("plain", *against.TUNED_AS), "unknown_energy"))
    monkeypatch.setattr(against, "FOLDER", tmp_path)
    rows = [
        [each.strip() for each in row.strip("|").split("|")][:-1]
        for row in remedies.advice(against.read_conditions()).splitlines()[2:]
    ]
    assert rows == [
        ["200 documents", "", "", ""],
        ["a fifth of the labels wrong", "ITRA, second batch", "label smoothing", "ITRA, memory"],
        ["classes thinned out to 1/20", "", "", ""],
    ]
    missing = remedies.advice(against.read_conditions()).splitlines()[3].rpartition(" | ")[2]
    assert missing == "averaged weights; generalised cross-entropy; small-loss selection |"


def test_how_much_of_the_plan_is_run_is_said(load, tmp_path, monkeypatch):
    against = load("against")
    write_runs(tmp_path, {name: planted(0.05, ()) for name in ("few-tweets", "noise-r52", "few-r8")})
    monkeypatch.setattr(against, "FOLDER", tmp_path)
    monkeypatch.setattr(against, "best_scores", lambda: dict.fromkeys(("plain", *against.TUNED_AS), "unknown_energy"))
    text = load("goals").progress(against.read_conditions())
    assert text.startswith("Conditions are shown from 5 seeds on: 3 of the plan's 15 so far.")
    assert "R8, 200 (5 of 20); tweets, 200 (5 of 20); R52, 200, a fifth of the labels wrong (5 of 20)." in text
    assert "Not run: 20 newsgroups, 200; R52, 200; 20 newsgroups, 200, a fifth" in text


def test_the_page_has_the_tables_against_what_costs_nothing(load, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    show = load("show")
    page = show.AGAINST.read_text(encoding="utf-8")
    monkeypatch.setattr(show, "AGAINST", tmp_path / "against.md")
    monkeypatch.setattr(show.against, "PICTURE", tmp_path / "against.png")
    show.AGAINST.write_text(page, encoding="utf-8")
    readme = show.README.read_text(encoding="utf-8")
    monkeypatch.setattr(show, "README", tmp_path / "README.md")
    show.README.write_text(readme, encoding="utf-8")
    monkeypatch.setattr(show.remedies, "PICTURE", tmp_path / "remedies.png")
    guide = show.GUIDE.read_text(encoding="utf-8")
    monkeypatch.setattr(show, "GUIDE", tmp_path / "rivals.md")
    show.GUIDE.write_text(guide, encoding="utf-8")
    show.renew_against()
    assert show.GUIDE.read_text(encoding="utf-8") == guide
    assert show.AGAINST.read_text(encoding="utf-8") == page
    assert show.README.read_text(encoding="utf-8") == readme


def test_the_best_scores_are_read_from_the_runs_that_are_not_reported(load):
    against = load("against")
    best = against.best_scores()
    assert set(best.values()) <= set(against.SCORES)
    figures = load("cells").read_figures(FOLDER / "mechanism" / against.TUNED_ON)["plain"]
    means = {name: sum(figures[name].values()) for name in against.SCORES}
    assert best["plain"] == max(means, key=means.get)
