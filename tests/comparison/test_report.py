"""The reports of a comparison: verdicts, tables, JSON, Markdown and a page that loads and runs nothing."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from studies import build_plan, result, study

from itra_hf.comparison import pictures, report
from itra_hf.comparison.assessment import FEATURES
from itra_hf.comparison.plan import ComparisonArguments, make_plan
from itra_hf.comparison.report import write_reports
from itra_hf.comparison.summary import Comparison, read_results
from itra_hf.comparison.variants import PLAIN, TWICE

SPLIT = {"companion": "split", "companion_decay": None}  # with the default again
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{7*7}} {% raw %}",
    "a | b || c",
    "`code` *b* _i_",
    "$x$ $\\frac{",
    "[l](javascript:alert(1)) ![i](x)",
    "&lt;b&gt; &amp; <!-- -->",
    "two\nlines",
    "</td></table></style>",
]
PARTS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "img", "details", "summary", "footer"}
TABLE = {"table", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A study in which every name is hostile, and its three reports."""
    folder = tmp_path_factory.mktemp("study") / '<b>"$x$ `{{7*7}}`'
    plan = build_plan(folder, {name: {} for name in HOSTILE}, token="hf_secret", hub_token="hf_hidden")
    comparison, results = study(plan, failed={"run-1": f"ValueError: {HOSTILE[0]}"})
    for variant, seed in ((each["variant"], each["seed"]) for each in results if each["seed"] == 1):
        run = folder / "runs" / f"{HOSTILE.index(variant) if variant in HOSTILE else 'plain'}-{seed}"
        run.mkdir(parents=True, exist_ok=True)
        points = np.random.default_rng(0).normal(size=(40, 4))
        np.savez(run / FEATURES, features=points, labels=np.arange(40) % 11, names=np.array(HOSTILE))
        next(e for e in results if e["variant"] == variant and e["seed"] == 1)["key"] = run.name
    write_reports(comparison, f"{folder.name}: does alignment help?")
    return {path.suffix[1:]: path.read_text(encoding="utf-8") for path in folder.glob("comparison.*")}


# ---- What data may not do ----


def test_the_page_loads_nothing_and_runs_nothing(reports):
    page = Page(reports["html"])
    assert {tag for tag, _ in page.tags} <= PARTS | TABLE | {"div"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "href"]
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    policy = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")
    assert "http" not in reports["html"].replace("http-equiv", "")


def test_the_page_shows_hostile_names_as_they_are(reports):
    text = Page(reports["html"]).text
    for name in HOSTILE:
        assert name in text
    assert '<b>"$x$ `{{7*7}}`: does alignment help?' in text
    assert "49" not in text.replace("alert", "")


def test_markdown_shows_hostile_names_as_they_are(reports):
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    page = Page(parser.render(reports["md"]))
    assert {tag for tag, _ in page.tags} <= TABLE | {"h1", "h2", "ul", "li"}
    for name in HOSTILE:
        assert " ".join(name.split()) in page.text
    rows = [line for line in reports["md"].splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6, 9}


def test_dollars_are_no_formulas_in_markdown(reports):
    """GitHub renders what stands between dollars."""
    assert "$x$" not in reports["md"]


def test_tildes_strike_nothing_out_in_markdown():
    """GitHub does that to what stands between two of them."""
    assert "~~s~~" not in report.markdown_table([["~~s~~"]])


def test_no_report_holds_a_secret(reports):
    assert [kind for kind, text in reports.items() if "hf_secret" in text or "hf_hidden" in text] == []


def test_the_json_is_strict_and_complete(reports):
    values = json.loads(reports["json"], parse_constant=lambda name: pytest.fail(name))
    assert set(values["sizes"][0]["figures"]) == {PLAIN, TWICE["batch"], *HOSTILE}
    found = [each for each in values["sizes"][0]["differences"] if each["variant"] == HOSTILE[0]]
    assert {(each["baseline"], each["measure"]) for each in found} == {
        (baseline, measure) for baseline in (PLAIN, TWICE["batch"]) for measure in ("accuracy", "nll")
    }
    assert found[0]["each"] == pytest.approx({"1": 0.01999, "2": 0.02, "3": 0.02001})


# ---- Verdicts and tables ----


def test_the_verdict_is_one_sentence_with_difference_interval_and_wins(tmp_path):
    plan = build_plan(tmp_path, {"new": {}})
    gains = {PLAIN: (0, 0, 0), TWICE["batch"]: (0.011, -0.01, 0.01), "new": (0.02, 0.03, 0.025)}
    results = [result(name, seed, accuracy=0.8 + gains[name][seed - 1]) for name in gains for seed in (1, 2, 3)]
    (size,) = Comparison(plan, results, {}).sizes
    assert size.verdicts == {
        "new": "new: better than Trainer (accuracy +2.50 points, 95 % interval +1.26 to +3.74, 3 wins and 0 losses in "
        "3 seeds); no difference shown to Trainer, twice the batch (accuracy +2.13 points, 95 % interval -1.95 to "
        "+6.22, 3 wins and 0 losses in 3 seeds)."
    }


