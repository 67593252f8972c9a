"""What a `Trainer` gives, `ITRATrainer` gives: its settings, batches, adapters and second runs."""

import copy
import os

import numpy as np
import pytest
import torch
from datasets import Dataset
from families import LABELS, build, examples
from peft import LoraConfig, get_peft_model
from recording import error_rate, losses, pad_to_eight, run
from trainers import Toy, config, toy_examples
from transformers import Trainer

from itra_hf import ITRAMixin, ITRATrainer


def test_evaluation_sees_neither_matching_nor_extra_outputs(tmp_path):
    data = examples("Bert", 21)
    ours, _ = run(ITRATrainer, tmp_path, data, eval_dataset=data[:7], compute_metrics=error_rate)
    stock = Trainer(ours.model, config(tmp_path), eval_dataset=data[:7], compute_metrics=error_rate)
    mine, theirs = ours.evaluate(), stock.evaluate()
    assert set(mine) - {"epoch"} == set(theirs) - {"epoch", "eval_model_preparation_time"}
    assert mine["eval_loss"] == theirs["eval_loss"]
    np.testing.assert_array_equal(ours.predict(data).predictions, stock.predict(data).predictions)
    assert ours.predict(data).predictions.shape == (21, LABELS)


class Items(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.mark.parametrize(
    "settings",
    [
        {"label_smoothing_factor": 0.1},
        {"dataloader_drop_last": True, "max_steps": -1, "num_train_epochs": 2},
        {"max_steps": -1, "num_train_epochs": 2},
        {"per_device_train_batch_size": 1, "companion": "class_matched"},
        {"train_sampling_strategy": "group_by_length", "length_column_name": "length"},
        {"remove_unused_columns": False, "data_collator": pad_to_eight},
        {"data_collator": pad_to_eight},
        {"companion": "class_matched"},
        {"feature": "cls"},
        {"feature": "mean"},
        {"kernel": "laplacian", "bandwidth": "median"},
        {"estimator": "unbiased", "alignment": "marginal"},
        {"companion_decay": 0.9},
        {"gradient_accumulation_steps": 2, "max_steps": -1, "num_train_epochs": 2},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "max_steps": -1, "num_train_epochs": 2},
        {"gradient_checkpointing": True},
        {"include_num_input_tokens_seen": "all"},
        {"bf16": True},
    ],
)
@pytest.mark.parametrize("kind", ["datasets", "torch"])
def test_settings_of_the_stock_trainer(settings, kind, tmp_path):
    rows = [{**row, "text": "unused", "length": int(sum(row["attention_mask"]))} for row in examples("Bert", 21)]
    if settings.get("remove_unused_columns") is False:
        rows = [{key: row[key] for key in ("input_ids", "attention_mask", "labels")} for row in rows]
    data = Dataset.from_list(rows) if kind == "datasets" else Items(rows)
    trainer, record = run(ITRATrainer, tmp_path, data, **settings)
    assert len(record.gradients) == trainer.state.max_steps >= 3
    assert np.isfinite(losses(trainer)).all()
    assert max(losses(trainer, "matching_weight")) > 0 or trainer.alignment_args.estimator == "unbiased"


def test_primary_batches_come_in_the_stock_order(tmp_path):
    seen = {}

    class Watch(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.setdefault(type(self), []).append(inputs["input_ids"].tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)

    class WatchITRA(ITRAMixin, Watch):
        pass

    for trainer_class in (Watch, WatchITRA):
        run(trainer_class, tmp_path, examples("Bert", 21), max_steps=12)
    assert seen[Watch] == seen[WatchITRA]


def test_token_count_is_the_primary_batchs(tmp_path):
    counts = [
        run(trainer_class, tmp_path, examples("Bert", 21), include_num_input_tokens_seen="all")[0].state
        for trainer_class in (Trainer, ITRATrainer)
    ]
    assert counts[0].num_input_tokens_seen == counts[1].num_input_tokens_seen
    assert counts[0].total_flos == counts[1].total_flos


def test_model_init_and_a_second_run_tap_the_new_model(tmp_path):
    trainer = ITRATrainer(
        model_init=lambda: build("Bert"), args=config(tmp_path, max_steps=6), train_dataset=examples("Bert", 24)
    )
    trainer.train()
    first = losses(trainer)
    trainer.train()
    assert losses(trainer) == first
    assert not any(module._forward_pre_hooks for module in trainer.model.modules())  # the taps are gone
    copy.deepcopy(trainer.model)


@pytest.mark.parametrize("wrapped", [True, False])
def test_lora_with_its_saved_head(wrapped, tmp_path):
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], modules_to_save=["classifier"])
    model = get_peft_model(build("Bert"), lora) if wrapped else build("Bert")
    if not wrapped:
        model.add_adapter(lora)
    trainer = ITRATrainer(model, config(tmp_path), train_dataset=examples("Bert", 12))
    trainer.train()
    assert min(losses(trainer, "matching_loss")) > 0
    assert max(losses(trainer, "matching_weight")) > 0
    trainer.save_model(str(tmp_path / "saved"))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(os.listdir(tmp_path / "saved"))


