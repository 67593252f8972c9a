"""Plans and made-up results of comparisons."""

from itra_hf.comparison.plan import ComparisonArguments, make_plan
from itra_hf.comparison.summary import Comparison
from itra_hf.comparison.variants import PLAIN

CUSTOM = "from transformers import Trainer\n\n\nclass Own(Trainer):\n    pass\n"

SECOND_BATCH = {"companion": "sample", "companion_decay": 0.0}


def build_plan(folder, variants, seeds=(1, 2, 3), sizes=(), **common):
    args = ComparisonArguments(seeds=list(seeds), max_train_samples=list(sizes), equal_compute="batch")
    common = {"model_name_or_path": "m", "train_file": "x.csv", "use_cpu": True, **SECOND_BATCH, **common}
    return make_plan(args, common, variants, str(folder))


def result(variant, seed, size=None, steps=4, **metrics):
    log = [{"loss": 1.0 - seed / 10, "step": 1}, {"loss": 0.5, "step": 2}, {"eval_loss": 0.7, "step": 2}]
    run = {"variant": variant, "seed": seed, "train_samples": size, "steps": steps, "log": log}
    run |= {"trained": 900, "tested": 1200, "tested_on": "test"}
    return run | {"metrics": metrics, "versions": {"torch": "2"}, "key": f"{variant}-{seed}"}


def study(plan, gain=0.02, failed=None):
    """Results in which the variants gain on the plain runs, by nearly as much in every seed."""
    results = [
        result(
            run.variant,
            run.seed,
            run.train_samples,
            accuracy=0.8 + run.seed / 100 + (gain + (run.seed - 2) * 1e-5) * (run.trainer != PLAIN),
            nll=0.5,
        )
        for run in plan.runs()
    ]
    return Comparison(plan, results, failed or {}), results
