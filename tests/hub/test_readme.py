"""What a card keeps of the README that it is written over: the user's text and metadata, whatever they hold."""

import ast
import json
import re
from pathlib import Path

import pytest
from cards import TAGS, THEIRS, card_of, results, tables, trained, trainer_of, with_lora, write
from families import build, examples
from transformers import Trainer

from itra_hf.hub.facts import Evaluation, HubSource
from itra_hf.hub.readme import BEGIN, END

HOSTILE = ["a|b", "`c` *d*", "<b>e", "f\ng", "{{ name }} {% if x %}", "été 日本", "'\"\\", "# h: [i](j)", "---"]
MINE = "---\nlicense: mit\nlanguage: de\ncustom: [1, {a: b}]\ntags: [mine]\n---\n\n# My model\n\nRead this first.\n"
FIGURES = {("eval", "Loss"): 0.5, ("eval", "Accuracy"): 0.75}  # of the facts that `write` makes up


def write_afresh(folder, **given):
    Path(folder, "README.md").unlink(missing_ok=True)
    return write(folder, **given)


def test_what_the_user_wrote_stays_around_the_generated_part(tmp_path):
    before = "# My model\n\nRead this first."
    edited = write(tmp_path, MINE).content.replace("## Results", "## My results") + "\n## After\n\n| x |\n"
    for readme in (edited, None):
        card = write(tmp_path, readme, base_model=HubSource("org/base", ""))
        assert card.text.split(BEGIN)[0].strip() == before
        assert card.text.split(END)[1].strip() == "## After\n\n| x |"
        assert "## Results" in card.text
        assert "## My results" not in card.text
        data = card.data
        assert (data.license, data.language, data.custom, data.tags) == ("mit", "de", [1, {"a": "b"}], ["mine", *TAGS])
    by_hand = f"# Mine\n\n{END}\nBy hand."
    assert write(tmp_path, by_hand).text.split(BEGIN)[0].strip() == by_hand  # the marks are not both there
    for readme in (f"Mine {BEGIN} by hand.\n\nMore.", None):
        assert re.match(r"\s+Mine .*by hand\.\n\nMore\.\n", write(tmp_path, readme).text)


def test_the_remote_card_counts_where_the_local_one_has_nothing_of_the_users(tmp_path):
    generated = write(tmp_path).content
    remote = generated.replace("library_name", "license: mit\nlibrary_name") + "\nFrom the web.\n"
    for readme in (None, generated):
        card = write_afresh(tmp_path, readme=readme, remote=remote)
        assert (card.text.split(END)[1].strip(), card.data.license) == ("From the web.", "mit")
    card = write(tmp_path, MINE, remote)
    assert "Read this first." in card.text
    assert "From the web." not in card.text


def test_metadata_alone_that_changed_on_the_web_stays(tmp_path):
    remote = write(tmp_path).content.replace("library_name", "license: mit\ncustom: yes!\nlibrary_name")
    data = write(tmp_path, remote=remote).data
    assert (data.license, data.get("custom")) == ("mit", "yes!")


def test_a_second_edit_on_the_web_stays_too(tmp_path):
    remote = write(tmp_path).content + "\nFirst edit.\n"
    local = write(tmp_path, remote=remote).content
    card = write(tmp_path, remote=local.replace("First edit.", "Second edit."))
    assert card.text.split(END)[1].strip() == "Second edit."
    for _ in range(2):
        card = write(tmp_path, remote="# Written anew")
        assert card.text.strip().startswith("# Written anew\n")
        assert card.text.strip().endswith(END)


def test_an_edit_here_stays_until_it_is_pushed_and_one_elsewhere_then(tmp_path, caplog):
    remote = write(tmp_path).content
    write(tmp_path, remote + "\nMine.\n", remote)
    for _ in range(2):  # the push before this one failed, or is still under way
        local = write(tmp_path, remote=remote).content
        assert local.split(END)[1].strip() == "Mine."
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", local.replace("Mine.", "Elsewhere."), local)
    remote = write(tmp_path / "other", remote=local).content
    for edit in ("Elsewhere.", "Both."):
        readme = local.replace("Mine.", edit) if edit == "Both." else local
        assert write(tmp_path, readme, remote).text.split(END)[1].strip() == edit
        assert caplog.text.count("was edited here and in the repository") == (edit == "Both.")


