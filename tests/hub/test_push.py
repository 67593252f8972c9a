"""Pushes to a loopback Hub, through the real client in processes of their own, and what others then load from it."""

import ast
import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import rows, save_model, write, write_config
from fake_hub import FakeHub, card_errors
from hub_processes import COLOURS, TOKEN, Command, Process
from huggingface_hub import ModelCard
from transformers import BertConfig, BertModel

pytestmark = pytest.mark.slow

TOKENS = f"--token {TOKEN} --hub_token {TOKEN}"
RUNS = {  # of `itra-hf train`: options, fields of the config file, and HF_TOKEN
    "whole": (f"{TOKENS} --language en --license apache-2.0", {"hub_strategy": "end", "report_to": "tensorboard"}, ""),
    "broken": ("--cache_dir cache", {"hub_strategy": "checkpoint"}, TOKEN),
}
BEFORE, AFTER = "# By hand\n\nBefore | it.", "## After\n\n{{ it }}"


# ---- The Hub and the processes ----


def add_base(hub, folder):
    files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return hub.add_model("org/base", files=files, tags=["license:mit"])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def base(root):
    return save_model(root / "base", BertModel, BertConfig, pad_token="[PAD]")


@pytest.fixture(scope="module")
def hub(base):
    with FakeHub(token=TOKEN) as hub:
        add_base(hub, base)
        yield hub


@pytest.fixture(scope="module")
def commands(base, root):
    """Runs of `itra-hf train` by name, each with a Hub of its own."""
    train, test = (write(root, f"{name}.csv", rows(count)) for name, count in (("train", 30), ("test", 9)))
    fields = {"train_file": train, "test_file": test, "save_strategy": "steps", "save_steps": 2, "push_to_hub": True}
    with contextlib.ExitStack() as stack:
        started = {}
        for name, (options, more, token) in RUNS.items():
            hub, folder = stack.enter_context(FakeHub(token=TOKEN)), root / "cli" / name
            add_base(hub, base).private = name == "whole"
            hub.failures["commit"] += [500] * 9 if name == "broken" else []
            folder.parent.mkdir(exist_ok=True)
            config = write_config(folder.parent, "org/base", **{**fields, **more, "output_dir": str(folder)})
            config = Path(config).rename(folder.with_suffix(".yaml"))
            started[name] = Command(hub, folder, str(config), *options.split(), HF_TOKEN=token)
            stack.callback(started[name].end)
        yield started


@pytest.fixture(scope="module")
def processes(hub, root, commands):
    """One that trains and has no token but what it is given, and one that has a token but no itra_hf."""
    both = Process(hub, root / "training.log", HF_TOKEN=""), Process(hub, root / "loading.log", ("itra_hf",))
    yield both
    for process in both:
        process.end()


@pytest.fixture(scope="module")
def here(processes):
    return processes[0]


@pytest.fixture(autouse=True)
def works_again(hub):
    for failures in hub.failures.values():
        failures.clear()


