"""A whole comparison: runs what is missing, compares, writes the reports."""

from filelock import FileLock, Timeout

from ..text.data import encode_labels, infer_task, load_splits
from ..text.train import check_best_metric, check_labels_fit
from .plan import Plan
from .report import REPORTS, write_reports
from .rivals.choice import TRAINERS
from .schedule import run_missing
from .spoiling import check_unknown_classes
from .summary import Comparison, read_results
from .variants import naming

NUMBERS = ("mse", "mae", "r2")  # measures of regression alone
CLASSES = ("accuracy", "f1_macro", "nll", "calibration_error", "brier_score")
SINGLE = ("scatter_ratio", "selective_accuracy", "error_auroc")  # of one class an example alone


def compare(plan: Plan) -> Comparison:
    """Runs what a plan lacks and reports on all of it.

    Args:
        plan: from `make_plan`.

    Returns:
        The comparison, with the runs that failed.

    Raises:
        ValueError: the labels do not go with the plan.
        RuntimeError: no run has a result, or another comparison runs in the same folder.
    """
    check_labels(plan)
    runs, folder = list(plan.runs()), plan.output_dir / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.output_dir / ".lock", timeout=0):
            failed = run_missing(runs, folder, plan.args.processes)
    except Timeout as error:
        raise RuntimeError(f"Another comparison runs in {plan.output_dir}.") from error
    results = read_results(runs, folder)
    if not results:
        old = " The reports there are an earlier comparison's." if (plan.output_dir / REPORTS[0]).is_file() else ""
        raise RuntimeError(f"No run has a result. The first error: {next(iter(failed.values()), 'none')}{old}")
    comparison = Comparison(plan, results, failed)
    question = "does alignment help?" if plan.args.rivals is None else "what helps?"
    write_reports(comparison, f"{plan.output_dir.name}: {question}")
    return comparison


def check_labels(plan: Plan) -> None:
    """Checks, before anything runs, that the labels go with alignment, unknown classes and the verdicts' measure.

    Raises:
        ValueError: they don't, or some can't be learnt.
    """
    runs = list(zip(plan.variants, plan.runs(), strict=False))  # the first seed's
    model_args, data_args, _ = runs[0][1].arguments(plan.output_dir)
    splits = load_splits(data_args, model_args.cache_dir, model_args.token)
    task = infer_task(data_args, splits["train"])
    for name, data in splits.items():
        encode_labels(data, name, task, data_args)  # else every run would find what is wrong with them
    check_unknown_classes(plan.args.unknown_classes, task)
    if sum(size >= len(splits["train"]) for size in plan.args.max_train_samples) > 1:
        raise ValueError(
            f"max_train_samples={plan.args.max_train_samples!r} must have one size at most that takes all of the "
            f"{len(splits['train'])} training examples."
        )
    for name in ("temperature_share", "rivals"):
        if getattr(plan.args, name) and task.problem_type != "single_label_classification":
            raise ValueError(f"{name} needs one class an example; this is {task.problem_type}.")
    for variant, run in runs:
        with naming(variant.name):
            settings = run.arguments(plan.output_dir)[2]
            ours = ":" not in variant.trainer or variant.trainer.startswith(TRAINERS)
            if ours:  # the user's may have other metrics
                check_best_metric(settings, task)
            if ours or variant.aligns:
                check_labels_fit(settings, task)
    kind = task.problem_type
    other = CLASSES if kind == "regression" else NUMBERS
    single = () if kind == "single_label_classification" else SINGLE
    if plan.args.metric in (*other, *single):
        raise ValueError(f"metric={plan.args.metric!r} does not go with these labels, which are {kind}.")
