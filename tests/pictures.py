"""Data for pictures, and what stands in a picture that was drawn."""

import io

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.image import imread

LONG = "comp.sys.ibm.pc.hardware and everything that goes with it"
HARD_NAMES = ["_hidden", r"$\frac{$", "a_b^c $5", "Überraschung — βγ"]


def blobs(n, classes, dim=6, spread=1.0, seed=0):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, n - classes)])
    means = 4 * np.random.default_rng(1).normal(size=(classes, dim))
    return means[labels] + spread * random.normal(size=(n, dim)), labels


def imbalanced(classes, extra=1):
    """Class 0 has `extra` examples, class 1 one more, and so on."""
    labels = np.repeat(np.arange(classes), np.arange(classes) + extra)
    return np.random.default_rng(0).normal(size=(len(labels), 3)) + labels[:, None], labels


def history(steps, itra=True, evals=("eval_loss",)):
    lines = []
    for step in range(1, steps + 1):
        line = {"loss": 2 + 1 / step, "learning_rate": 1e-4, "epoch": step / 9, "step": 10 * step}
        if itra:
            line |= {"task_loss": 1 + 1 / step, "matching_loss": 0.3 / step, "matching_weight": 1e-3 * step}
        lines.append(line)
        if step % 2 == 0:
            lines += [{key: 1.5 + 1 / step, "eval_accuracy": 0.5, "step": 10 * step} for key in evals]
    return [*lines, {"train_runtime": 1.0, "train_loss": 1.7, "step": 10 * steps}]


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return imread(buffer)


def texts(figure):
    """Every text of a figure that was drawn, with its box in pixels."""
    found = [*figure.legends[0].get_texts()] if figure.legends else []
    found += [figure._suptitle] if figure._suptitle else []
    for axis in figure.axes:
        found += [axis.title, axis.xaxis.label, axis.yaxis.label, axis.xaxis.get_offset_text()]
        found += [axis.yaxis.get_offset_text()]
        for one, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, sorted(axis.get_ylim()))):
            found += [tick.label1 for tick in one.get_major_ticks() if low <= tick.get_loc() <= high]
    return [(text, text.get_window_extent()) for text in found if text.get_visible() and text.get_text()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(axis):
    """The points in a panel of a feature map, by colour and marker."""
    return {(to_hex(line.get_color()), line.get_marker()): line.get_xydata() for line in axis.lines if len(line._x)}
