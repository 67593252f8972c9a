"""The goals of `protocol.md`, and whether its runs meet them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import protocol
from against import CORPORA, FEWEST, MEASURES, OURS, SMOOTHING, UNKNOWN, decides, paired, title
from cells import PLAIN, Figures, cell, difference, together

from itra_hf.comparison.measures import Measure, PairedDifference
from itra_hf.comparison.report import Rows, markdown_table


class Goal(NamedTuple):
    """One of the plan's goals, and what was found."""

    name: str
    found: str
    met: bool


def progress(conditions: Mapping[str, Figures]) -> str:
    """How much of the plan is run: a sentence."""
    planned = {name: each.seeds for name, each in protocol.CONDITIONS.items() if not name.startswith("thin")}
    found = {name: paired(figures, OURS) for name, figures in conditions.items() if name in planned}
    missing = [title(name) for name in planned if name not in found]
    fewer = [f"{title(name)} ({found[name]} of {planned[name]})" for name in found if found[name] < planned[name]]
    text = f"Conditions are shown from {FEWEST} seeds on: {len(found)} of the plan's {len(planned)} so far."
    if fewer:
        text += f" Fewer seeds than planned: {'; '.join(fewer)}."
    if missing:
        text += f" Not run: {'; '.join(missing)}."
    return text


def goals(conditions: Mapping[str, Figures]) -> list[Goal]:
    """The goals of the plan, on these conditions."""
    main = {name: figures for name, figures in conditions.items() if decides(name)}
    return [
        accuracy_goal(main),
        likelihood_goal(main),
        unknown_goal(main),
        everywhere("scatter lower in all conditions", main, MEASURES["scatter_ratio"]),
        by_points("five new examples: 2 points more", main, MEASURES["new_classes_5"], 2.0, needed=2),
        by_points(
            "wrong labels: a point of accuracy on two corpora",
            {name: figures for name, figures in main.items() if name.startswith("noise")},
            MEASURES["accuracy"],
            1.0,
            needed=2,
        ),
    ]


def accuracy_goal(conditions: Mapping[str, Figures]) -> Goal:
    """Not 0.3 points worse over all conditions, and worse beyond chance in none."""
    measure = MEASURES["accuracy"]
    found = together(list(conditions.values()), OURS, measure)
    worse = [name for name, each in conditions.items() if difference(each, OURS, measure).verdict == "worse"]
    text = f"together {cell(found, measure)}; worse: {', '.join(map(title, worse)) or 'none'}"
    return Goal("accuracy: lower end above -0.3 points, worse nowhere", text, found.low > -0.003 and not worse)


def likelihood_goal(conditions: Mapping[str, Figures]) -> Goal:
    """Better than label smoothing beyond chance on two corpora."""
    return _count(
        "likelihood: better than label smoothing on two corpora",
        {
            CORPORA[corpus]: together(group, OURS, MEASURES["nll"], SMOOTHING)
            for corpus, group in by_corpus(conditions, SMOOTHING, "nll").items()
        },
        MEASURES["nll"],
        lambda each: each.verdict == "better",
        needed=2,
    )


def unknown_goal(conditions: Mapping[str, Figures]) -> Goal:
    """2 points of AUROC more than the plain Trainer and 1 more than smoothing, on both corpora that have them."""
    few = {name: each for name, each in conditions.items() if name.startswith("few") and UNKNOWN.name in each[PLAIN]}
    found = {
        f"{CORPORA[name.split('-')[1]]} minus {baseline}": difference(figures, OURS, UNKNOWN, baseline)
        for name, figures in few.items()
        for baseline in (PLAIN, SMOOTHING)
    }

    def reached(each: PairedDifference) -> bool:
        return each.low > 0

    goal = _count("unknown classes: 2 points over Trainer, 1 over smoothing", found, UNKNOWN, reached, len(found))
    enough = all(each.mean >= (0.02 if name.endswith(PLAIN) else 0.01) for name, each in found.items())
    return goal._replace(met=goal.met and enough and len(few) == 2)


def everywhere(name: str, conditions: Mapping[str, Figures], measure: Measure) -> Goal:
    """Better beyond chance in every condition."""
    found = {title(each): difference(figures, OURS, measure) for each, figures in conditions.items()}
    return _count(name, found, measure, lambda each: each.verdict == "better", len(found))


def by_points(name: str, conditions: Mapping[str, Figures], measure: Measure, points: float, needed: int) -> Goal:
    """So many points more than the plain Trainer, with an interval above 0."""
    found = {
        title(each): difference(figures, OURS, measure)
        for each, figures in conditions.items()
        if paired(figures, OURS, measure.name) >= FEWEST
    }
    return _count(name, found, measure, lambda each: each.low > 0 and 100 * each.mean >= points, needed)


def by_corpus(conditions: Mapping[str, Figures], variant: str, measure: str) -> dict[str, list[Figures]]:
    """The conditions of each corpus that have a variant."""
    found: dict[str, list[Figures]] = {}
    for name, figures in conditions.items():
        if paired(figures, variant, measure) >= FEWEST:
            found.setdefault(name.split("-")[1], []).append(figures)
    return found


def _count(
    name: str,
    found: Mapping[str, PairedDifference],
    measure: Measure,
    reached: Callable[[PairedDifference], bool],
    needed: int,
) -> Goal:
    text = "; ".join(f"{each} {cell(value, measure)}" for each, value in found.items())
    return Goal(name, text, bool(found) and sum(map(reached, found.values())) >= needed)


def goal_table(conditions: Mapping[str, Figures]) -> str:
    """The goals, what was found, and whether that meets them."""
    rows: Rows = [["goal", "found", "met"]]
    rows += [[each.name, each.found, "yes" if each.met else "no"] for each in goals(conditions)]
    return markdown_table(rows, escape=False)
