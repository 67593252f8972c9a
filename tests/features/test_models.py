"""Wrappers come off a model, and one without any is not searched for them."""

import pytest
import torch
from torch import nn
from trainers import Toy

from itra_hf.features.models import unwrap


@pytest.mark.parametrize(
    "wrap",
    [torch.compile, nn.DataParallel, lambda model: torch.compile(nn.DataParallel(model))],
    ids=["compiled", "parallel", "both"],
)
def test_a_wrapped_model_is_unwrapped(wrap):
    model = Toy()
    assert unwrap(wrap(model)) is model


def test_a_plain_model_is_not_searched(monkeypatch):
    model = Toy()
    monkeypatch.setattr(nn.Module, "named_modules", None)  # which `modules` goes by
    assert unwrap(model) is model
