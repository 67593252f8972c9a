"""How accuracy and likelihood on test documents go during training, kept in `examples/study/curves/`.

    python -m examples.study curves [CONDITION ...] [--processes 2]

The runs of the study are tested when they end; these are of two of its seeds, with an evaluation in every tenth of
training. They show when alignment acts, and on what.
"""

import json
from pathlib import Path
from typing import Any

from run import COMMON, CONDITIONS, OUTPUT, Condition, command, schedule, write_files

from itra_hf.comparison.plan import ComparisonArguments, make_plan
from itra_hf.comparison.study import compare
from itra_hf.comparison.summary import Comparison, read_results

FOLDER = Path(__file__).resolve().parent / "curves"
SEEDS = [1, 2]
FOLLOWED: dict[str, Condition] = {name: CONDITIONS[name] for name in ("20newsgroups-200",)}
MEASURES = {"eval_accuracy": "accuracy", "eval_loss": "nll", "matching_weight": "matching_weight"}


def follow(name: str, processes: int) -> Comparison:
    """Runs a condition with evaluations in between, and writes its curves."""
    condition, files = FOLLOWED[name], write_files(FOLLOWED[name].corpus)
    asked = ComparisonArguments([*SEEDS], [condition.size or 0], "none", processes=processes, **condition.args)
    evaluated = {"validation_file": files["test_file"], "max_eval_samples": 1000, "max_predict_samples": 1000}
    every_tenth = {"eval_strategy": "steps", "eval_steps": 0.1, "logging_steps": 0.1}
    common = COMMON | schedule(condition) | files | evaluated | every_tenth
    plan = make_plan(asked, common, {"ITRA": {}}, str(OUTPUT / "curves" / name))
    comparison = compare(plan)
    results = read_results(list(plan.runs()), plan.output_dir / "runs")
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps({"seeds": SEEDS, "curves": to_curves(results)}, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return comparison


def to_curves(results: list[dict[str, Any]]) -> dict[str, dict[str, dict[int, dict[int, float]]]]:
    """The logged values by variant, measure, seed and step."""
    curves: dict[str, dict[str, dict[int, dict[int, float]]]] = {}
    for result in results:
        own = curves.setdefault(result["variant"], {})
        for entry in result["log"]:
            for logged, measure in MEASURES.items():
                if logged in entry:
                    values = own.setdefault(measure, {}).setdefault(result["seed"], {})
                    values[entry["step"]] = float(f"{entry[logged]:.5g}")
    return curves


if __name__ == "__main__":
    command(str(__doc__), follow, FOLLOWED)
