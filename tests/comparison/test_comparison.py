"""`itra-hf compare` from end to end, on a tiny model: real processes, deaths, what is run again and what is not."""

import contextlib
import io
import json
import multiprocessing
import os
import signal
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import examples, write, write_config
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, set_seed

from itra_hf.cli import main, parse_comparison
from itra_hf.comparison import schedule
from itra_hf.comparison.assessment import negative_log_likelihood
from itra_hf.comparison.run import build
from itra_hf.comparison.variants import PLAIN, TWICE

pytestmark = pytest.mark.slow
TWINS = ("<b>one</b> | $x$", "twin/../two")
SETTINGS = {"learning_rate": "1e-4", "num_train_epochs": 2, "per_device_train_batch_size": 8, "max_seq_length": 16}

# Trainers of the user's own. What the runs leave in their folders is what the tests look at.
TRAINERS = """
import json, os, signal
from pathlib import Path
import torch
from transformers import Trainer
from itra_hf import ITRAMixin

class Recording(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []
    def compute_loss(self, model, inputs, *args, **kwargs):
        if model.training:
            self.seen.append([inputs["input_ids"].tolist(), inputs["labels"].tolist()])
            facts = {"seen": self.seen, "threads": torch.get_num_threads()}
            (Path(self.args.output_dir).parent / "seen.json").write_text(json.dumps(facts))
        return super().compute_loss(model, inputs, *args, **kwargs)

class RecordingITRA(ITRAMixin, Recording):
    pass

class Fast(Trainer):
    def __init__(self, *args, **kwargs):
        kwargs["args"].learning_rate, kwargs["args"].num_train_epochs = 1e-2, 15
        super().__init__(*args, **kwargs)

class Deadly(Trainer):
    def train(self, *args, **kwargs):
        if self.args.seed == 2 and not Path("healed").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.args.seed == 3 and not Path("healed").exists():
            raise ArithmeticError("two\\nlines")
        return super().train(*args, **kwargs)
"""


def command(*arguments):
    """What the command prints, and its exit status."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main(["compare", *arguments])
            status = 0
        except SystemExit as stop:
            status = stop.code
    return SimpleNamespace(out=out.getvalue(), error=error.getvalue(), status=status)


def snapshot(folder):
    """Every result's content and time of change, by run."""
    return {
        path.parent.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("runs/*/result.json")
    }


def figures(report, variant, measure):
    return report["sizes"][0]["figures"][variant][measure]


