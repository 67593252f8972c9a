"""How `itra-hf compare` shares out memory, threads and GPUs, with processes that only pretend."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from itra_hf.comparison import run as running
from itra_hf.comparison import schedule
from itra_hf.comparison.plan import Run
from itra_hf.comparison.schedule import problem, run_missing

LOOKS = 4  # at a process, until it has ended


class Machine:
    """Processes that end after some looks at them, and memory that they fill as they go.

    Args:
        memory: in all.
        need: what each process holds, by the number of looks at it.
    """

    def __init__(self, memory, need=lambda looks: 1):
        self.memory, self.need, self.started, self.most_alive, self.least_free = memory, need, [], 0, memory

    def Process(self, target, args):  # noqa: N802
        process = FakeProcess(self, args)
        self.started.append(process)
        return process

    @property
    def alive(self):
        return [process for process in self.started if process.exitcode is None]

    def virtual_memory(self):
        return SimpleNamespace(available=self.memory - sum(self.need(process.looks) for process in self.alive))

    def watch(self):
        self.most_alive = max(self.most_alive, len(self.alive))
        self.least_free = min(self.least_free, self.virtual_memory().available)


class FakeProcess:
    def __init__(self, machine, args):
        self.machine, self.looks, self.exitcode, self.pid, self.ended = machine, 0, None, None, ""
        self.run, self.folder, self.threads, self.device = args

    def start(self):
        self.machine.watch()

    def is_alive(self):
        self.looks += 1
        self.machine.watch()
        if self.looks == LOOKS and self.exitcode is None:
            self.exitcode = 0
            self.folder.mkdir(parents=True)
            (self.folder / "result.json").write_text("{}")
        return self.exitcode is None

    def terminate(self):
        self.exitcode = -15

    def join(self):
        self.ended = "joined"


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def use(monkeypatch, as_many_threads_as_before):
    """Makes the schedule run on a machine with some GPUs and eight threads."""

    def install(machine, gpus=0):
        monkeypatch.setattr(schedule, "process_context", lambda: machine)
        monkeypatch.setattr(schedule, "_memory", lambda process: machine.need(process.looks))
        monkeypatch.setattr(schedule.psutil, "virtual_memory", machine.virtual_memory)
        monkeypatch.setattr(schedule.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(schedule.torch, "get_num_threads", lambda: 8)
        monkeypatch.setattr(schedule.torch.cuda, "device_count", lambda: gpus)
        return machine

    return install


def runs(count):
    return [Run(f"run {seed}", seed, None, {}, "Trainer", {}, "", 0.0, 1.0, {}) for seed in range(count)]


# ---- Sharing ----


@pytest.mark.parametrize(("processes", "alive", "threads"), [(1, 1, 8), (3, 3, 2), (20, 6, 1)])
def test_as_many_run_at_once_as_may_and_they_share_the_threads(processes, alive, threads, use, tmp_path):
    machine = use(Machine(memory=1000))
    assert run_missing(runs(7), tmp_path, processes) == {}
    assert len(machine.started) == 7
    assert alive <= machine.most_alive <= processes
    assert {process.threads for process in machine.started} == {threads}


def test_without_memory_for_two_they_run_one_at_a_time(use, tmp_path):
    machine = use(Machine(memory=190, need=lambda looks: 100))
    assert run_missing(runs(5), tmp_path, 3) == {}
    assert (len(machine.started), machine.most_alive) == (5, 1)


def test_a_run_starts_even_where_no_memory_is_free(use, tmp_path):
    machine = use(Machine(memory=1, need=lambda looks: 100))
    assert run_missing(runs(2), tmp_path, 2) == {}
    assert (len(machine.started), machine.most_alive) == (2, 1)


def test_the_next_waits_until_the_first_has_taken_what_it_needs(use, tmp_path):
    """A process that has just started holds next to nothing yet."""
    machine = use(Machine(memory=150, need=lambda looks: 1 if looks < 2 else 100))
    assert run_missing(runs(4), tmp_path, 4) == {}
    assert machine.least_free >= 0


def test_runs_share_several_gpus_and_see_one_each(use, tmp_path):
    machine = use(Machine(memory=1000), gpus=2)
    run_missing(runs(6), tmp_path, 2)
    assert {process.device for process in machine.started} == {"0", "1"}
    one = use(Machine(memory=1000), gpus=1)
    run_missing(runs(6), tmp_path / "other", 2)
    assert {process.device for process in one.started} == {None}


def test_finished_runs_and_runs_of_one_key_are_not_run_again(use, tmp_path):
    machine = use(Machine(memory=1000))
    run_missing(runs(3), tmp_path, 2)
    run_missing([*runs(4), *runs(4)], tmp_path, 2)
    assert [process.run.seed for process in machine.started] == [0, 1, 2, 3]


# ---- Ends ----


def test_an_interrupt_ends_all_that_run(use, tmp_path, monkeypatch):
    machine = use(Machine(memory=1000))

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(schedule.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_missing(runs(5), tmp_path, 3)
    assert [(process.exitcode, process.ended) for process in machine.started] == [(-15, "joined")] * len(
        machine.started
    )


def test_the_reason_of_an_end_is_told_in_a_line(tmp_path):
    assert problem(tmp_path, -9).startswith("the process was killed by signal 9, perhaps for want of memory; see ")
    assert "ended with 3" in problem(tmp_path, 3)
    (tmp_path / "error.txt").write_text("ValueError: two\n  lines\n")
    assert problem(tmp_path, 1) == "ValueError: two lines"
    (tmp_path / "result.json").write_text("{}")
    assert problem(tmp_path, 1) is None


# ---- In the process ----


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Executes a run that measures what it is told to, without taking this process's output away."""

    def run_it(measure, device=None, share=1):
        monkeypatch.setattr(running.os, "dup2", lambda *descriptors: None)
        monkeypatch.setattr(running, "measure", measure)
        running.execute(runs(1)[0], tmp_path / "run", share, device)

    return run_it