def test_a_task_that_only_the_user_knows_stays(tmp_path):
    card = write(tmp_path, "---\npipeline_tag: zero-shot-classification\n---\nMine.", task=None)
    assert card.data.pipeline_tag == "zero-shot-classification"


def test_the_users_licence_goes_before_the_base_models(tmp_path, monkeypatch):
    monkeypatch.setattr("itra_hf.hub.facts.base_model_of", lambda model: HubSource("org/base", ""))
    monkeypatch.setattr("itra_hf.hub.facts.license_of", lambda name, token: "apache-2.0")
    trainer = trainer_of(tmp_path)
    for readme, given, wanted in (("", {}, "apache-2.0"), (MINE, {}, "mit"), (MINE, {"license": "bsd"}, "bsd")):
        (tmp_path / "README.md").write_text(readme, encoding="utf-8")
        trainer.create_model_card(**given)
        assert card_of(tmp_path).data.license == wanted


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("kind", ["peft", "stock"])
def test_a_library_s_own_readme_goes_unless_somebody_edited_it(kind, changed, tmp_path):
    if kind == "peft":
        with_lora(build("Bert")).save_pretrained(tmp_path)
    else:
        Trainer.create_model_card(trainer_of(tmp_path, build("Bert")), tags="stock")
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    blank = "- **Developed by:** [More Information Needed]" if kind == "peft" else "More information needed"
    assert blank in readme
    card = write(tmp_path, readme.replace(blank, "Made by me", 1) if changed else readme)
    assert ("Made by me" in card.text) == ("nformation" in card.text) == changed
    assert card.data.tags == TAGS or (changed and set(card.data.tags) > set(TAGS))


@pytest.mark.parametrize("source", ["source: {url: 'https://a.org'}", ""])
def test_results_of_earlier_runs_go_and_sourced_ones_stay(source, tmp_path):
    old = write(tmp_path, evaluations={"old": Evaluation({"r2": 0.5}, 3)}).content
    assert results(write(tmp_path)) == FIGURES
    theirs = {("test", "Accuracy"): 0.125, **({("old", "Macro F1"): 0.25} if source else {})}
    for readme in (THEIRS.replace("SOURCE", source) + old[old.index(BEGIN) :], None):
        card = write(tmp_path, readme)
        assert results(card) == {**FIGURES, **theirs}
        sources = {None, "https://b.org", *(["https://a.org"] if source else [])}
        assert {one.source_url for one in card.data.eval_results} == sources
        assert card.data.metrics == ["accuracy"]


BROKEN = ["license: [mit", "- a\n- b", "1: a", "model-index: 3", "language: no", "just text", "tags: 3", "metrics: {}"]


@pytest.mark.parametrize("block", BROKEN)
def test_metadata_that_are_not_valid_neither_stop_a_push_nor_cost_the_text(block, tmp_path):
    for where in ("readme", "remote"):
        card = write_afresh(tmp_path, **{where: f"---\n{block}\n---\n\n# Mine\n"})
        assert (card.text.count("# Mine"), card.data.library_name) == (1, "transformers")
        assert block in card.content or ": " in block.replace("[", "")


def test_line_ends_of_windows(tmp_path):
    generated = write(tmp_path, write(tmp_path, MINE).content + "\n\nAfter.").content
    for where in ("readme", "remote"):
        card = write_afresh(tmp_path, **{where: generated.replace("\n", "\r\n")})
        found, wanted = (re.sub("<!-- [0-9a-f:/ ]+ -->", "", text) for text in (card.content, generated))
        assert found.replace("\r", "") == wanted
        content = (tmp_path / "README.md").read_bytes()
        assert content.count(b"\r") in (0, content.count(b"\n"))