@pytest.fixture(scope="module")
def study(model_folder, tmp_path_factory):
    """A study run once with deaths in it and once again, in a folder with a space, by relative paths."""
    folder = tmp_path_factory.mktemp("a study")
    (folder / "my trainers.py").write_text(TRAINERS)
    write(folder, "train.csv", examples(60, 0))
    write(folder, "test.csv", examples(30, 1))
    variants = {
        **{name: {"matching_weight": 0.5} for name in TWINS},
        "fast": {"trainer": "my trainers.py:Fast"},
        "deadly": {"trainer": "my trainers.py:Deadly"},
        "recorded": {"trainer": "my trainers.py:Recording"},
        "recorded ITRA": {"trainer": "my trainers.py:RecordingITRA"},
    }
    fields = {
        **SETTINGS,
        "companion": "sample",
        "companion_decay": 0.0,
        "max_steps": -1,
        "seeds": "[1, 2, 3]",
        "processes": 2,
        "metric": "nll",
        "token": "hf_secret",
    }
    config = write_config(
        folder, model_folder, train_file="train.csv", test_file="test.csv", variants=json.dumps(variants), **fields
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(schedule.torch, "get_num_threads", lambda: 2)
        first = command(config)
        report = json.loads((folder / "out" / "comparison.json").read_text())
        before = snapshot(folder / "out")
        (folder / "healed").touch()
        second = command(config)
        plan = parse_comparison([config])
        keys = {(run.variant, run.seed): run.key for run in plan.runs()}
    last = json.loads((folder / "out" / "comparison.json").read_text())
    return SimpleNamespace(
        folder=folder, plan=plan, keys=keys, first=first, second=second, report=report, last=last, before=before
    )


# ---- Deaths and second starts ----


def test_runs_that_die_are_reported_and_the_others_go_on(study):
    assert study.first.status == 1
    assert len(study.before) == 8 * 3 - 2
    killed, raised = (study.report["failed"][study.keys["deadly", seed]] for seed in (2, 3))
    assert "was killed by signal 9" in killed
    assert raised == "ArithmeticError: two lines"
    assert f"Failed: {study.keys['deadly', 3]}: ArithmeticError: two lines" in study.first.out
    assert "2 of the planned runs have no result" in study.first.out
    assert list(figures(study.report, "deadly", "nll")) == ["1"]


def test_the_same_command_runs_those_alone(study):
    assert study.second.status == 0
    after = snapshot(study.folder / "out")
    assert {key: after[key] for key in study.before} == study.before
    assert set(after) - set(study.before) == {study.keys["deadly", 2], study.keys["deadly", 3]}
    assert study.last["failed"] == {}
    assert study.last["missing"] == 0
    assert not list(study.folder.glob("out/runs/*/error.txt"))


def test_nothing_but_whole_results_and_the_page_stay(study):
    assert [path.name for path in study.folder.rglob("out/**/.*") if path.is_file()] in ([], [".lock"])
    assert not list(study.folder.glob("out/runs/*/trainer"))
    assert {path.name for path in (study.folder / "out").iterdir()} - {".lock"} == {
        "runs",
        "comparison.html",
        "comparison.json",
        "comparison.md",
    }


def test_a_progress_bar_counts_what_is_left(study):
    assert "24/24" in study.first.error
    assert "2/2" in study.second.error
    assert "deadly, seed 2 failed: the process was killed" in study.first.out


def test_no_file_holds_the_token(study):
    files = [path for path in study.folder.rglob("out/**/*") if path.is_file()]
    assert len(files) > 24
    assert [path for path in files if b"hf_secret" in path.read_bytes()] == []


# ---- Fairness ----


def test_twins_under_two_names_differ_by_exactly_nothing(study):
    for metric in ("accuracy", "nll", "brier_score", "scatter_ratio"):
        one, two = (figures(study.last, name, metric) for name in TWINS)
        assert one == two
    verdicts = study.last["sizes"][0]["verdicts"]
    assert verdicts[TWINS[0]].split(": ", 1)[1] == verdicts[TWINS[1]].split(": ", 1)[1]
    # A subclass that only looks on is the plain Trainer's twin.
    assert figures(study.last, "recorded", "nll") == figures(study.last, PLAIN, "nll")
    assert "recorded: no difference shown to Trainer" in study.second.out
    assert "interval +0.0000 to +0.0000, 0 wins and 0 losses in 3 seeds" in verdicts["recorded"]


def test_a_planted_gain_is_found(study):
    assert "fast: better than Trainer" in study.second.out
    assert "3 wins and 0 losses" in study.last["sizes"][0]["verdicts"]["fast"]
    assert f"better than {TWICE['batch']}" not in study.last["sizes"][0]["verdicts"]["fast"]


def test_paired_runs_see_the_same_examples_in_the_same_order(study):
    facts = {
        name: json.loads((study.folder / "out" / "runs" / key / "seen.json").read_text())
        for name, key in study.keys.items()
        if name[0].startswith("recorded")
    }
    for seed in (1, 2, 3):
        assert facts["recorded", seed]["seen"] == facts["recorded ITRA", seed]["seen"]
    assert facts["recorded", 1]["seen"] != facts["recorded", 2]["seen"]
    assert {each["threads"] for each in facts.values()} == {1}  # 2 in all, for 2 processes


def test_equal_compute_takes_twice_the_batch_in_as_many_steps(study):
    steps = study.last["steps"]
    assert {name: each for name, each in steps.items() if each != 14} == {"fast": 105}  # of 54 examples, 8 at a time


def test_the_plain_run_of_equal_compute_has_twice_the_batch_and_the_others_have_not(study, monkeypatch, tmp_path):
    monkeypatch.chdir(study.folder)
    sizes = {run.variant: build(run, tmp_path)[0].args.per_device_train_batch_size for run in study.plan.runs()}
    assert {name for name, size in sizes.items() if size == 16} == {TWICE["batch"]}
    assert {size for name, size in sizes.items() if name != TWICE["batch"]} == {8}


def test_the_plain_run_is_a_hand_written_trainer_bit_for_bit(study, monkeypatch, tmp_path, request):
    monkeypatch.chdir(study.folder)
    run = next(run for run in study.plan.runs() if (run.variant, run.seed) == (PLAIN, 2))
    prepared, tested, task, _ = build(run, tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    set_seed(2)
    labels = {"num_labels": 3, "problem_type": "single_label_classification"}
    own = AutoModelForSequenceClassification.from_pretrained(run.fields["model_name_or_path"], **labels)
    args = TrainingArguments(
        str(tmp_path / "own"), num_train_epochs=2, learning_rate=1e-4, seed=2, use_cpu=True, save_strategy="no"
    )
    trainer = Trainer(own, args, train_dataset=prepared.train_dataset, processing_class=prepared.processing_class)
    trainer.train()
    predicted = trainer.predict(tested)
    logits = predicted.predictions.astype(np.float64)
    nll = negative_log_likelihood(logits, predicted.label_ids, task.problem_type)
    assert figures(study.last, PLAIN, "nll")["2"] == nll
    assert figures(study.last, PLAIN, "accuracy")["2"] == (logits.argmax(-1) == predicted.label_ids).mean()


def test_the_reports_are_there_and_the_names_in_them_escaped(study):
    page = (study.folder / "out" / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "<b>" not in page
    assert "&lt;b&gt;one&lt;/b&gt; | $x$" in page
    assert "| &lt;b>one&lt;/b> \\| $x$ |" in (study.folder / "out" / "comparison.md").read_text().replace("\\$", "$")


# ---- Interrupts ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_runs_in_progress_and_says_how_to_go_on(number, study, monkeypatch, request):
    for each in (signal.SIGINT, signal.SIGTERM):  # a job in the background starts with SIGINT ignored
        request.addfinalizer(partial(signal.signal, each, signal.getsignal(each)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.chdir(study.folder)
    monkeypatch.setattr(schedule.time, "sleep", lambda seconds: os.kill(os.getpid(), number))
    before = snapshot(study.folder / "out")
    stopped = command("config.yaml", "--seeds", "1", "2", "3", "4")
    assert stopped.status not in (0, 1)
    assert "the same command goes on from there" in stopped.error
    assert multiprocessing.active_children() == []
    assert snapshot(study.folder / "out") == before