def test_the_verdict_knows_worse_one_seed_and_nothing(tmp_path):
    plan = build_plan(tmp_path, {"new": SPLIT})
    results = [result(name, 1, accuracy=value) for name, value in ((PLAIN, 0.8), ("new", 0.7))]
    assert "one seed, which tells nothing" in Comparison(plan, results, {}).sizes[0].verdicts["new"]
    results += [result(name, 2, accuracy=value) for name, value in ((PLAIN, 0.81), ("new", 0.712))]
    assert "new: worse than Trainer" in Comparison(plan, results, {}).sizes[0].verdicts["new"]
    told = Comparison(plan, results[:1], {}).sizes[0].verdicts["new"]
    assert told.startswith("new: nothing to compare yet. Runs are missing")


def test_a_gain_in_a_measure_that_falls_is_better(tmp_path):
    plan = build_plan(tmp_path, {"new": SPLIT})._replace(args=ComparisonArguments(metric="nll"))
    values = {PLAIN: (0.5, 0.52, 0.51), "new": (0.4, 0.41, 0.42)}
    results = [result(name, seed, nll=each) for name in values for seed, each in enumerate(values[name])]
    assert (
        "better than Trainer (negative log-likelihood -0.1000" in Comparison(plan, results, {}).sizes[0].verdicts["new"]
    )


def test_figures_that_are_not_finite_count_as_missing(tmp_path):
    plan = build_plan(tmp_path, {"new": SPLIT})
    results = [result(name, seed, accuracy=0.8, nll=None) for name in (PLAIN, "new") for seed in (1, 2, 3)]
    comparison = Comparison(plan, results, {})
    assert [measure.name for measure in comparison.measures] == ["accuracy"]
    assert comparison.sizes[0].differences["new", PLAIN, "accuracy"].verdict == "no difference shown"


def test_a_run_that_diverges_is_missing_from_the_verdict_and_the_verdict_says_so(tmp_path):
    plan = build_plan(tmp_path, {"new": SPLIT})
    results = [
        result(name, seed, accuracy=None if (name, seed) == ("new", 2) else 0.8)
        for name in (PLAIN, "new")
        for seed in (1, 2, 3)
    ]
    verdict = Comparison(plan, results, {}).sizes[0].verdicts["new"]
    assert "0 wins and 0 losses in 2 seeds" in verdict
    assert "not finite: new has 2 of 3." in verdict


def test_a_measure_that_no_run_has_gives_way_to_the_usual_one_and_the_reports_say_so(tmp_path):
    args = ComparisonArguments(metric="new_classes_5", unknown_classes=2, seeds=[1, 2, 3])
    plan = build_plan(tmp_path, {"new": {}})._replace(args=args)
    comparison = Comparison(plan, study(plan)[1], {})
    write_reports(comparison, "title")
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8").replace("\\", "")
    assert 'No run has "new_classes_5" (too few examples of a class, perhaps), so the verdicts go by accuracy.' in text
    assert "new: better than Trainer (accuracy +2.00 points" in text


