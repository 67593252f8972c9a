"""What goes wrong in training, and how it is told."""

import os

import pytest
import torch
from datasets import Dataset
from families import build, examples
from recording import error_rate, losses, pad_to_eight, run, same
from trainers import Toy, config, toy_examples

from itra_hf import ITRATrainer


def test_collapse_is_reported_once(tmp_path, caplog):
    run(
        ITRATrainer,
        tmp_path,
        toy_examples(60),
        Toy(),
        max_steps=300,
        logging_steps=20,
        weight_mode="constant",
        matching_weight=50.0,
        alignment="marginal",
        per_device_train_batch_size=8,
    )
    warnings = [record.message for record in caplog.records if "collapsing" in record.message]
    assert len(warnings) == 1
    assert "matching_weight" in warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_defaults_do_not_collapse(weight, tmp_path, caplog):
    data = toy_examples(300)
    trainer, _ = run(
        ITRATrainer,
        tmp_path,
        data,
        Toy(),
        max_steps=300,
        matching_weight=weight,
        per_device_train_batch_size=16,
        eval_dataset=toy_examples(90, seed=1),
        compute_metrics=error_rate,
    )
    start, now = trainer._itra_watch.spread.tolist()
    assert now > 0.2 * start
    assert not any("collapsing" in record.message for record in caplog.records)
    assert trainer.evaluate()["eval_error"] < 0.1


def test_non_finite_matching_loss_stops_training(tmp_path):
    data = toy_examples(40)
    data[17]["x"] = data[17]["x"] * float("inf")
    with pytest.raises(FloatingPointError, match=r"matching loss became nan at or before step \d+ \(epoch 0"):
        run(ITRATrainer, tmp_path, data, Toy(), max_steps=20)


def test_dropped_companions_are_noticed(tmp_path):
    class OwnLoaderITRA(ITRATrainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(self.train_dataset, batch_size=4, collate_fn=pad_to_eight)

    with pytest.raises(ValueError, match="came without its companion"):
        run(OwnLoaderITRA, tmp_path, examples("Bert", 12))


def test_frozen_backbone_is_said_and_trains_as_plain(tmp_path, caplog):
    model = build("Bert")
    for parameter in model.bert.parameters():
        parameter.requires_grad = False
    trainer, _ = run(ITRATrainer, tmp_path, examples("Bert", 12), model)
    assert losses(trainer, "matching_weight") == [0.0] * 3
    assert sum("frozen backbone" in record.message for record in caplog.records) == 1


def unlabelled(count):
    return [{key: row[key] for key in ("input_ids", "attention_mask")} for row in examples("Bert", count)]


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (examples("Bert", 1), {}, "needs at least two"),
        (
            [{k: row[k] for k in ("input_ids", "attention_mask")} for row in examples("Bert", 8)],
            {"alignment": "conditional"},
            "needs labels|no labels column",
        ),
        (examples("Bert", 8), {"feature": "nowhere"}, "nor the name of a module"),
    ],
)
def test_bad_input_is_refused_when_training_starts(data, settings, message, tmp_path):
    for dataset in (data, Dataset.from_list(data)):
        with pytest.raises(ValueError, match=message):
            run(ITRATrainer, tmp_path, dataset, **settings)


def test_missing_labels_are_refused_with_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="needs labels, but the batch has only input_ids, attention_mask"):
        run(ITRATrainer, tmp_path, unlabelled(8), alignment="conditional")
    with pytest.raises(ValueError, match="needs labels, but the batch has only input_ids, attention_mask"):
        run(ITRATrainer, tmp_path, Dataset.from_list(unlabelled(8)), alignment="conditional")


def test_unused_columns_are_dropped_before_pairing(tmp_path):
    data = Dataset.from_list([{**row, "text": "unused"} for row in examples("Bert", 8)])
    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=data)
    paired = trainer.get_train_dataloader().dataset
    assert set(paired.dataset.column_names) == {"input_ids", "attention_mask", "labels"}


def test_data_parallel_is_refused(tmp_path):
    args = config(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="accelerate launch"):
        ITRATrainer(build("Bert"), args, train_dataset=examples("Bert", 8))


def test_settings_changed_after_construction_are_checked_again(tmp_path):
    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 8))
    trainer.args.matching_weight = -1.0
    with pytest.raises(ValueError, match=r"matching_weight=-1\.0 must be"):
        trainer.train()


def test_saved_folder_loads_without_itra(tmp_path):
    from transformers import AutoModelForSequenceClassification

    trainer, _ = run(ITRATrainer, tmp_path, examples("Bert", 12))
    trainer.save_model(str(tmp_path / "saved"))
    assert "itra" not in "".join(os.listdir(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert same([loaded.state_dict().values()], [trainer.model.state_dict().values()])
