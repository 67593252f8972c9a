"""The metadata of a user's README: they stay as they were written, whatever YAML would make of them."""

import pytest
import yaml
from cards import TAGS, THEIRS, metadata, write_all
from huggingface_hub import ModelCard

from itra_hf.hub.readme import BEGIN

AS_WRITTEN = """# The head.

version: 1.10
hex: 0x1F   # not 31
octal: 012
thousands: 1_000
time: 12:30:00
date: 2024-01-01
moment: 2024-01-01T12:30:00Z
exponent: 1e3
long: 1.50e+3
none: ~
empty:
nothing: null
inference: false
word: on
letter: y
quoted: "no"
quoted_too: '1.10'
spaces:   far   # out

# A list, and what it is of.
unicode: [été, 日本, "\\u00e9"]
literal: |
  a
   # b

  c
kept: |+
  d

folded: >-
  e
  f
zebra:
    b:   {no: yes, 1.10: [1.10, ~], 2024-01-01: x}
    # Within.
    a:
    - off
    - {1: x, a: y}
alpha: &it [no, {on: off}]
last: 0
# The tail.
"""


def test_what_the_card_does_not_set_stays_to_the_letter(tmp_path):
    block = metadata(tmp_path, AS_WRITTEN.removesuffix("\n"))
    assert block.startswith(AS_WRITTEN)
    assert ModelCard.load(tmp_path / "README.md").data.get("hex") == 31


def test_what_the_card_sets_goes_where_the_user_had_it_with_the_comments_before_it(tmp_path):
    block = metadata(
        tmp_path, "# Mine.\n\nversion: 1.10\n# Of it.\ntags: [on]\n# By us.\nlicense: mit  # why\nlast: no"
    )
    tags = "".join(f"\n- {tag}" for tag in ["'on'", *TAGS])
    kept = f"# Mine.\n\nversion: 1.10\n# Of it.\ntags:{tags}\n# By us.\nlicense: mit  # why\nlast: no\n"
    assert block.startswith(f"{kept}library_name: transformers\n")


KEYS = ["language", "license", "tags", "datasets", "base_model", "pipeline_tag"]
WORDS = ["no", "on", "off", "y", "Yes", "1.10", "0x1F", "012", "1_000", "12:30:00", "2024-01-01", ".inf", "true"]
NUMBERS = ["1e3", "09", "0o17", "1e+3"]  # to YAML 1.2 alone


@pytest.mark.parametrize("form", ["[{}]", "\n- {}", "['{}']"])
def test_in_what_the_hub_knows_as_texts_they_are_texts_to_every_reader(form, tmp_path):
    words = [*WORDS, *NUMBERS, "null", "~"]
    value = form.format({"[": ", ", "\n": "\n- ", "['": "', '"}[form.split("{")[0].rstrip("- ")].join(words))
    block = metadata(tmp_path, "\n".join(f"{key}: {value}" for key in KEYS))
    assert {key: yaml.safe_load(block)[key] for key in KEYS} == dict.fromkeys(KEYS, words) | {"tags": [*words, *TAGS]}
    dumped = block[block.index("tags:") :]
    assert all(f"\n- '{number}'\n" in dumped for number in NUMBERS)


@pytest.mark.parametrize("word", [*WORDS[::3], *NUMBERS])
def test_one_such_text_alone(word, tmp_path):
    data = yaml.safe_load(metadata(tmp_path, "\n".join(f"{key}: {word}" for key in KEYS)))
    assert {key: data[key] for key in KEYS} == dict.fromkeys(KEYS, word) | {"tags": [word, *TAGS]}