def test_the_means_table_counts_seeds_and_steps_of_its_own_size(tmp_path):
    plan = build_plan(tmp_path, {"new": SPLIT}, sizes=(100, 300))
    results = [result(run.variant, run.seed, run.train_samples, run.train_samples // 10, nll=1) for run in plan.runs()]
    comparison = Comparison(
        plan._replace(args=ComparisonArguments(metric="nll", max_train_samples=[100, 300])), results, {}
    )
    small, large = (report.figure_rows(comparison, size)[1] for size in comparison.sizes)
    assert small == [PLAIN, "3", "10", "1.0000"]
    assert large == [PLAIN, "3", "30", "1.0000"]


def test_a_study_cut_short_says_what_is_missing_and_what_failed(tmp_path):
    plan = build_plan(tmp_path, {"new": {}})
    results = [each for each in study(plan)[1] if each["seed"] == 1]
    notes = report.notes(Comparison(plan, results, {"new-2": "RuntimeError: no"}))
    assert "Failed: new-2: RuntimeError: no" in notes
    assert "6 of the planned runs have no result; the same command runs those alone." in notes


def test_the_verdict_says_where_runs_failed(tmp_path):
    """Seeds that diverge are no chance: leaving them out makes a variant look better than it is."""
    plan = build_plan(tmp_path, {"new": SPLIT})
    results = [each for each in study(plan)[1] if (each["variant"], each["seed"]) != ("new", 3)]
    failed = {"new-all-seed3": "FloatingPointError: the loss is NaN"}
    assert "new has 2 of 3." in Comparison(plan, results, failed).sizes[0].verdicts["new"]


def test_a_variant_may_not_pass_for_a_baseline(tmp_path):
    for name in (PLAIN, *TWICE.values()):  # though no run of that name is planned
        with pytest.raises(ValueError, match="is taken"):
            build_plan(tmp_path, {name: SPLIT})


def test_the_terminal_shows_half_widths_and_a_header_for_each_size(tmp_path):
    plan = build_plan(tmp_path, {"new": SPLIT}, sizes=(100, 300))
    text = report.terminal(study(plan)[0])
    assert "100 training examples, differences to Trainer" in text
    assert "+2.00 ±0.00" in text
    many = {f"variant number {number} of many": {"matching_weight": number / 10} for number in range(9)}
    table, _, _ = report.terminal(study(build_plan(tmp_path, many))[0]).partition("variant number 0 of many: ")
    assert max(map(len, table.splitlines())) <= 120
    assert text.count("new: better than Trainer") == 2


def test_a_study_without_results_reads_none(tmp_path):
    assert read_results(list(build_plan(tmp_path, {"new": {}}).runs()), tmp_path) == []


# ---- What the data could not give ----


def test_a_size_that_the_data_do_not_reach_is_named_by_what_there_was(tmp_path):
    comparison, _ = study(build_plan(tmp_path, None, sizes=[500, 1000]))
    assert [size.title for size in comparison.sizes] == [
        "500 training examples",
        "900 training examples (1,000 were asked for)",
    ]


def test_a_size_that_is_smaller_for_the_temperature_says_so_and_is_drawn_where_it_is(tmp_path):
    plan = build_plan(tmp_path, None, sizes=[1000, 3000])
    plan = plan._replace(args=replace(plan.args, temperature_share=0.1))
    results = [each | {"trained": each["train_samples"] * 9 // 10} for each in study(plan)[1]]
    comparison = Comparison(plan, results, {})
    assert comparison.sizes[0].title == "900 training examples (1,000 with those for the temperature)"
    assert list(pictures.size_curves(comparison).axes[0].get_xticks()) == [900, 2700]


def test_losses_of_another_kind_are_told(tmp_path):
    notes = " ".join(report.notes(study(build_plan(tmp_path, {"new": {}}))[0]))
    assert "another kind" not in notes
    rival = {"trainer": "itra_hf.comparison.rivals:TransportTrainer"}
    notes = " ".join(report.notes(study(build_plan(tmp_path, {"new": {}, "OT": rival}))[0]))
    assert "The training losses of OT may be of another kind" in notes
    smoothed = {"smoothed": {"label_smoothing_factor": 0.1}}
    notes = " ".join(report.notes(study(build_plan(tmp_path, {"new": {}, **smoothed}))[0]))
    assert "The training losses of smoothed may be of another kind" in notes


def test_a_verdict_by_the_validation_split_says_so(tmp_path):
    plan = build_plan(tmp_path, None)
    _, results = study(plan)
    assert "flatter" not in " ".join(report.notes(Comparison(plan, results, {})))
    told = " ".join(report.notes(Comparison(plan, [each | {"tested_on": "validation"} for each in results], {})))
    assert "1,200 examples of the validation split" in told
    assert "flatter" in told


def test_spoiled_data_are_told_in_every_report(tmp_path):
    args = ComparisonArguments(seeds=[1, 2, 3], label_noise=0.2, class_imbalance=20, temperature_share=0.1)
    plan = make_plan(args, {"model_name_or_path": "m", "train_file": "x.csv", "use_cpu": True}, None, str(tmp_path))
    comparison, _ = study(plan)
    write_reports(comparison, "title")
    for name in ("comparison.md", "comparison.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "20 % of the labels replaced by wrong ones" in text.replace("\\", "")
        assert "fall to 1 in 20" in text
        assert "The examples that temperatures are fitted on are spoiled alike." in text
    assert json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["arguments"]["label_noise"] == 0.2


@pytest.mark.parametrize(("count", "told"), [(1, "1 class was left out of training"), (5, "5 classes were left out")])
def test_classes_left_out_are_told_in_every_report_with_their_measures(count, told, tmp_path):
    args = ComparisonArguments(seeds=[1, 2, 3], unknown_classes=count, metric="unknown_energy")
    plan = make_plan(args, {"model_name_or_path": "m", "train_file": "x.csv", "use_cpu": True}, None, str(tmp_path))
    results = [
        result(
            run.variant,
            run.seed,
            accuracy=0.8,
            unknown_energy=0.7 + run.seed / 100 + (0.1 + (run.seed - 2) * 1e-5) * (run.trainer != PLAIN),
        )
        for run in plan.runs()
    ]
    comparison = Comparison(plan, results, {})
    write_reports(comparison, "title")
    for name in ("comparison.md", "comparison.html"):
        text = (tmp_path / name).read_text(encoding="utf-8").replace("\\", "")
        assert told in text
        assert "better than Trainer (unknown classes by energy, AUROC +10.00 points" in text
    assert told in report.terminal(comparison)
    assert "left out" not in " ".join(report.notes(study(build_plan(tmp_path, None))[0]))