def test_labels_that_a_transform_makes(tmp_path):
    rows = [
        {("class" if key == "labels" else key): value for key, value in row.items()} for row in examples("Bert", 12)
    ]

    def rename(batch):
        return {("labels" if key == "class" else key): value for key, value in batch.items()}

    data = Dataset.from_list(rows).with_transform(rename)
    trainer, _ = run(ITRATrainer, tmp_path, data, remove_unused_columns=False)
    assert min(losses(trainer, "matching_loss")) > 0


@pytest.mark.parametrize(("settings", "passes"), [({}, 1), ({"companion_decay": 0.9}, 2)])
def test_both_batches_go_through_the_model_together(settings, passes, tmp_path):
    trainer = ITRATrainer(build("Bert"), config(tmp_path, **settings), train_dataset=examples("Bert", 12))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model.train(), batch)  # places the tap
    rows = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    trainer.compute_loss(trainer.model, batch)
    assert rows == ([8] if passes == 1 else [4, 4])


def test_lists_with_one_entry_an_example_go_along(tmp_path):
    class Named(Toy):
        def forward(self, x, names=None, labels=None):
            assert len(names) == len(x)
            return super().forward(x, labels)

    def collate(rows):
        batch = {"x": torch.stack([row["x"] for row in rows]), "labels": torch.tensor([row["labels"] for row in rows])}
        return {**batch, "names": [str(row["labels"]) for row in rows]}

    run(ITRATrainer, tmp_path, toy_examples(12), Named(), data_collator=collate)


def test_companions_follow_the_data_seed_and_the_class(tmp_path):
    def companions(**settings):
        trainer = ITRATrainer(build("Bert"), config(tmp_path, **settings), train_dataset=examples("Bert", 30))
        paired = trainer.get_train_dataloader().dataset
        return [paired[i] for i in range(30)]

    first = companions(data_seed=1)
    assert first == companions(data_seed=1) != companions(data_seed=2)
    assert all(a["labels"] == b["labels"] for a, b in companions(companion="class_matched"))
    assert not all(a["labels"] == b["labels"] for a, b in first)


def test_uneven_micro_batches_count_by_their_rows_when_aligned(tmp_path):
    data, model = examples("Bert", 13), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    common = {"max_steps": -1, "num_train_epochs": 1, "learning_rate": 0.0, "train_sampling_strategy": "sequential"}
    tiny = {"weight_mode": "constant", "matching_weight": 1e-12}
    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    whole, _ = run(ITRATrainer, tmp_path / "a", data, model, per_device_train_batch_size=8, **common, **tiny)
    parts, _ = run(ITRATrainer, tmp_path / "b", data, model, **small, **common, **tiny)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    once, _ = run(ITRATrainer, tmp_path / "c", data, model, **{**small, **common, **tiny, "logging_steps": 2})
    assert losses(once, "task_loss") == pytest.approx(losses(once), rel=1e-5)


def test_integer_weights_survive_a_search_that_casts(tmp_path):
    assert isinstance(config(tmp_path, matching_weight=1).matching_weight, float)


@pytest.mark.slow
def test_compiled_models_are_balanced_too(tmp_path):
    data, model = examples("Bert", 12), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    plain, _ = run(ITRATrainer, tmp_path / "a", data, model)
    compiled, _ = run(ITRATrainer, tmp_path / "b", data, model, torch_compile_backend="aot_eager")
    for key in ("loss", "matching_weight"):
        assert losses(compiled, key) == pytest.approx(losses(plain, key), rel=1e-3)


def test_weight_set_to_zero_between_runs_switches_the_method_off(tmp_path):
    trainer, _ = run(ITRATrainer, tmp_path, examples("Bert", 12))
    trainer.args.matching_weight = 0.0
    trainer.train()
    assert "matching_loss" not in trainer.state.log_history[0]
