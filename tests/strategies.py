"""Strategies that random tests share."""

from hypothesis import HealthCheck
from hypothesis import strategies as st

LABELS = ("ids", "ids, some unlabelled", "floats", "multi-hot")
ALL_CHECKS = list(HealthCheck)


def draw_label(draw, kind: str, classes: int):
    if kind == "floats":
        return draw(st.floats(-2, 2, width=16))
    if kind == "multi-hot":
        return [float(draw(st.booleans())) for _ in range(classes)]
    label = draw(st.integers(0, classes - 1))
    return -100 if kind != "ids" and draw(st.booleans()) else label