@pytest.mark.parametrize("key", ["no", "y", "1.10", "2024-01-01", "~"])
def test_keys_that_are_such_words_are_texts_too(key, tmp_path):
    block = metadata(tmp_path, f"a: 1\n{key}: 1.10  # x\nz: 2")
    quoted = key if key == "y" else f"'{key}'"
    assert block.startswith(f"a: 1\n{quoted}: 1.10  # x\nz: 2\n")
    assert ModelCard.load(tmp_path / "README.md").data[key] == 1.1


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        (
            "{license: mit, version: 1.10,\n  a: [no, 'no'], 12: off}",
            "license: mit\nversion: 1.10\na:\n- no\n- 'no'\n'12': off",
        ),
        ("  version: 1.10\n  note: |\n    a\n     b\n  no: off", "version: 1.10\nnote: \"a\\n b\\n\"\n'no': off"),
        ("a: &x [no, 1.10]\nb: *x", "a: &x [no, 1.10]\nb:\n- no\n- 1.10"),
        ("a: &x {q: 1.10}\nb: {<<: *x, z: 0x1F}\n<<: *x", "q: 1.10\na:\n  q: 1.10\nb:\n  q: 1.10\n  z: 0x1F"),
        (
            "a: 2024-13-01\nb: =\nc: [0x_, <<]\n2024-13-01: 1.10",
            "a: '2024-13-01'\nb: '='\nc:\n- '0x_'\n- '<<'\n'2024-13-01': 1.10",
        ),
        ("? a\n: 1.10\n? b\n: no", "a: 1.10\nb: no"),
        ("a: 1.10\nb: 0\na: 1.1", "a: 1.1\nb: 0"),
        ("a: 'x\n# y'\nb: 1.10\n...", "a: 'x\n# y'\nb: 1.10"),
    ],
)
def test_where_the_lines_can_not_stay_the_scalars_do(block, wanted, tmp_path):
    written = metadata(tmp_path, block)
    assert written.startswith(f"{wanted}\n".replace("a: 'x\n# y'", "a: 'x # y'"))


def test_what_says_nothing_where_the_card_may_say_something_goes(tmp_path):
    block = metadata(
        tmp_path, "license:\nlanguage: null\ndatasets: []\ntags:\n- \ninference: false", base_license="mit"
    )
    data = yaml.safe_load(block)
    assert (data["license"], data["tags"], data["inference"]) == ("mit", TAGS, False)
    assert not {"language", "datasets"} & set(data)


def test_odd_metadata_do_not_stop_a_card(tmp_path):
    odd = "tags: [{a: 1.10}, [x]]\npipeline_tag: [a]\ncustom: {1: a, b: c, 2024-01-01: d}\nself: 1"
    block = metadata(tmp_path, odd)
    assert yaml.safe_load(block)["tags"] == [{"a": 1.1}, ["x"], *TAGS]
    assert "\npipeline_tag: [a]\ncustom: {1: a, b: c, 2024-01-01: d}\n" in block
    for unreadable in ("a: &x [*x]", "a: !!bool x", "model-index: [{name: x, results: 3}]"):
        assert "Mine." in write_all(tmp_path, f"---\n{unreadable}\n---\nMine.")[1]


def test_figures_that_stay_are_as_they_were_written(tmp_path):
    block = metadata(tmp_path, THEIRS.replace("SOURCE", "source: {url: 'u'}").replace("0.25", "0.250").strip("-\n"))
    assert "value: 0.250\n" in block
    assert "value: 0.125\n" in block


# ---- Who wrote what ----


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1.1", "version: 1.10"),
        ("version: 1.1", "version: '1.1'"),
        ("version: 1.1", "version: 1.1  # of it"),
        ("version: 1.1", "# Of it.\nversion: 1.1"),
        ("answer: no", "answer: off"),
        ("answer: no", "answer: false"),
    ],
)
def test_an_edit_on_the_web_that_yaml_does_not_see_stays(old, new, tmp_path):
    write_all(tmp_path, "---\nversion: 1.1\nanswer: no\n---\nMine.\n")
    remote = (tmp_path / "README.md").read_text(encoding="utf-8").replace(old, new)
    assert f"{new}\n" in write_all(tmp_path, remote=remote)[0] + "\n"


# As the first version wrote it: its fingerprints are of what YAML made of the scalars.
EARLIER = f"""---
base_model: org/a
language: 'no'
library_name: transformers
tags:
- mine
- generated_from_trainer
- itra
- arxiv:2211.13332
version: 1.1
small: 1.0e-05
date: 2024-01-01
inner:
- 1
- a: null
text: 'x # y'
---

Mine

{BEGIN}
<!-- 5a63255db3724a86/25fcae64 33193fda 449eaed5 cdcab14b -->

# name

<!-- itra_hf ends here. -->
"""


def test_the_marks_of_the_first_version_s_cards_hold(tmp_path, caplog):
    block, text = write_all(tmp_path, EARLIER, f"{EARLIER}\nFrom the web.\n".replace("version: 1.1", "version: 1.10"))
    assert "From the web." in text
    assert "\nversion: 1.10\nsmall: 1.0e-05\n" in block
    assert "base_model" not in block
    assert not caplog.records
    block, text = write_all(tmp_path, EARLIER.replace("small", "own"), EARLIER.replace("small", "theirs"))
    assert "\nown: 1.0e-05\n" in block
    assert "The one here counts" in caplog.text
