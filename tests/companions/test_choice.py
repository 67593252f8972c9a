"""`companion="auto"`: a second batch through averaged weights, or a memory where there can't be one."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, IterableDataset
from trainers import Toy, config, toy_examples

from itra_hf import ITRATrainer
from itra_hf.alignment.steps import look_ahead
from itra_hf.hub.facts import _settings

AUTO = {"companion": "auto", "companion_decay": 0.9, "max_steps": 12}
MEMORY = {"companion": "memory", "max_steps": 12}


class OwnLoader(ITRATrainer):
    """Has a training loader that knows nothing of companions."""

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=4, collate_fn=self.data_collator)


class Stream(IterableDataset):
    """A stream of torch's, which could be one that can be read only once."""

    def __iter__(self):
        return iter(toy_examples(60))


def train(folder, trainer_class=ITRATrainer, data=None, resume=None, **settings):
    torch.manual_seed(0)
    data = Dataset.from_list(toy_examples(40)) if data is None else data
    trainer = trainer_class(Toy(), config(folder, **settings), train_dataset=data)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def lines(trainer):
    keys = ("task_loss", "matching_loss", "matching_weight")
    return [tuple(line.get(key) for key in keys) for line in trainer.state.log_history if "loss" in line]


def assert_same(one, other):
    assert lines(one) == lines(other)
    assert any(weight > 0 for *_, weight in lines(one))
    for name, each in one.model.state_dict().items():
        assert torch.equal(each, other.model.state_dict()[name])


def told(caplog):
    return [record.message for record in caplog.records if "companion='auto'" in record.message]


def test_it_is_a_second_batch_where_there_can_be_one(tmp_path, caplog):
    auto = train(tmp_path / "a", **AUTO)
    assert_same(auto, train(tmp_path / "b", **{**AUTO, "companion": "sample"}))
    assert not told(caplog)


@pytest.mark.parametrize(
    ("trainer_class", "data", "why"),
    [
        (OwnLoader, None, "a data loader or collator of your own brings no second batch"),
        (ITRATrainer, Stream(), "a stream of this kind may be one that can't be read twice"),
    ],
)
def test_it_is_a_memory_where_there_can_be_no_second_batch_and_says_so_once(trainer_class, data, why, tmp_path, caplog):
    auto = train(tmp_path / "a", trainer_class, data, **AUTO)
    assert_same(auto, train(tmp_path / "b", trainer_class, data, **MEMORY))
    assert told(caplog) == [f"companion='auto' is 'memory' in this run: {why}."]


def test_it_is_a_memory_for_one_example(tmp_path, caplog):
    train(tmp_path, data=Dataset.from_list(toy_examples(1)), **AUTO)
    assert told(caplog) == ["companion='auto' is 'memory' in this run: there is no second batch in 1 example(s)."]


def test_it_is_a_memory_where_weights_lie_in_parts_but_not_without_averages(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("itra_hf.companions.choice.holds_shards", lambda accelerator, model: True)
    assert_same(train(tmp_path / "a", **AUTO), train(tmp_path / "b", **MEMORY))
    assert "weights that lie in parts on several processes can't be averaged" in told(caplog)[0]
    caplog.clear()
    learning = {**AUTO, "companion_decay": 0.0}
    assert_same(train(tmp_path / "c", **learning), train(tmp_path / "d", **{**learning, "companion": "sample"}))
    assert not told(caplog)


def test_streams_of_datasets_give_a_second_batch(tmp_path, caplog):
    stream = Dataset.from_list(toy_examples(60)).to_iterable_dataset()
    assert_same(
        train(tmp_path / "a", data=stream, **AUTO),
        train(tmp_path / "b", data=stream, **{**AUTO, "companion": "sample"}),
    )
    assert not told(caplog)


def test_without_alignment_nothing_is_said(tmp_path, caplog):
    train(tmp_path, data=Stream(), **{**AUTO, "matching_weight": 0.0})
    assert not told(caplog)


def test_companions_that_stop_coming_are_an_error(tmp_path):
    class Halting(ITRATrainer):
        def get_batch_samples(self, *args, **kwargs):
            batches, items = super().get_batch_samples(*args, **kwargs)
            if self.state.global_step == 5:
                batches = [{name: each for name, each in batch.items() if "itra" not in name} for batch in batches]
            return batches, items

    with pytest.raises(ValueError, match="A training batch came without its companion"):
        train(tmp_path, Halting, **AUTO)


def test_it_is_a_memory_beside_batch_normalisation(tmp_path, caplog):
    class Normalising(Toy):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(self.body, torch.nn.BatchNorm1d(16))

    args = config(tmp_path, **AUTO)
    ITRATrainer(Normalising(), args, train_dataset=toy_examples(40)).train()
    assert "batch normalisation would treat a second batch" in told(caplog)[0]


def test_one_process_without_companions_decides_for_all(tmp_path, monkeypatch):
    def seen_by_two(accelerator, batches, *args):
        return look_ahead(accelerator, batches, *args)._replace(paired=False)  # the other process has none

    monkeypatch.setattr("itra_hf.alignment.steps.look_ahead", seen_by_two)
    assert_same(train(tmp_path / "a", **AUTO), train(tmp_path / "b", **MEMORY))
    with pytest.raises(ValueError, match="A training batch came without its companion"):
        train(tmp_path / "c", **{**AUTO, "companion": "sample"})


def test_the_card_tells_what_it_was_and_only_what_acted(tmp_path):
    for trainer_class, companion in ((ITRATrainer, "sample (auto)"), (OwnLoader, "memory (auto)")):
        settings = _settings(train(tmp_path, trainer_class, **AUTO))
        assert settings["companion"] == companion
        assert ("memory_size" in settings) == (trainer_class is OwnLoader)
        assert ("companion_decay" in settings) == (trainer_class is ITRATrainer)


# ---- Checkpoints ----


def resume(folder, trainer_class, step, **settings):
    """A run with a checkpoint, and one that goes on from it elsewhere."""
    whole = train(folder / "whole", trainer_class, save_strategy="steps", save_steps=step, **settings)
    shutil.copytree(folder / "whole" / f"checkpoint-{step}", folder / "again" / f"checkpoint-{step}")
    return whole


@pytest.mark.parametrize("trainer_class", [ITRATrainer, OwnLoader])
def test_resumed_runs_go_on_bit_for_bit(trainer_class, tmp_path, caplog):
    settings = {**AUTO, "weight_mode": "constant"}
    whole = resume(tmp_path, trainer_class, 6, **settings)
    caplog.clear()
    again = train(tmp_path / "again", trainer_class, resume=True, **settings)
    assert_same(whole, again)
    assert len(told(caplog)) == (trainer_class is OwnLoader)


@pytest.mark.parametrize("older", [False, True])
def test_a_run_with_a_memory_goes_on_with_it(older, tmp_path, caplog):
    settings = {**MEMORY, "weight_mode": "constant"}
    whole = resume(tmp_path, ITRATrainer, 6, **settings)
    state = tmp_path / "again" / "checkpoint-6" / "itra_state.json"
    if older:
        content = json.loads(state.read_text())
        del content["companion"]
        state.write_text(json.dumps(content))
    again = train(tmp_path / "again", resume=True, **{**settings, "companion": "auto"})
    assert_same(whole, again)
    assert "the checkpoint is of a run with a memory" in told(caplog)[0]
