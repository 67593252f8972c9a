"""Pairs of a stream: order, draws, classes, workers, resume, refusals."""

import itertools
from collections import Counter

import pytest
import torch
from datasets import Dataset
from families import build, examples
from torch.utils.data import DataLoader, IterableDataset
from trainers import config

from itra_hf import ITRATrainer
from itra_hf.companions.streams import PairedStream


class Numbers(IterableDataset):
    """0, 1, 2, ... with labels 0, 1, 2, 0, ..."""

    def __init__(self, count, classes=3):
        self.count = count
        self.classes = classes

    def __iter__(self):
        return ({"x": index, "labels": index % self.classes} for index in range(self.count))


def streams(count, shards=4):
    rows = [{"x": index, "labels": index % 3} for index in range(count)]
    return Dataset.from_list(rows).to_iterable_dataset(num_shards=shards)


def pairs(stream, epoch=0):
    stream.set_epoch(epoch)
    return [(first["x"], second["x"]) for first, second in stream]


@pytest.mark.parametrize("dataset", [Numbers(40), streams(40), streams(40).shuffle(seed=1, buffer_size=10)])
def test_examples_keep_their_order_and_companions_follow_seed_and_epoch(dataset):
    stream = PairedStream(dataset, seed=7, buffer_size=10)
    first = pairs(stream)
    dataset_epoch = getattr(dataset, "set_epoch", lambda epoch: None)
    dataset_epoch(0)
    assert [example for example, _ in first] == [row["x"] for row in dataset]
    assert pairs(stream) == first
    assert [companion for _, companion in pairs(stream, epoch=1)] != [companion for _, companion in first]
    other = PairedStream(dataset, seed=8, buffer_size=10)
    assert [companion for _, companion in pairs(other)] != [companion for _, companion in first]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", [Numbers(12), streams(12)])
def test_draws_are_uniform_where_the_buffer_holds_everything(dataset):
    counts = Counter()
    stream = PairedStream(dataset, seed=0, buffer_size=12)
    for epoch in range(600):
        stream.set_epoch(epoch)
        _, companion = next(iter(stream))
        counts[companion["x"]] += 1
    expected = 600 / 12
    assert sum((counts[value] - expected) ** 2 / expected for value in range(12)) < 31.3  # 0.1 % point, 11 degrees


def test_companions_are_of_the_same_class_while_the_buffer_holds_one():
    stream = PairedStream(Numbers(60), seed=0, buffer_size=20, label_names=["labels"])
    drawn = list(stream)
    assert all(first["labels"] == second["labels"] for first, second in drawn)
    assert sum(first["x"] == second["x"] for first, second in drawn) < 10
    rare = PairedStream(Numbers(60, classes=60), seed=0, buffer_size=5, label_names=["labels"])
    assert all(first["labels"] == second["labels"] for first, second in rare)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_every_example_once_an_epoch_and_keep_the_epoch(workers):
    stream = PairedStream(streams(40), seed=0, buffer_size=8)
    loader = DataLoader(
        stream, batch_size=4, num_workers=workers, persistent_workers=workers > 0, collate_fn=lambda batch: batch
    )
    seen = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        seen.append([(first["x"], second["x"]) for batch in loader for first, second in batch])
        assert sorted(example for example, _ in seen[-1]) == list(range(40))
    assert [companion for _, companion in seen[0]] != [companion for _, companion in seen[1]]


