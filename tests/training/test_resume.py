"""Training that is killed, interrupted or fails, and goes on from its last checkpoint."""

import _thread
import builtins
import errno
import io
import json
import multiprocessing
import os
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import peft
import pytest
import torch
from datasets import Dataset
from families import build, examples
from measuring import hook_count
from safetensors.torch import load_file
from torch.testing import assert_close
from trainers import config
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from itra_hf import ITRAMixin, ITRATrainer
from itra_hf.alignment import checkpoint as checkpoints
from itra_hf.alignment.checkpoint import AVERAGE_NAME

ROWS, STEPS = 26, 12  # batches of 4: 7 steps an epoch
MEMORY = {"companion": "memory", "memory_size": 14}
PATIENCE = 240  # seconds; a process that takes longer hangs
# Loader workers of a spawned process would be spawned as well, and import everything again.
FORK = {"dataloader_multiprocessing_context": "fork"} if "fork" in multiprocessing.get_all_start_methods() else {}
if not hasattr(TrainingArguments, "dataloader_multiprocessing_context"):  # as in transformers 5.8
    FORK = {}


class At(TrainerCallback):
    """Does something once a number of steps is done, their checkpoint included."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums' last bits depend on the number of threads; a process that is started by a test sets its own in `make`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(folder, data=None, model=None, callbacks=None, trainer_class=ITRATrainer, **settings):
    torch.set_num_threads(1)
    settings = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 4, **settings}
    settings |= FORK if settings.get("dataloader_num_workers") else {}
    data = data or Dataset.from_list(examples("Bert", ROWS))
    return trainer_class(model or build("Bert"), config(folder, **settings), train_dataset=data, callbacks=callbacks)


def assert_same_end(folder, expected, weights="model.safetensors"):
    """Both runs' last checkpoints hold the same log, line for line, and the same weights, bit for bit."""
    logs = [json.loads((run / f"checkpoint-{STEPS}/trainer_state.json").read_text()) for run in (folder, expected)]
    assert logs[0]["log_history"] == logs[1]["log_history"]
    assert {"loss", "task_loss", "matching_loss", "matching_weight"} <= set(logs[0]["log_history"][-1])
    assert_close(*(load_file(run / f"checkpoint-{STEPS}" / weights) for run in (folder, expected)), rtol=0, atol=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    make(folder).train()
    return folder


# ---- Killed from outside ----


def announce_and_wait(folder):
    (folder / "reached").touch()
    time.sleep(2 * PATIENCE)


def wait_at_step(folder, step, workers):
    make(folder, callbacks=[At(step, lambda: announce_and_wait(folder))], dataloader_num_workers=workers).train()


def save_half(folder, content, path):
    if path.endswith(os.path.join("checkpoint-8", "optimizer.pt")):
        Path(path).write_bytes(b"PK")
        announce_and_wait(folder)
    torch.serialization.save(content, path)


def wait_while_saving(folder):
    torch.save = partial(save_half, folder)
    make(folder).train()


def go_on(runs):
    for folder, (_, workers) in runs.items():
        make(folder, dataloader_num_workers=workers).train(resume_from_checkpoint=True)


@pytest.fixture
def start():
    processes = []

    def start_one(target, *args):
        processes.append(multiprocessing.get_context("spawn").Process(target=target, args=args))
        processes[-1].start()
        return processes[-1]

    yield start_one
    for process in processes:
        process.kill()  # if it hangs


def kill_when_reached(process, folder):
    deadline = time.monotonic() + PATIENCE
    while process.is_alive() and not (folder / "reached").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert (folder / "reached").exists()


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_in_another_process(start, undisturbed, tmp_path):
    runs = {tmp_path / "first_epoch": (6, 0), tmp_path / "second_epoch": (10, 2)}  # steps and workers
    for folder in runs:
        folder.mkdir()
    killed = [start(wait_at_step, folder, *settings) for folder, settings in runs.items()]
    for process, folder in zip(killed, runs, strict=True):
        kill_when_reached(process, folder)
    (resumed := start(go_on, runs)).join(PATIENCE)
    assert resumed.exitcode == 0
    for folder in runs:
        assert_same_end(folder, undisturbed)


def test_killed_while_saving_a_checkpoint(start, undisturbed, tmp_path):
    kill_when_reached(start(wait_while_saving, tmp_path), tmp_path)
    assert (tmp_path / "checkpoint-8" / "optimizer.pt").read_bytes() == b"PK"
    assert_only_older_checkpoint_resumes(tmp_path, undisturbed)


def assert_only_older_checkpoint_resumes(folder, undisturbed):
    # The stock Trainer takes the newest folder, whole or not; that it refuses loudly is what we ask of ours too.
    for trainer_class in (Trainer, ITRATrainer):
        with pytest.raises(FileNotFoundError, match=r"checkpoint-8.+trainer_state\.json"):
            make(folder, trainer_class=trainer_class).train(resume_from_checkpoint=True)
    make(folder).train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert_same_end(folder, undisturbed)  # and its checkpoint-8 took the half-written one's place:
    shutil.rmtree(folder / f"checkpoint-{STEPS}")
    make(folder).train(resume_from_checkpoint=True)
    assert_same_end(folder, undisturbed)


def test_a_checkpoint_keeps_the_largest_pull_that_a_rising_weight_follows(tmp_path):
    make(tmp_path, weight_mode="rising").train()
    path = tmp_path / "checkpoint-4" / checkpoints.STATE_NAME
    state = json.loads(path.read_text())
    assert state["peak"] > 0
    path.write_text(json.dumps({**state, "peak": 64.0}))
    found, trainer = [], make(tmp_path, weight_mode="rising")
    trainer.add_callback(At(4, lambda: found.append(trainer._itra_weight.peak.item())))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert found == [64.0]


RISING = {"weight_mode": "rising", "learning_rate": 0.05}


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (24, {"save_steps": 6}),  # at an epoch's end
        (24, {"save_strategy": "epoch"}),
        (26, {"save_steps": 3, "gradient_accumulation_steps": 2}),  # epochs of 4 steps, the last of one batch
        (16, {**MEMORY, "save_steps": 3, "gradient_accumulation_steps": 2, **RISING}),  # rises from the seventh step on
        (26, {**MEMORY, "save_steps": 3, "bf16": True}),
        (16, {"companion_decay": 0.9, "save_steps": 3, "gradient_accumulation_steps": 2, **RISING}),
        (8, {**MEMORY, "save_steps": 3, **RISING}),
        (26, {"companion_decay": 0.5, "companion": "class_matched", "save_steps": 3, "bf16": True}),
        (26, {**MEMORY, "save_steps": 6, "logging_steps": 3, "weight_mode": "constant"}),
    ],
)
def test_resume_continues_bit_for_bit(rows, settings, tmp_path):
    data = Dataset.from_list(examples("Bert", rows))
    make(tmp_path / "a", data, **settings).train()
    shutil.copytree(tmp_path / "a" / "checkpoint-6", tmp_path / "b" / "checkpoint-6")
    make(tmp_path / "b", data, **settings).train(resume_from_checkpoint=True)
    assert_same_end(tmp_path / "b", tmp_path / "a")


