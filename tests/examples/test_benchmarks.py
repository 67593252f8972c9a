"""The benchmark of the matching loss, on little, and the command that runs benchmarks by name."""

import subprocess
import sys

import pytest
import torch
from places import EXAMPLES, ROOT, import_from
from transformers import BertConfig, BertForSequenceClassification

FOLDER = EXAMPLES / "benchmarks"
TINY = ["--n", "16", "8", "--dim", "4", "--rounds", "1", "--device", "cpu", "--no_memory"]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def load():
    return lambda name: import_from(name, FOLDER)


@pytest.fixture(scope="module")
def matching(load):
    return load("matching")


def run(*arguments):
    command = [sys.executable, "-m", "examples.benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_matching_has_all_rows_at_each_size(matching, capsys):
    results, differences = matching.main(TINY)
    printed = capsys.readouterr().out
    names, lines = matching.installed_rows()
    assert [(result.n, result.name) for result in results] == [(n, name) for n in (8, 16) for name in names]
    assert all(result.seconds > 0 and result.ratio > 0 and result.left_out is None for result in results)
    assert [result.ratio for result in results if result.name == matching.GRAM] == [1.0, 1.0]
    assert {name for name in names if matching.ROWS[name].reference} == set(differences)
    assert len(names) + len(lines) == len(matching.ROWS)
    assert all(line in printed for line in lines)
    assert "ms by n" in printed


def test_a_missing_library_is_left_out_with_how_to_install_it(matching, monkeypatch, capsys):
    monkeypatch.setitem(matching.ROWS, "GeomLoss", matching.ROWS["GeomLoss"]._replace(needs="no_such_library"))
    results, _ = matching.main(TINY)
    assert "GeomLoss" not in {result.name for result in results}
    assert 'itra_hf[benchmarks]"' in capsys.readouterr().out


def test_a_loss_that_disagrees_is_not_timed(matching, monkeypatch):
    twice = matching.ROWS["broadcasting"]._replace(
        build=lambda batches: lambda x, y: 2 * matching.broadcast_mmd(x, y, batches.bandwidth)
    )
    monkeypatch.setitem(matching.ROWS, "broadcasting", twice)
    with pytest.raises(ValueError, match=r"broadcasting differs from the reference by 1\.0e\+00"):
        matching.main(TINY)


def test_what_takes_too_much_memory_or_time_is_left_out_with_the_reason(matching, capsys):
    results, _ = matching.main([*TINY, "--dim", "64", "--max_bytes", "90000", "--max_seconds", "0"])
    reasons = {(result.name, result.n): result.left_out for result in results}
    assert "of memory" in reasons["broadcasting", 8]
    assert "s a call" in reasons["marginal", 16]
    assert all(reason is None for (name, _), reason in reasons.items() if name == matching.GRAM)
    assert "- broadcasting would take" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't say what the peak was since")
def test_memory_added_is_the_peak_above_what_was_there(matching):
    there = torch.ones(20_000_000)
    added = matching.bytes_added(lambda: [torch.ones(10_000_000).add(1).sum() for _ in range(3)], "cpu")
    assert added == pytest.approx(80e6, rel=0.2)
    del there


def test_list_has_each_benchmark_with_its_first_line():
    done = run()
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(lines) == {path.stem for path in FOLDER.glob("[!_]*.py")}
    assert {"matching", "reporting", "startup", "step_time"} <= set(lines)


def test_a_benchmark_runs_by_name_with_its_memory_measured_in_a_process():
    done = run("matching", "--peak_of", "broadcasting", "--n", "64", "--dim", "256", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert 64 * 64 * 256 * 4 * 3 < int(done.stdout) < 64 * 64 * 256 * 4 * 20


def test_an_unknown_benchmark_is_refused():
    done = run("no_such_benchmark")
    assert done.returncode == 2
    assert "matching" in done.stderr


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=30522, num_labels=8, **size)).save_pretrained(folder)
    return f"--model={folder}"


SHORT = ["--batch_size", "4", "--length", "8", "--rounds", "1"]


def test_step_time_measures_every_companion_source(load, tiny_model, capsys):
    module = load("step_time")
    rows = module.main([tiny_model, *SHORT, "--steps", "5", "--warmup_rounds", "0"])
    rows += module.main([tiny_model, *SHORT, "--steps", "5", "--dtype", "bfloat16", "--variants", "memory"])
    assert [name for name, *_ in rows] == [*module.VARIANTS, "memory"]
    assert all(ratio > 0 for _, ratio, _, _ in rows)
    assert "of a plain forward and backward pass" in capsys.readouterr().out


def test_step_time_measures_memory_in_processes_of_their_own(load, tiny_model):
    ((_, _, _, memory),) = load("step_time").main([tiny_model, *SHORT, "--steps=2", "--variants=split", "--memory"])
    assert memory > 0


def test_startup_prints_its_tables(load, capsys):
    load("startup").main(["--rows", "2000", "--rounds", "1", "--turns", "1"])
    assert "bytes a row" in capsys.readouterr().out


def test_reading_compares_plain_and_quoted_cells(load, capsys):
    results = load("reading").main(["--rows", "2000", "--rounds", "2"])
    assert {name: len(ratios) for name, ratios in results.items()} == {"plain cells": 2, "quoted cells": 2}
    assert "ratio" in capsys.readouterr().out


def test_scaling_measures_two_processes(load, tiny_model):
    module = load("scaling")
    results = module.main([tiny_model, *SHORT, "--steps", "3", "--processes", "2"])
    assert {name: len(values) for name, values in results[2].items()} == dict.fromkeys(("Trainer", *module.VARIANTS), 1)
