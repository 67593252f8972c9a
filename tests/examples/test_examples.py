"""The examples, as far as they run without the Hub."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from commands import rows, save_model
from places import EXAMPLES, ROOT, load
from transformers import BertConfig, BertModel


@pytest.mark.slow
def test_quickstart_on_a_few_documents(tmp_path):
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), "--train_samples", "64"]
    done = subprocess.run(
        [*command, "--test_samples", "40", "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line in ("test accuracy", "test macro-F1", "within / between scatter"):
        assert len(re.findall(rf"{line} +\d+\.\d+ +\d+\.\d+", done.stdout)) == 1, done.stdout
    assert re.search(r"-> [a-z-]+ \(\d\.\d\d\); truly", done.stdout)


def test_class_weights_over_the_mixin(tmp_path):
    model = save_model(tmp_path / "model", BertModel, BertConfig, pad_token="[PAD]")
    table = pd.DataFrame(rows(24, lambda name, i: i % 3))
    table.to_csv(tmp_path / "train.csv", index=False)
    settings = {"output_dir": str(tmp_path), "max_steps": 3, "logging_steps": 1, "report_to": "none", "use_cpu": True}
    settings["companion"] = "sample"  # a memory would still be empty
    trainer = load("class_weights.py").main(model, str(tmp_path / "train.csv"), **settings)
    assert trainer.class_weights.tolist() == [1.0, 1.0, 1.0]
    assert all("matching_loss" in line for line in trainer.state.log_history[:3])


@pytest.mark.parametrize("name", ["ten_lines.py"])
def test_hub_examples_compile_and_stand_in_the_readme(name):
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    compile(source, name, "exec")
    body = source.split('"""', 2)[2].strip()
    assert body in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tour_runs_through(tmp_path, monkeypatch):
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code), "run it, and keep its outputs"
    assert sum(bool(cell["outputs"]) for cell in code) >= 4
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("TOUR_DOCUMENTS", "40")
    monkeypatch.setenv("TOUR_EPOCHS", "2")
    names: dict = {}
    for cell in code:
        exec("".join(line for line in cell["source"] if not line.startswith("%")), names)
    assert names["aligned"].state.global_step == names["plain"].state.global_step > 0
