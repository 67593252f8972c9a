"""A whole comparison: runs what is missing, compares, writes the reports."""

from .plan import Plan
from .report import JSON_NAME, MARKDOWN_NAME, PAGE_NAME, write_reports
from .schedule import run_missing
from .summary import Comparison, read_results, summarize

REPORTS = (PAGE_NAME, MARKDOWN_NAME, JSON_NAME)


def compare(plan: Plan) -> Comparison:
    """Runs what a plan lacks and reports on all of it.

    Args:
        plan: from `make_plan`.

    Returns:
        The comparison, with the runs that failed.

    Raises:
        ValueError: no run has the measure that the verdicts go by.
        RuntimeError: no run has a result.
    """
    runs, folder = list(plan.runs()), plan.output_dir / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    failed = run_missing(runs, folder, plan.args.processes)
    results = read_results(runs, folder)
    if not results:
        raise RuntimeError(f"No run has a result. The first error: {next(iter(failed.values()), 'none')}")
    comparison = summarize(plan, results, failed)
    write_reports(plan, comparison, results, f"{plan.output_dir.name}: does alignment help?")
    return comparison