def test_an_error_is_left_in_a_file_and_gone_after_a_success(execute, tmp_path):
    def fail(run, folder):
        raise ArithmeticError("no")

    with pytest.raises(SystemExit) as stop:
        execute(fail)
    assert stop.value.code == 1
    assert (tmp_path / "run" / "error.txt").read_text() == "ArithmeticError: no\n"
    assert not (tmp_path / "run" / "result.json").exists()
    execute(lambda run, folder: {"fine": True})
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == {"fine": True}
    assert not (tmp_path / "run" / "error.txt").exists()


def test_a_run_uses_its_share_of_the_threads(execute, tmp_path):
    execute(lambda run, folder: {"threads": torch.get_num_threads()}, share=3)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == {"threads": 3}


def test_a_result_is_there_whole_or_not_at_all(execute, tmp_path, monkeypatch):
    def die(source, target):
        raise OSError("died here")

    monkeypatch.setattr(running.os, "replace", die)
    with pytest.raises(OSError, match="died here"):
        execute(lambda run, folder: {"fine": True})
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("visible", ["5,7", "GPU-5a, GPU-7b"])
def test_the_gpus_that_the_user_made_visible_are_those_that_are_used(visible, execute, use, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine = use(Machine(memory=1000), gpus=2)
    run_missing(runs(6), tmp_path / "runs", 2)
    seen = []
    for process in machine.started:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        execute(lambda run, folder: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]) or {}, process.device)
    assert set(seen) == set(visible.split(", " if " " in visible else ","))


def test_a_run_ends_with_the_process_that_started_it(tmp_path):
    """However that ends: the same command may start the run again."""
    (tmp_path / "sleeping.py").write_text(
        "import os, time\n\n\ndef sleep(run, folder):\n    (folder / 'pid').write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "parent.py").write_text(
        "from pathlib import Path\n\nimport sleeping\n\nfrom itra_hf.comparison.run import execute\n"
        "from itra_hf.comparison.schedule import process_context\n\nif __name__ == '__main__':\n"
        f"    arguments = (None, Path({str(tmp_path)!r}) / 'run', 1, None, sleeping.sleep)\n"
        "    process_context().Process(target=execute, args=arguments).start()\n"
    )
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], cwd=tmp_path)
    pid = tmp_path / "run" / "pid"
    wait_until(lambda: pid.is_file() and pid.read_text())
    child = psutil.Process(int(pid.read_text()))
    try:
        parent.kill()
        parent.wait()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        if child.is_running():
            child.kill()


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