def test_writing_twice_gives_the_same_bytes(tmp_path):
    trainer, _ = trained(tmp_path, build("Bert"), examples("Bert", 12), eval_strategy="epoch", eval_compactness=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"README.md", "learning_curves.png", "feature_map.png"}
    before = [path.read_bytes() for path in files]
    trainer.create_model_card()
    assert [path.read_bytes() for path in files] == before


# ---- Odd names ----


def test_names_of_any_characters_stay_within_their_place(tmp_path):
    figures = {"loss": 1.0, **dict.fromkeys(HOSTILE, 0.5)}
    evaluated = {f"eval_{name}": Evaluation(figures, 3) for name in HOSTILE}
    changes = {"name": HOSTILE[0], "settings": {"feature": "a|b"}, "hyperparameters": {"optimizer": "x, a|b=`1`"}}
    card = write(tmp_path, labels=HOSTILE, evaluations=evaluated, adapter="lora", **changes)
    assert {len(line) for line in tables(card.text)} == {1 + len(HOSTILE), 2}
    assert len(results(card)) == len(HOSTILE) * len(figures)
    assert {one.dataset_split for one in card.data.eval_results} == set(evaluated)
    assert r"Labels: a\|b, \`c\` \*d\*, \<b\>e, f g, {{ name }} {% if x %}, été 日本, " in card.text
    code = ast.parse(re.search(r"```python\n(.*?)\n```\n", card.text, re.DOTALL)[1])
    labels = [one.value for one in ast.walk(code) if isinstance(one, ast.keyword) and one.arg == "id2label"]
    assert ast.literal_eval(labels[0]) == dict(enumerate(HOSTILE))
    assert "l48, l49 and 3 more." in write(tmp_path, labels=[f"l{i}" for i in range(53)]).text


def test_text_and_metadata_of_any_characters_stay(tmp_path):
    text = "{{ name }} {% for x in y %} {# c #}\n\na | b\n\n---\n\nété 日本 \U0001f600\n\n```\n---\nx: y\n```"
    data = {"custom": HOSTILE, "tags": ["a: b", "{{ x }}"], "license_name": "x\n---\ny"}
    block = "".join(f"{key}: {json.dumps(value)}\n" for key, value in data.items())
    write(tmp_path, f"---\n{block}---\n{text}")
    card = write(tmp_path)
    assert card.text.split(BEGIN)[0].strip() == text
    assert {key: card.data.get(key) for key in data} == {**data, "tags": [*data["tags"], *TAGS]}


def test_keys_that_the_client_takes_for_its_own_do_not_stop_a_card(tmp_path):
    card = write(tmp_path, "---\nmodel_name: theirs\neval_results: []\nmine: 1\n---\nMine.")
    assert card.data.get("mine") == 1
    assert "Mine." in card.text


def test_a_readme_of_another_encoding_is_kept(tmp_path):
    (tmp_path / "README.md").write_bytes("Größe".encode("latin-1"))
    assert "Größe" in write(tmp_path).text


def test_what_an_earlier_run_found_is_not_taken_for_the_users(tmp_path):
    first = {
        "base_model": HubSource("org/a"),
        "base_license": "mit",
        "datasets": [HubSource("org/one")],
        "adapter": "lora",
    }
    write(tmp_path, "---\ntags: [mine]\nlanguage: de\n---\n", **first)
    found = {"base_model": HubSource("org/b"), "base_license": "bsd", "datasets": [HubSource("org/two")]}
    data = write(tmp_path, **found).data
    assert (data.base_model, data.license, data.datasets) == ("org/b", "bsd", ["org/two"])
    assert (data.language, data.tags) == ("de", ["mine", *TAGS])
    data = write(tmp_path).data
    assert data.base_model is data.license is data.datasets is None


def test_what_the_user_said_in_one_card_stays_in_the_next(tmp_path):
    said = {"base_model": "org/mine", "license": "mit", "language": "de", "datasets": ["org/one"]}
    write(tmp_path, said=said, base_model=HubSource("org/mine"), datasets=[HubSource("org/one")])
    data = write(tmp_path, base_model=HubSource("org/other"), base_license="bsd").data
    assert (data.base_model, data.license, data.language, data.datasets) == ("org/mine", "mit", "de", ["org/one"])