@pytest.fixture
def folder(request, root):
    return str(root / re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-"))


def repo_of(hub, folder):
    return hub.repos[f"user/{Path(folder).name}"]


def card_of(hub, repo):
    """A repository's card, if the Hub would take it and all its links lead somewhere."""
    text = repo.files["README.md"].decode()
    assert card_errors(text) == []
    links = re.findall(r"\]\((?:https://huggingface.co/)?([^)]*)\)", text)
    assert set(links) <= {*hub.repos, *repo.files}
    return ModelCard(text)


def run(here, folder, **settings):
    assert here.ask("prepare", folder, **settings) == {}
    return here.ask("train", folder)


def assert_loads(processes, folder, adapter=False, multi_label=False):
    here, elsewhere = processes
    expected, found = np.array(here.ask("logits", folder)), elsewhere.ask("load", f"user/{Path(folder).name}", adapter)
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
    scores = 1 / (1 + np.exp(-expected)) if multi_label else np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    for row, one in zip(scores, found["classified"] or [], strict=False):
        assert one == {"label": COLOURS[row.argmax()], "score": pytest.approx(row.max(), abs=1e-4)}
    shown, best = {one["label"]: one["score"] for one in ast.literal_eval(found["snippet"])}, scores[0].argmax()
    wanted = dict(zip(COLOURS, scores[0], strict=True)) if multi_label else {COLOURS[best]: scores[0, best]}
    assert shown == pytest.approx(wanted, abs=1e-4)


# ---- Pushes ----

WITHIN = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-2", "checkpoint-4"}}
STATE = {"trainer_state.json", "optimizer.pt", "scheduler.pt", "itra_state.json", "model.safetensors"}


@pytest.mark.parametrize("strategy", [None, "end", "every_save", "checkpoint", "all_checkpoints"])
def test_what_is_in_the_repository(strategy, hub, processes, folder):
    metrics = run(processes[0], folder, **({"push_to_hub": True, "hub_strategy": strategy} if strategy else {}))
    assert processes[0].ask("push", folder, language="en") == {}
    repo = repo_of(hub, folder)
    saves = 0 if strategy in (None, "end") else 4 if strategy in WITHIN else 2
    assert [message for message, _ in repo.commits][saves:] == ["End of training"]
    assert {path.split("/")[0] for path in repo.files if "/" in path} == {"figures"} | WITHIN.get(strategy, set())
    for inner in WITHIN.get(strategy, ()):
        assert {path.split("/")[1] for path in repo.files if path.startswith(f"{inner}/")} >= STATE
    names = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "training_args.bin"}
    assert {path for path in repo.files if "/" not in path} == names | {"tokenizer_config.json"}
    assert all(Path(folder, path).read_bytes() == repo.files[path] for path in names)
    data = card_of(hub, repo).data
    assert (data.language, data.license, data.base_model) == ("en", "mit", "org/base")
    assert [one.metric_value for one in data.eval_results] == [metrics["eval_loss"]]
    assert f"(revision `{hub.repos['org/base'].sha[:8]}`)" in repo.files["README.md"].decode()
    assert_loads(processes, folder)


def test_an_adapter_and_what_the_user_wrote_around_its_card(hub, processes, folder):
    here, tags = processes[0], ["generated_from_trainer", "lora", "itra", "arxiv:2211.13332"]
    run(here, folder, lora=True, push_to_hub=True, hub_strategy="all_checkpoints")
    for _ in range(2):
        assert here.ask("push", folder) == {}
        data = card_of(hub, repo_of(hub, folder)).data
        assert (data.library_name, data.base_model, data.tags) == ("peft", "org/base", tags)
    assert_loads(processes, folder, adapter=True)
    check_users_parts(hub, here, folder)


def test_an_adapter_for_several_labels(hub, processes, folder):
    run(processes[0], folder, lora=True, problem="multi_label_classification", alignment="joint")
    assert processes[0].ask("push", folder) == {}
    assert_loads(processes, folder, adapter=True, multi_label=True)


def check_users_parts(hub, here, folder):
    """Edits the local card by hand, and pushes twice."""
    path, repo = Path(folder, "README.md"), repo_of(hub, folder)
    own = "license: apache-2.0\nlanguage: de\ncustom: [1]\ntags:\n- mine\n"
    text = path.read_text().replace("## Results", "## My results").replace("license: mit\n", "").replace("tags:\n", own)
    head, generated = text.split("\n---\n", 1)
    path.write_text(f"{head}\n---\n{BEFORE}\n{generated}\n{AFTER}\n")
    for _ in range(2):
        assert here.ask("push", folder) == {}
        card = card_of(hub, repo)
        assert card.text.strip().startswith(f"{BEFORE}\n\n<!--")
        assert card.text.strip().endswith(f"\n{AFTER}")
        assert ("## Results" in card.text, "## My results" in card.text) == (True, False)
        kept = [card.data.get(key) for key in ("license", "language", "custom", "tags")]
        assert (kept[:3], kept[3][0]) == (["apache-2.0", "de", [1]], "mine")


def test_what_the_user_wrote_here_or_on_the_web_stays(hub, here, folder):
    run(here, folder)
    assert here.ask("push", folder) == {}
    repo = repo_of(hub, folder)
    first = "library_name:", "language: fr\nlibrary_name:"
    for (old, new), edit in ((first, "\n\nFrom the web."), (("From the web.", "Again."), "")):
        web = repo.files["README.md"].decode().replace(old, new) + edit
        repo.move_to({**repo.files, "README.md": web.encode()})
        assert here.ask("push", folder) == {}
        card = card_of(hub, repo)
        assert (card.text.strip().split("-->\n\n")[-1], card.data.language) == (web.strip().split("\n\n")[-1], "fr")
    check_users_parts(hub, here, folder)