def test_ignore_data_skip_starts_the_epoch_anew_like_the_stock_trainer(undisturbed, tmp_path):
    seen = {}

    class Watch(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.setdefault(type(self), []).append(inputs["input_ids"].tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)

    paired = type("PairedWatch", (ITRAMixin, Watch), {})
    for trainer_class in (Watch, paired):
        trainer = make(tmp_path, trainer_class=trainer_class, ignore_data_skip=True)
        trainer.train(resume_from_checkpoint=str(undisturbed / "checkpoint-4"))
        assert len([line for line in trainer.state.log_history if "loss" in line]) == STEPS
    assert len(seen[Watch]) == STEPS - 4
    assert seen[Watch] == seen[paired]


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_adapter_checkpoints_resume_and_load_with_peft_alone(decay, tmp_path):
    settings = {"lora_dropout": 0.1, "target_modules": ["query", "value"], "modules_to_save": ["classifier"]}

    def lora():
        return peft.get_peft_model(build("Bert"), peft.LoraConfig(task_type="SEQ_CLS", r=4, **settings))

    whole = make(tmp_path / "a", model=lora(), companion_decay=decay)
    whole.train()
    shutil.copytree(tmp_path / "a" / "checkpoint-4", tmp_path / "b" / "checkpoint-4")
    make(tmp_path / "b", model=lora(), companion_decay=decay).train(resume_from_checkpoint=True)
    assert_same_end(tmp_path / "b", tmp_path / "a", "adapter_model.safetensors")
    saved = tmp_path / "b" / f"checkpoint-{STEPS}"
    assert all("lora_" in name or "classifier" in name for name in load_file(saved / "adapter_model.safetensors"))
    averaged = load_file(saved / AVERAGE_NAME) if decay else {}
    assert len(averaged) == (10 if decay else 0)  # of two layers two matrices for queries and values each, and the head
    assert all("lora_" in name or "classifier" in name for name in averaged)
    assert not list(saved.glob("model*.safetensors")) + list(saved.glob("pytorch_model*"))
    loaded = peft.PeftModel.from_pretrained(build("Bert"), saved).eval()
    ids = torch.tensor([row["input_ids"] for row in examples("Bert", 4)])
    assert torch.equal(loaded(input_ids=ids).logits, whole.model.eval()(input_ids=ids).logits)


# ---- Faults ----


class Faulty(torch.utils.data.Dataset):
    """Good rows until `broken` is set; a tensor in shared memory, so that workers see it change."""

    def __init__(self, fault):
        self.rows, self.fault, self.broken = examples("Bert", ROWS), fault, torch.zeros(()).share_memory_()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.fault(self.rows[index]) if self.broken else self.rows[index]


def test_a_checkpoint_without_alignment_is_told(tmp_path, caplog):
    make(tmp_path, matching_weight=0.0).train()
    make(tmp_path, max_steps=STEPS + 2).train(resume_from_checkpoint=True)
    told = "Alignment starts anew, for the checkpoint has no itra_state.json"
    assert sum(told in record.message for record in caplog.records) == 1
    make(tmp_path, max_steps=STEPS + 6).train(resume_from_checkpoint=True)
    assert sum(told in record.message for record in caplog.records) == 1


def make_faulty(folder, fault, **settings):
    data = Faulty(fault)
    return make(folder, data, callbacks=[At(6, lambda: data.broken.fill_(1))], **settings)


def strict(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    if longest > 8:
        raise ValueError(f"{longest} tokens are too many")
    return default_data_collator(rows)


@pytest.mark.parametrize(
    ("ids", "message"), [([5] * 9, "9 tokens are too many"), (None, "object of type 'NoneType' has no len()")]
)
def test_a_row_that_the_collator_rejects(ids, message, undisturbed, tmp_path):
    trainer = make_faulty(tmp_path, lambda row: {**row, "input_ids": row["input_ids"] if row["labels"] else ids})
    trainer.data_collator = strict
    with pytest.raises((ValueError, TypeError)) as error:
        trainer.train()
    assert str(error.value) == message
    assert hook_count(trainer.model) == 0
    make(tmp_path).train(resume_from_checkpoint=True)
    assert_same_end(tmp_path, undisturbed)


@pytest.fixture
def watchdog():
    timer = threading.Timer(PATIENCE, _thread.interrupt_main)  # so a hang ends in a KeyboardInterrupt
    timer.start()
    yield
    timer.cancel()


def test_a_worker_that_dies(watchdog, undisturbed, tmp_path):
    trainer = make_faulty(tmp_path, lambda row: os._exit(1), dataloader_num_workers=2)
    with pytest.raises(RuntimeError, match=r"^DataLoader worker.* exited unexpectedly"):
        trainer.train()
    make(tmp_path, dataloader_num_workers=2).train(resume_from_checkpoint=True)
    assert_same_end(tmp_path, undisturbed)


def write_to_full_disk(original, file_name, *args, **kwargs):
    for path in [value for value in args if isinstance(value, (str, os.PathLike))]:
        if "checkpoint-8" in str(path) and file_name in str(path):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))  # made, but not filled
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return original(*args, **kwargs)


