"""Processes that see a loopback Hub and call functions of this file: one trains and pushes, one has no itra_hf."""

import contextlib
import copy
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from huggingface_hub import HfApi, snapshot_download
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from places import ROOT, TESTS
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback, pipeline

TOKEN = "hf_jUsTfOrTeStS"
COLOURS = ["red", "green", "blue"]
TEXTS = ["the apple is red", "a leaf is green", "the sky is blue"]


def start(hub, arguments, **settings):
    """A Python process that sees a Hub."""
    extra = {"PYTHONPATH": f"{ROOT}:{TESTS}", "OMP_NUM_THREADS": "1", **settings.pop("extra")}
    return subprocess.Popen([sys.executable, *arguments], env=hub.environment(**extra), text=True, **settings)


class Command:
    """`itra-hf train` into a folder, under way; its output goes beside the folder."""

    def __init__(self, hub, folder, *arguments, **extra):
        self.hub, self.folder, self.log = hub, folder, folder.with_suffix(".log")
        output = {"stdout": self.log.open("w"), "stderr": subprocess.STDOUT, "cwd": folder.parent}
        self.popen = start(hub, ["-m", "itra_hf", "train", *arguments], extra=extra, **output)

    def wait(self, status):
        """What it printed, once it has ended with this status."""
        self.popen.wait(timeout=120)
        assert self.popen.returncode == status, self.log.read_text()[-3000:]
        return self.log.read_text()

    def end(self):
        self.popen.kill()
        self.popen.wait()


class Process:
    """A process that imports nothing of the names in `without`; what it prints ends in `log`."""

    def __init__(self, hub, log, without=(), **extra):
        code = (
            f"import sys; sys.modules.update(dict.fromkeys({without!r})); import hub_processes; hub_processes.serve()"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log.open("w"), "cwd": log.parent}
        self.popen, self.log = start(hub, ["-c", code], extra=extra, **pipes), log

    def ask(self, function, *args, **keywords):
        """What a function of this file returns there."""
        print(json.dumps([function, args, keywords]), file=self.popen.stdin, flush=True)
        answer = self.popen.stdout.readline()
        assert answer, self.log.read_text()[-3000:]
        return json.loads(answer)

    def end(self):
        self.popen.kill()
        self.popen.communicate(timeout=30)


def serve():
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        name, args, keywords = json.loads(line)
        print(json.dumps(globals()[name](*args, **keywords)), file=answers, flush=True)


@contextlib.contextmanager
def reported():
    """A dictionary that gets an exception's classes and message."""
    answer = {}
    try:
        yield answer
    except Exception as error:
        answer |= {"error": [one.__name__ for one in type(error).__mro__], "message": str(error)}


def logits_of(model, tokenizer):
    with torch.no_grad():
        return model.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.tolist()


# ---- Where itra_hf is ----

TRAINERS = {}


def prepare(folder, source="org/base", lora=False, scratch=False, problem=None, **settings):
    """Makes the trainer of a folder; the error, if that fails."""
    from itra_hf import ITRAConfig, ITRATrainer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = {"num_labels": 3, "id2label": dict(enumerate(COLOURS)), "problem_type": problem}
    if scratch:
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(source, **names))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(source, **names)
    if lora:
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=2))
    label = (lambda i: [float(j <= i % 3) for j in range(3)]) if problem else (lambda i: i % 3)
    data = Dataset.from_list([{**tokenizer(TEXTS[i % 3]), "labels": label(i)} for i in range(12)])
    defaults = {"max_steps": 4, "save_steps": 2, "logging_steps": 2, "learning_rate": 1e-2, "report_to": "none"}
    defaults |= {"use_cpu": True, "disable_tqdm": True, "hub_token": TOKEN, "hub_always_push": True}
    with reported() as answer:
        keywords = {"train_dataset": data, "eval_dataset": data, "processing_class": tokenizer}
        TRAINERS[folder] = ITRATrainer(model, ITRAConfig(folder, **{**defaults, **settings}), **keywords)
    return answer


def train(folder, patient=False):
    """Trains and evaluates; `patient` waits for each push during training."""

    class Wait(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            TRAINERS[folder].push_in_progress.wait_until_done()

    trainer = TRAINERS[folder]
    if patient:
        trainer.add_callback(Wait())
    with reported() as answer:
        trainer.train()
        answer |= trainer.evaluate() | {"steps": trainer.state.global_step}
    return answer


def push(folder, **keywords):
    with reported() as answer:
        TRAINERS[folder].push_to_hub(**keywords)
    return answer


def logits(folder):
    return logits_of(TRAINERS[folder].model, TRAINERS[folder].processing_class)


def ways_to_show_arguments(folder):
    args = TRAINERS[folder].args
    copied = copy.deepcopy(copy.copy(args))
    assert copied.hub_token == args.hub_token == TOKEN
    texts = [repr(args), str(args), args.to_json_string(), str(args.to_dict()), str(args.to_sanitized_dict())]
    return [*texts, repr(pickle.dumps(args)), repr(pickle.dumps(copied)), repr([args.hub_token])]


def command(*arguments, token):
    """The exit status of `itra-hf` in an environment with this token, and what it prints to stderr."""
    from itra_hf.cli import main

    os.environ["HF_TOKEN"] = token
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            main(arguments)
        except SystemExit as end:
            return end.code, printed.getvalue()
        finally:
            os.environ["HF_TOKEN"] = ""
    return 0, printed.getvalue()


# ---- Where itra_hf is not ----


def upload(repo, folder):
    """What `hf upload` does."""
    HfApi().create_repo(repo, exist_ok=True)
    HfApi().upload_folder(repo_id=repo, folder_path=folder)


def load(repo, adapter=False):
    """What a repository's model makes of the texts: loaded from a download of it, and as its card says."""
    with contextlib.suppress(ImportError):
        import itra_hf

        raise AssertionError(f"{itra_hf} must not be there")
    with tempfile.TemporaryDirectory() as folder:
        snapshot_download(repo, local_dir=folder)
        tokenizer, card = AutoTokenizer.from_pretrained(folder), Path(folder, "README.md").read_text()
        if adapter:
            model, classified = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3), None
        else:
            model = AutoModelForSequenceClassification.from_pretrained(folder)
            classified = pipeline("text-classification", folder)(TEXTS)
        return {"logits": logits_of(model, tokenizer), "classified": classified, "snippet": run_snippet(card)}


def run_snippet(card):
    [snippet] = re.findall(r"```python\n(.*?)\n```\n", card, re.DOTALL)
    assert snippet.count('"..."') == 1
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(snippet.replace('"..."', repr(TEXTS[0])), {})
    return printed.getvalue()