def test_private_repositories_stay_private(hub, here, folder):
    first = {"push_to_hub": True, "hub_strategy": "end", "hub_private_repo": True}
    for one, settings, keywords in ((f"{folder}-1", first, {}), (f"{folder}-2", {}, {"private": True})):
        run(here, one, **settings)
        for language in ("en", "de"):
            assert here.ask("push", one, **keywords, commit_message=language, language=language) == {}
        assert repo_of(hub, one).private is True
        assert [message for message, _ in repo_of(hub, one).commits] == ["en", "de"]


@pytest.mark.parametrize("kind", ["folder", "scratch"])
def test_no_base_model_is_claimed_where_none_came_from_the_hub(kind, hub, here, base, folder):
    hub.add_model("org/config", hub.repos["org/base"].files, tags=["license:mit"])
    run(here, folder, **({"source": base} if kind == "folder" else {"source": "org/config", "scratch": True}))
    assert here.ask("push", folder) == {}
    card = card_of(hub, repo_of(hub, folder))
    assert card.data.base_model is card.data.license is None
    assert "huggingface.co" not in card.text


# ---- Failures ----


def test_a_refused_token_is_an_error_of_the_hub(hub, here, folder):
    assert "HfHubHTTPError" in here.ask("prepare", folder, push_to_hub=True, hub_token="wrong")["error"]
    run(here, folder, hub_token=None, save_strategy="no")
    for keywords in ({}, {"token": "wrong"}):
        answer = here.ask("push", folder, **keywords)
        assert ("HfHubHTTPError" in answer["error"], "401" in answer["message"]) == (True, True)
    assert (f"user/{Path(folder).name}" in hub.repos, f"whole in {folder}" in answer["message"]) == (False, True)
    assert {"model.safetensors", "README.md"} <= {path.name for path in Path(folder).iterdir()}
    assert here.ask("push", folder, token=TOKEN) == {}
    assert "HfHubHTTPError" in here.ask("push", folder, token="wrong")["error"]


def test_a_failure_of_the_disk_is_not_taken_for_one_of_the_hub(here, folder):
    run(here, folder)
    Path(folder, "README.md").mkdir()
    answer = here.ask("push", folder)
    assert ("OSError" in answer["error"], "ConnectionError" in answer["error"]) == (True, False)
    assert "whole" not in answer["message"]


def assert_explained(text, repo, folder):
    parts = f"The push to {repo} failed", f"whole in {folder}", "trainer.push_to_hub()", f"hf upload {repo} {folder}"
    assert not [part for part in parts if part not in text], text


@pytest.mark.parametrize("settings", [{"push_to_hub": True, "hub_strategy": "end"}, {}])
def test_after_a_failure_of_the_hub_a_second_push_works(settings, hub, processes, folder):
    run(processes[0], folder, **settings)
    hub.fail("commit", 500)
    answer = processes[0].ask("push", folder)
    assert "HfHubHTTPError" in answer["error"]
    assert_explained(answer["message"], f"user/{Path(folder).name}", folder)
    assert repo_of(hub, folder).commits == []
    assert processes[0].ask("push", folder) == {}
    assert_loads(processes, folder)


WARNINGS = {"commit": "A push during training failed", "resolve": "The model card was not renewed at this checkpoint"}


@pytest.mark.parametrize(("kind", "save_steps"), [("commit", 1), ("commit", 4), ("resolve", 4)])
def test_a_failure_during_training_is_reported_and_stops_nothing(kind, save_steps, hub, here, folder):
    assert here.ask("prepare", folder, push_to_hub=True, hub_strategy="every_save", save_steps=save_steps) == {}
    start = len(here.log.read_text())
    hub.fail(kind, 500 if kind == "commit" else 403)  # which the client does not try again
    answer = here.ask("train", folder, patient=True)
    assert (answer.get("steps"), here.log.read_text()[start:].count(WARNINGS[kind])) == (4, 1), answer
    assert here.ask("push", folder) == {}
    assert repo_of(hub, folder).files["model.safetensors"] == Path(folder, "model.safetensors").read_bytes()