@pytest.mark.parametrize("file_name", ["itra_state.json", "optimizer.pt"])
def test_disk_full_at_a_checkpoint(file_name, undisturbed, tmp_path, monkeypatch):
    trainer = make(tmp_path)
    with monkeypatch.context() as patch:
        for module, name in ((torch, "save"), (builtins, "open"), (io, "open")):
            patch.setattr(module, name, partial(write_to_full_disk, getattr(module, name), file_name))
        with pytest.raises(OSError, match=r"No space left on device.*checkpoint-8"):
            trainer.train()
    assert hook_count(trainer.model) == 0
    assert not (tmp_path / "checkpoint-8" / "trainer_state.json").exists()  # what resuming looks for first
    assert_only_older_checkpoint_resumes(tmp_path, undisturbed)


def test_interrupted_within_a_step(undisturbed, tmp_path):
    model = build("Bert")
    encode, before = model.bert.encoder.forward, hook_count(model)

    interrupt = Mock(side_effect=KeyboardInterrupt)
    trainer = make(tmp_path, model=model, callbacks=[At(6, lambda: setattr(model.bert.encoder, "forward", interrupt))])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (trainer.state.global_step, hook_count(model)) == (6, before)
    model.bert.encoder.forward = encode
    trainer.pop_callback(At)
    trainer.train(resume_from_checkpoint=True)  # the same trainer, as in a notebook
    assert_same_end(tmp_path, undisturbed)
    assert hook_count(model) == before


@pytest.mark.parametrize(
    ("older", "now", "held"),
    [
        ({}, {"feature": "cls"}, False),
        ({"memory_correction": "none"}, {}, True),  # of the version that could move features by their drift
        ({"memory_correction": "mean"}, {}, False),
    ],
)
def test_a_memory_kept_with_other_settings_is_not_misread(older, now, held, tmp_path, monkeypatch):
    make(tmp_path, **MEMORY).train()
    path = tmp_path / "checkpoint-4" / checkpoints.STATE_NAME
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "memory": state["memory"] | older}))
    warning = Mock()
    monkeypatch.setattr(checkpoints.logger, "warning", warning)
    found, trainer = [], make(tmp_path, **now, **MEMORY)
    trainer.add_callback(At(4, lambda: found.append(trainer._itra_aligner.memory.features is not None)))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert found == [held]
    assert ["starts with an empty memory" in call.args[0] for call in warning.call_args_list] == [] if held else [True]
