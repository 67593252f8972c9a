"""Random tables of awkward strings mean the same in every kind of file, and read fast as they read thoroughly."""

import csv
import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from itra_hf.text.data import DataArguments, encode_labels, infer_task, load_splits
from itra_hf.text.delimited import DelimitedFile

AT_LENGTH = bool(os.environ.get("TEST_AT_LENGTH"))
AWKWARD = """007 1 01 -0 +1 1.10 1.1 2e3 1E5 true True FALSE NA N/A null None nan inf 2020-01-01 2020-01-01T00:00:00Z
0x1F 1_000 [1] {} {"a":1} '' \\ \\n # ; | é 😀 =1+1 %""".split()  # noqa: SIM905, it is shorter so
AWKWARD += [
    "",
    " ",
    " a",
    "a ",
    '"',
    '""',
    'a"b',
    '"a"',
    ",",
    "a,b",
    "\t",
    "\n",
    "\r",
    "a\r\nb",
    "\0",
    "\x1a",
    "\x85",
    "\u2028",
]
CELLS = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.text(st.sampled_from('a,"\n\r\t 1.\ufeff'), max_size=8),
)
LABELS = CELLS.filter(lambda cell: cell != "")
TABLES = st.lists(st.tuples(CELLS, LABELS), min_size=2, max_size=12).filter(lambda rows: len({r[1] for r in rows}) > 1)


def write_all(folder, rows, quoting):
    """The paths of the same table as CSV, TSV, JSONL and Parquet."""
    texts, labels = zip(*rows, strict=True)
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([("text", "label"), *rows])
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=quoting == csv.QUOTE_ALL) for text, label in rows]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    pq.write_table(pa.table({"text": texts, "label": labels}), folder / "a.parquet")
    return [str(folder / f"a.{ending}") for ending in ("csv", "tsv", "jsonl", "parquet")]


@settings(max_examples=3000 if AT_LENGTH else 60, deadline=None, derandomize=not AT_LENGTH)
@given(TABLES, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
@example([("a", "1"), ("b", "01"), ("", "10"), ("c", "9")], csv.QUOTE_MINIMAL)
def test_every_kind_of_file_gives_the_same_texts_and_classes(rows, quoting):
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        for path in write_all(Path(folder), rows, quoting):
            args = DataArguments(train_file=path, problem_type="single_label_classification")
            data = load_splits(args, folder)["train"]
            task = infer_task(args, data)
            assert data["text"][:] == [text for text, _ in rows]
            labels = encode_labels(data, "train", task, args)["labels"][:]
            assert [task.label_names[label] for label in labels] == [label for _, label in rows]
            names = {label for _, label in rows}
            whole = all(name.lstrip("-").isascii() and name.lstrip("-").isdigit() for name in names)
            plain = whole and all(str(int(name)) == name for name in names)
            assert task.label_names == sorted(names, key=int if plain else None)


@settings(max_examples=3000 if AT_LENGTH else 150, deadline=None, derandomize=not AT_LENGTH)
@given(
    st.text(st.sampled_from('\ufeff\n\r", a'), max_size=3),
    st.sampled_from(["text,label\n", "text,label\r\n", '"text","la\nbel"\n']),
    st.text(st.sampled_from('ab,"\n\r\t 1\0é'), max_size=40),
)
@example("\n", "text,label\n", "x,a\n")
@example("\ufeff\r\n", "text,label\r\n", "x,a\r\n")
def test_the_fast_way_and_the_thorough_one_agree(before, header, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        path.write_bytes((before + header + content).encode())
        fast = outcome(str(path))
        with mock.patch("itra_hf.text.delimited.is_plain", return_value=False):
            assert outcome(str(path)) == fast


def outcome(path):
    """The rows and warnings, or the error."""
    try:
        file = DelimitedFile(path, ",", "utf-8")
        return pa.concat_tables(file.tables()).to_pydict(), file.warnings
    except ValueError as error:
        return str(error)