def test_a_hub_that_can_not_tell_the_licence_costs_nothing_but_that(hub, here, folder):
    run(here, folder)
    hub.fail("model_info", 500, times=9)
    assert here.ask("push", folder) == {}
    card = card_of(hub, repo_of(hub, folder))
    assert (card.data.license, card.data.base_model) == (None, "org/base")


def test_a_card_that_can_not_be_read_is_not_written_over(hub, here, folder):
    run(here, folder)
    for language in ("en", "de"):  # the client keeps a copy of the first card
        assert here.ask("push", folder, language=language) == {}
    repo = repo_of(hub, folder)
    repo.move_to({**repo.files, "README.md": repo.files["README.md"] + b"\n\nFrom the web."})
    hub.fail("resolve", 403, times=9)
    Path(folder, "model.safetensors").unlink()
    answer = here.ask("push", folder, language="en")
    assert b"From the web." in repo.files["README.md"], answer
    assert_explained(answer["message"], f"user/{Path(folder).name}", folder)
    assert Path(folder, "model.safetensors").exists()  # for the message says so


# ---- From the command line ----


def test_one_push_from_the_command_line(commands):
    commands["whole"].wait(0)
    hub, repo = commands["whole"].hub, commands["whole"].hub.repos["user/whole"]
    assert [message for message, _ in repo.commits] == ["End of training"]
    card = card_of(hub, repo)
    assert (card.data.language, card.data.license, card.data.base_model) == ("en", "apache-2.0", "org/base")
    shown = {(one.dataset_split, one.metric_name): one.metric_value for one in card.data.eval_results}
    for name in ("eval", "test"):
        values = json.loads(repo.files[f"{name}_results.json"])
        assert (shown[name, "Accuracy"], shown[name, "Loss"]) == (values[f"{name}_accuracy"], values[f"{name}_loss"])
    assert {"test_predictions.csv", "config.json", "figures/learning_curves.png"} <= set(repo.files)
    assert any(path.startswith("runs/") for path in repo.files)
    assert not any("checkpoint" in path for path in repo.files)


def test_a_failure_of_the_hub_ends_the_command_line_with_the_model_whole(commands, hub, processes):
    log, folder = commands["broken"].wait(2), commands["broken"].folder
    assert "Traceback" not in log
    assert "A push during training failed" in log
    assert re.search("^itra-hf: error: .*500", log, re.MULTILINE)
    assert_explained(log, "user/broken", folder)
    assert commands["broken"].hub.repos["user/broken"].commits == []
    processes[1].ask("upload", "user/broken", str(folder))  # as the message says, if to another Hub
    assert processes[1].ask("load", "user/broken")["classified"][0]["label"] in COLOURS
    data = ModelCard.load(folder / "README.md").data
    assert (data.base_model, data.license, data.metrics[0]) == ("org/base", "mit", "accuracy")  # even with --cache_dir


@pytest.mark.parametrize(("token", "options"), [("wrong", []), ("", ["--hub_token", "wrong"])])
def test_a_refused_token_ends_the_command_line_with_one_message(token, options, hub, here, base, root, folder):
    options += ["--model_name_or_path", base, "--output_dir", folder]
    status, printed = here.ask("command", "train", str(root / "cli" / "broken.yaml"), *options, token=token)
    assert status == 2
    assert re.search("^itra-hf: error: .*401", printed, re.MULTILINE)
    assert (f"user/{Path(folder).name}" in hub.repos, Path(folder, "model.safetensors").exists()) == (False, False)


def test_the_token_is_in_no_file_and_no_message(commands, here, hub, folder, root):
    run(here, folder, push_to_hub=True, hub_strategy="all_checkpoints", report_to="tensorboard")
    assert here.ask("push", folder) == {}
    assert not [text for text in here.ask("ways_to_show_arguments", folder) if TOKEN in text]
    commands["whole"].wait(0), commands["broken"].wait(2)
    files = [path for path in root.rglob("*") if path.is_file()]
    names = {"training_args.bin", "README.md", "trainer_state.json", "training.log", "whole.log", "broken.yaml"}
    assert {path.name for path in files} >= names
    assert any("tfevents" in path.name for path in files)
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    repos = [repo for one in (hub, *(command.hub for command in commands.values())) for repo in one.repos.values()]
    contents = [content for repo in repos for state in repo.states.values() for content in state.values()]
    assert (len(contents) > 100, TOKEN.encode() in b"".join(contents)) == (True, False)
