"""Random metadata of a user's README stay as they were written."""

import json

import yaml
from cards import TAGS, metadata
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

PLAIN = [
    "yes",
    "No",
    "ON",
    "off",
    "y",
    "n",
    "true",
    "~",
    "null",
    "NULL",
    ".inf",
    "-.INF",
    ".NaN",
    "0o17",
    "1e3",
    "1.",
    ".",
]
CHARACTERS = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=9)
SCALARS = st.one_of(
    st.sampled_from(PLAIN),
    *(
        st.from_regex(pattern, fullmatch=True)
        for pattern in (
            r"[-+]?[0-9][0-9_]{0,5}(\.[0-9_]{0,4})?([eE][-+]?[0-9]{1,2})?",
            r"0x[0-9a-fA-F]{1,4}|0b[01]{1,4}|0[0-7]{1,4}",
            r"[1-9][0-9]?(:[0-5][0-9]){1,2}(\.[0-9]{1,2})?",
            r"20[0-9]{2}-0[1-9]-[12][0-9]([Tt ][01][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,3})?( ?Z|[-+][01][0-9])?)?",
        )
    ),
    CHARACTERS.map(lambda text: json.dumps(text, ensure_ascii=False)),
    CHARACTERS.map(lambda text: "'" + text.replace("'", "''") + "'"),
)
FLOWS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(SCALARS, inner, max_size=2).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=5,
)
LITERALS = st.lists(CHARACTERS, min_size=1, max_size=3).map(
    lambda lines: "|-" + "".join(f"\n  .{line}" for line in lines)
)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(values=st.lists(FLOWS | LITERALS, min_size=1, max_size=5), keys=st.permutations([*"abcde"]))
def test_any_scalars_stay_as_they_were_written(values, keys, tmp_path):
    block = "".join(f"{key}: {value}\n" for key, value in zip(keys, values, strict=False))
    try:
        yaml.safe_load(block)
    except ValueError:  # a date that is none, such as 2002-02-29, which other readers stop at, is quoted
        assume(False)
    assert metadata(tmp_path, block.removesuffix("\n")).startswith(block)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(values=st.lists(SCALARS, min_size=1, max_size=5))
def test_any_tags_come_out_as_texts(values, tmp_path):
    block = metadata(tmp_path, f"tags: [{', '.join(values)}]")
    quoted = [value for value in values if value[0] in "\"'"]
    texts = [yaml.safe_load(value) if value in quoted else value for value in values]
    assert yaml.safe_load(block)["tags"] == list(dict.fromkeys([*filter(None, texts), *TAGS]))