def test_the_buffer_is_a_window_that_slides_along():
    stream = PairedStream(Numbers(60), seed=0, buffer_size=5)
    distances = [second["x"] - first["x"] for first, second in itertools.islice(stream, 50)]
    assert set(distances) == {0, 1, 2, 3, 4}
    sorted_by_class = PairedStream([{"x": index, "labels": index // 100} for index in range(300)], 0, 50, ["labels"])
    own = sum(first["x"] == second["x"] for first, second in sorted_by_class)
    assert own < 30


def test_no_example_is_in_the_buffer_twice():
    first = [next(iter(PairedStream(Numbers(4), seed, buffer_size=100)))[1]["x"] for seed in range(400)]
    assert all(60 < count < 140 for count in Counter(first).values())


def test_the_stream_is_shuffled_anew_each_epoch():
    paired, alone = (streams(40).shuffle(seed=1, buffer_size=10) for _ in range(2))
    paired = PairedStream(paired, seed=0, buffer_size=8)
    for epoch in range(3):
        alone.set_epoch(epoch)
        assert [example for example, _ in pairs(paired, epoch)] == [row["x"] for row in alone]


class ReadAlike(Numbers):
    """Every worker reads the same."""


def test_workers_draw_apart():
    stream = PairedStream(ReadAlike(200), seed=0, buffer_size=50)
    first, second = DataLoader(stream, batch_size=200, num_workers=2, collate_fn=lambda rows: [b["x"] for _, b in rows])
    assert first != second


def test_the_setting_reaches_the_stream(tmp_path):
    args = config(tmp_path, companion_buffer_size=7)
    trainer = ITRATrainer(build("Bert"), args, train_dataset=streams(60))
    assert trainer.get_train_dataloader().dataset.buffer_size == 7


class OnceOnly(IterableDataset):
    def __init__(self, count):
        self.rows = iter(Numbers(count))

    def __iter__(self):
        return self.rows


class SharedSource(OnceOnly):
    def __iter__(self):
        yield from self.rows


@pytest.mark.parametrize("dataset", [OnceOnly(20), SharedSource(20)])
def test_streams_that_can_be_read_once_only_are_refused(dataset):
    with pytest.raises(ValueError, match="can be iterated only once"):
        list(PairedStream(dataset, seed=0, buffer_size=5))


def test_streams_that_are_their_own_iterator_are_refused_at_once():
    with pytest.raises(ValueError, match="can be iterated only once"):
        next(iter(PairedStream(OnceOnly(1000), seed=0, buffer_size=5)))


@pytest.mark.parametrize(("labels", "message"), [(0.5, "needs one class id"), (None, "has only x")])
def test_class_matched_needs_class_ids(labels, message):
    rows = [{"x": index, **({} if labels is None else {"labels": labels})} for index in range(8)]
    stream = PairedStream(Dataset.from_list(rows).to_iterable_dataset(), 0, 4, ["labels"])
    with pytest.raises(ValueError, match=message):
        list(stream)


def test_class_matched_takes_lists_of_one_class_id():
    rows = [{"x": index, "labels": [index % 2]} for index in range(8)]
    stream = PairedStream(Dataset.from_list(rows).to_iterable_dataset(), 0, 4, ["labels"])
    pairs = list(stream)
    assert len(pairs) == 8
    assert all(example["labels"] == companion["labels"] for example, companion in pairs)


def test_empty_streams_are_empty_and_lengths_pass_through():
    assert list(PairedStream(Numbers(0), seed=0, buffer_size=5)) == []
    with pytest.raises(TypeError):
        len(PairedStream(Numbers(3), seed=0, buffer_size=5))


def train(folder, dataset, resume=None, **settings):
    torch.manual_seed(0)
    args = config(folder, max_steps=10, companion_buffer_size=6, **settings)
    trainer = ITRATrainer(build("Bert"), args, train_dataset=dataset)
    trainer.train(resume_from_checkpoint=resume)
    return [
        [row[key] for key in ("loss", "matching_loss", "matching_weight")] for row in trainer.state.log_history[:-1]
    ]


@pytest.mark.parametrize("companion", ["sample", "class_matched"])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_a_stream_resumes_bit_for_bit(companion, workers, tmp_path):
    rows = [{**row, "text": "unused"} for row in examples("Bert", 22)]  # 6 batches an epoch in one worker
    stream = Dataset.from_list(rows).to_iterable_dataset(num_shards=2).shuffle(seed=5, buffer_size=4)
    settings = {"companion": companion, "dataloader_num_workers": workers, "save_strategy": "steps", "save_steps": 4}
    whole = train(tmp_path / "whole", stream, **settings)
    again = train(tmp_path / "again", stream, str(tmp_path / "whole" / "checkpoint-4"), **settings)
    assert len(whole) == 10  # the last four of the second epoch
    assert again == whole
    assert sum(matching for _, matching, _ in whole) > 0
