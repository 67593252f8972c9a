"""A trainer beside the stock one, on the same model and data."""

import copy

from families import build, examples
from torch.testing import assert_close
from trainers import config

from itra_hf import ITRAMixin

SETTINGS = {"companion": "memory", "max_steps": 5, "weight_mode": "balanced"}
OFF = {"matching_weight": 0.0}


def mixed(base):
    """The trainer with alignment."""
    return type(f"Aligned{base.__name__}", (ITRAMixin, base), {})


def trained(kind, folder, model=None, data=None, **settings):
    """A trainer that has trained five steps."""
    keywords = {name: settings.pop(name) for name in ("data_collator", "callbacks") if name in settings}
    args = config(folder, **{**SETTINGS, **settings})
    trainer = kind(model or build("Bert"), args, train_dataset=data or examples("Bert", 24), **keywords)
    trainer.train()
    return trainer


def lines(trainer, name="matching_loss"):
    """What was logged under a name."""
    return [line[name] for line in trainer.state.log_history if name in line]


def assert_stock(kind, folder, model, data, **settings):
    """Without alignment, the parameters are the stock Trainer's bit for bit; with it, training ends."""
    plain = trained(kind, folder / "plain", copy.deepcopy(model), data, **settings, **OFF)
    ours = trained(mixed(kind), folder / "ours", copy.deepcopy(model), data, **settings, **OFF)
    for one, other in zip(plain.model.parameters(), ours.model.parameters(), strict=True):
        assert_close(one, other, rtol=0, atol=0)
    return trained(mixed(kind), folder / "aligned", copy.deepcopy(model), data, **settings)
