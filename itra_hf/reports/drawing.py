"""What all pictures share: size, colours, axes, curves and legends; needs matplotlib."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

# Okabe and Ito's palette without its yellow, which vanishes on white. Seven colours and five markers make 35 pairs, in
# an order in which colours that look alike to the colour-blind share a marker as late as possible.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#CC79A7", "#D55E00", "#009E73")
MARKERS = ("o", "^", "x", "s", "+")
LINES = ("-", "--", ":", "-.")
WIDTH, DPI, FONT, TITLE_FONT = 8.0, 100, 9, 10  # inches, dots an inch, and points
MAX_NAME, FEW_POINTS = 24, 40  # characters; points of a curve, up to which each is marked


def new_figure(height: float) -> Figure:
    """A figure of its own, 800 pixels wide, with a height in inches."""
    return Figure((WIDTH, height), DPI, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))


def shorten(name: str, tail: int = 0) -> str:
    """At most 24 characters: an ellipsis stands for those before the last `tail`."""
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1 - tail] + "…" + name[len(name) - tail :]


def draw_curve(axis: Axes, place: int, name: str, steps: np.ndarray, values: np.ndarray) -> None:
    """Draws a curve in the colour, marker and line of its place; NaN values are gaps."""
    # A line through one point can't be seen, so a point between gaps is marked on long curves too.
    missing = np.pad(np.isnan(values), 1, constant_values=True)
    marked = (missing[:-2] & missing[2:] & ~missing[1:-1]) | (len(values) <= FEW_POINTS)
    style = dots(place, label=name, linestyle=LINES[place % len(LINES)], markevery=marked)
    axis.plot(steps, values, **style if marked.any() else {**style, "marker": ""})


def dots(place: int, **changes: Any) -> dict[str, Any]:
    """The style of points at a place, with changes."""
    marker = MARKERS[place % len(MARKERS)]
    style = {"color": COLOURS[place % len(COLOURS)], "marker": marker, "markersize": 6, "linestyle": "none"}
    return {**style, "markeredgewidth": 1.2 if marker in "x+" else 0, **changes}


def decorate(axis: Axes, title: str, x_label: str, y_label: str = "") -> None:
    """Title, axis labels and grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.tick_params(labelsize=FONT)
    axis.set_title(title, fontsize=TITLE_FONT, parse_math=False)  # names are data: a dollar in them is no formula
    axis.set_xlabel(x_label, fontsize=FONT, parse_math=False)
    axis.set_ylabel(y_label, fontsize=FONT, parse_math=False)


def add_legend(figure: Figure, handles: Sequence[Line2D], where: Any) -> float:
    """Puts a legend outside the panels, in as few rows as the figure's width allows; its height in inches."""
    style: dict[str, Any] = {"loc": where, "frameon": False, "fontsize": FONT, "columnspacing": 1.5}
    for rows in range(1, len(handles) + 1):
        # The labels come later, since older matplotlib leaves out those that begin with an underscore.
        legend = figure.legend(handles, ["-"] * len(handles), ncols=math.ceil(len(handles) / rows), **style)
        for text, handle in zip(legend.get_texts(), handles, strict=True):
            text.set(text=handle.get_label(), parse_math=False)
        box = legend.get_window_extent()
        if box.width < 0.97 * WIDTH * DPI or rows == len(handles):
            break
        legend.remove()
    return box.height / DPI
