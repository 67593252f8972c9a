"""Files as the model would be trained on them: cells as written, errors that name the row, and no stale content."""

import time

import pandas as pd
import pyarrow as pa
import pytest
from tabular import TABLE, USED, columns, put, read, refused

from itra_hf.text.delimited import DelimitedFile
from itra_hf.text.files import Reading, read_files

CELLS = [
    "007",
    "1.10",
    "2e3",
    "true",
    "NA",
    "null",
    "None",
    "nan",
    "2020-01-01",
    "[1]",
    "{}",
    "-0",
    " a ",
    "é",
    "😀",
    "\0",
]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_cells_are_their_characters(ending, tmp_path):
    data = pd.DataFrame({"text": CELLS, "label": CELLS[::-1]})
    path = str(tmp_path / f"a.{ending}")
    if ending == "parquet":
        data.to_parquet(path)
    elif ending.startswith("json"):
        data.to_json(path, orient="records", lines=ending == "jsonl")
    else:
        data.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    assert read_files([path], USED, str(tmp_path / "cache"))[:] == {"text": CELLS, "label": CELLS[::-1]}


def test_what_a_cell_means_does_not_depend_on_the_rows_before(tmp_path):
    labels = ["007", "012", "K1"] * 4000 + ["007", "012"] * 2000
    content = TABLE + "".join(f"x,{label}\n" for label in labels)
    assert columns(tmp_path, "a.csv", content)["label"] == labels


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"\xef\xbb\xbf" + b'"text",label\nx,a\n', ["x"]),
        (b"text,label\r\nx,a\r\n", ["x"]),
        (b"text,label\rx,a\ry,b\r", ["x", "y"]),
        (b'text,label\n"x\ny, ""z""",a\n', ['x\ny, "z"']),
        (b'text,label\n"x\r\ny",a\r\n', ["x\r\ny"]),
        (b"text,label\nx\ry,a\nz,b", ["x\ry", "z"]),
        (b"text,label\nx\0y\rz,a\n", ["x\0y\rz"]),
        (b'text,label\n5" pipe,a\n\n"""q""",b\n', ['5" pipe', '"q"']),
        (b"text,label\n" + b"x" * 5_000_000 + b",a\ny,b\n", ["x" * 5_000_000, "y"]),
        (b"text,label\nx,a\n  \ny,b\n", ["x", "y"]),
        (b"text,label\n", []),
        (b"\r\n\r\ntext,label\r\nx,a\r\n", ["x"]),
        (b"\xef\xbb\xbf\ntext,label\nx,a\n", ["x"]),
        (b"text\nx\n \n\ny\n", ["x", " ", "y"]),
    ],
)
def test_lines_quotes_and_long_cells(content, texts, tmp_path):
    assert columns(tmp_path, "a.csv", content)["text"] == texts


@pytest.mark.parametrize("other", ["", "z\rz,b\n", '"z" z,b\n'])
def test_several_carriage_returns_end_a_row_whatever_other_rows_hold(other, tmp_path):
    data = columns(tmp_path, "a.csv", 'text,label\r\r\n"x\r\r\ny",a\r\r\n' + other)
    assert [data["text"][0], data["label"][0]] == ["x\r\r\ny", "a"]


def test_columns_without_a_name_or_with_a_name_twice(tmp_path):
    assert columns(tmp_path, "a.csv", "text,text,,label\na,b,c,d\n") == {
        "text": ["a"],
        "text.1": ["b"],
        "Unnamed: 2": ["c"],
        "label": ["d"],
    }


def test_delimiter_and_encoding_can_be_set(tmp_path):
    latin = "text;label\nà, là;ü\n".encode("latin-1")
    assert columns(tmp_path, "a.csv", latin, Reading(";", "latin-1")) == {"text": ["à, là"], "label": ["ü"]}
    assert columns(tmp_path, "b.csv", "text,label\né,a\n".encode("utf-16"), Reading(encoding="utf-16"))["text"] == ["é"]
    assert columns(tmp_path, "c.jsonl", '{"text": "é"}'.encode("latin-1"), Reading(encoding="latin-1"))["text"] == ["é"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "text,label\nx,a\nà,b\n".encode("latin-1"),
            "row 2: there are bytes that are not utf-8; set file_enc",
        ),
        ("a.tsv", "text\tlabel\nx\ta\n".encode("utf-16"), "set file_encoding to utf-16"),
        ("a.csv", "text,label\nx,a\n".encode("utf-32"), "set file_encoding to utf-32"),
        ("a.csv", "text,label\nx,a\n".encode("utf-16-le"), "set file_encoding to utf-16"),
        ("a.csv", "sep=;\r\ntext;label\r\nx;a\r\n", "begins with 'sep=;', for Excel; remove that line"),
        ("a.jsonl", '{"text": "x"}\n{"text": "à"}\n'.encode("latin-1"), "row 2: there are bytes that are not utf-8"),
        ("a.csv", "", "is empty"),
        ("a.csv", "\n\n", "is empty"),
        ("a.json", "", "is empty"),
        ("a.json", "[]", "there are no rows"),
        ("a.parquet", "", "can't be read as Parquet"),
        ("a.parquet", "text,label\n", "can't be read as Parquet"),
        ("a.csv", b"\x1f\x8b\x08\0", "begins like a gzip file; unpack it"),
        ("a.csv", "text,label\nx,a\ny,b,c\n", "row 2: it has 3 fields, and the header 2"),
        ("a.csv", "text,label\nx,a,\ny,b,\n", "row 1: it has 3 fields, and the header 2"),
        ("a.csv", TABLE + "x,a\n" * 20_000 + '"x,y",b,c\n', "row 20001: it has 3 fields"),
        ("a.csv", "text;label\nx, y;a\n", "set csv_delimiter"),
        ("a.csv", 'text,label\nx,a\n"y,b\nz,c\n', "row 2: a quotation mark that opens a cell there is not closed"),
        ("a.csv", 'text,"label\nx,a\n', "the header has a quotation mark that is never closed"),
        ("a.csv", 'text,label\nx,a\n"y z,b\n"c,d",e\n', "Or quotation marks are unbalanced in row 2."),
        ("a.jsonl", '{"text": "x"}\n\n{"text": "y",}\n', "row 2 (line 3): it is broken JSON"),
        ("a.jsonl", '{"text": "x"}\n\n{"text": "y", "label": 1, "text": "z"}\n', "row 2: it has column 'text' twice"),
        ("a.json", '[{"text": "x"}, {"text": "y", "text": "y"}]', "row 2: it has column 'text' twice"),
        ("a.json", '{"text": ["x", "y"], "text": ["z", "y"]}', "row 1: it has column 'text' twice"),
        ("a.json", '{"text": {"0": "x", "0": "y"}, "label": {"0": "a", "0": "b"}}', "column 'text' has an object"),
        ("a.jsonl", '{"text": x}\n{"text": "y"}\n', "row 1 (line 1): it is broken JSON"),
        ("a.jsonl", '{"text": "x"}\n{"text": "y"} z\n', "row 2 (line 2): it is broken JSON: Extra data at char"),
        ("a.jsonl", '{"text": "x"}\n{"text": "y"}{"text": "z"}\n', "row 2 (line 2): it is broken JSON: Extra data"),
        ("a.json", '[{"text": "x"},\n{"text": }]', "line 2: it is broken JSON"),
        ("a.json", '[{"text": "x"}]\n[{"text": "y"}]\n', "there is more after its list of rows"),
        ("a.json", '[\n{"text": "x"}\n]\n[{"text": "y"}]', "there is more after its list of rows"),
        ("a.json", '[{"text": "x"}] rest', "there is more after its list of rows"),
        ("a.json", '[{"text": "x"}]\nrest', "there is more after its list of rows"),
        ("a.jsonl", '["x", "a"]\n["y", "b"]\n', "there is more after its list of rows"),
        ("a.json", "[1, 2]", "row 1: it is a number, where a row is an object"),
        ("a.jsonl", '{"label": 1}\n{"label": "1"}\n', "row 2: column 'label' has a string, and before that a number"),
        ("a.jsonl", '{"text": "x"}\n{"text": true}\n', "row 2: column 'text' has a boolean, and before that a string"),
        ("a.jsonl", '{"label": ["a"]}\n{"label": ["b", 1]}\n', "row 2: column 'label' has a list of several types"),
        ("a.jsonl", '{"label": "a"}\n{"label": {"a": 1}}\n', "row 2: column 'label' has an object"),
        ("a.jsonl", '{"text": "x", "label": [["a"]]}\n', "row 1: column 'label' has a list of lists"),
        ("a.jsonl", '{"label": 12345678901234567890}\n', "row 1: column 'label' has a number of more than 64 bits"),
        ("a.jsonl", '{"label": 9007199254740993}\n{"label": 1.5}\n', "row 1: column 'label' has whole numbers of more"),
        (
            "a.jsonl",
            '{"label": 9007199254740993}\n' * 10_000 + '{"label": 1.5}\n',
            "column 'label' has whole numbers of more",
        ),
        ("a.jsonl", '{"text": NaN}\n{"text": "x"}\n', "has a string, and before that a number, for NaN is a number"),
        ("a.jsonl", '{"text": "x", "a\\u0000": 1}\n', "the name 'a\\x00' has NUL or half of a surrogate pair"),
        ("a.jsonl", '{"text": "x", "a\\ud83d": 1}\n', "has NUL or half of a surrogate pair"),
        ("a.jsonl", '{"text": "x", "a": ' + "[" * 800 + "]" * 800 + "}", "is nested too deeply"),
        (
            "a.jsonl",
            '{"text": "x"}\n{"text": "\\ud83d"}\n',
            "row 2: column 'text' has a number of more than 64 bits or",
        ),
    ],
)
def test_a_file_that_can_not_be_read_is_named_with_the_row(name, content, message, tmp_path):
    assert message in refused(tmp_path, name, content)


def test_rows_with_too_few_fields_get_empty_cells_and_a_warning(tmp_path, caplog):
    assert columns(tmp_path, "a.csv", "text,label,more\nx,a,b\ny,c\nz\n") == {
        "text": ["x", "y", "z"],
        "label": ["a", "c", ""],
        "more": ["b", "", ""],
    }
    assert caplog.text.count("row 2: it has 2 fields, and the header 3") == 1
    read_files([str(tmp_path / "a.csv")], USED, str(tmp_path / "cache"))
    assert caplog.text.count("row 2: it has 2 fields") == 2  # also where the rows come from the cache


SWALLOWED = [
    'text,label\nx,good\n"the ring,bad\ny,good\nz,bad\nw",good\nv,bad\n',
    'text,label\n"the ring,bad\ny",good\nv,bad\n',
    'label,text\ngood,x\nbad,"the ring\ngood,y\nbad,z"\ngood,w\n',
    'text,label\nx,very good\n"the ring,not bad\ny,very good\nz",very good\nv,not bad\n',
    'text,label\nx,1.5\n"the ring,2.5\ny,3.5\nz",4.5\n',
]


@pytest.mark.parametrize("content", [*SWALLOWED, *(each.replace(",", "\t") for each in SWALLOWED)])
def test_swallowed_rows_are_warned_of(content, tmp_path, caplog):
    read(tmp_path, "a.tsv" if "\t" in content else "a.csv", content)
    assert "as if a quotation mark had swallowed rows" in caplog.text
    assert f"row {2 if content.splitlines()[1][0] != chr(34) else 1}: the cell in column 'text'" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        'label\ttext\nvery good\t"Hello he said\nreally bad\tfoo bar"\nso so\tx\n',
        'text\tother\n"He said so\tand then left\nShe said so"\tand then came\nlast one\tx y\n',
    ],
)
def test_rows_of_prose_that_a_quotation_mark_swallows_between_tabs_are_warned_of(content, tmp_path, caplog):
    read(tmp_path, "a.tsv", content)
    assert "as if a quotation mark had swallowed rows" in caplog.text


def test_many_suspicious_cells_and_columns_of_one_name_take_no_square_of_time(tmp_path):
    rows, names = "".join(f'"Hi John {row}, thanks\nBye",{row % 2}\n' for row in range(20_000)), 3_000
    path = put(tmp_path, "a.csv", TABLE + rows)
    other = put(tmp_path, "b.csv", ",".join(["x"] * names) + "\n")
    start = time.perf_counter()
    for table in DelimitedFile(path, ",", "utf-8").tables():
        assert table.column_names == ["text", "label"]
    assert DelimitedFile(other, ",", "utf-8").names == ["x", *(f"x.{number}" for number in range(1, names))]
    assert time.perf_counter() - start < 5  # it took minutes


def test_text_after_a_closing_quotation_mark_is_warned_of(tmp_path, caplog):
    assert columns(tmp_path, "a.csv", 'text,label\nx,a\n"the" ring,b\n"c\nd",e\n')["text"] == ["x", "the ring", "c\nd"]
    assert "row 2: text follows the closing quotation mark" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "Roses are red, violets blue\nsugar is sweet, and so are you\nfor ever, my dear",
        "\n".join(f"> on {n} you wrote, and I read, with joy" for n in range(40)),
        "\n".join(["Dear all", "see you", "", "Ann"]),
        "Main Street 5, Springfield\nMain Street 7, Springfield",
    ],
)
def test_texts_of_many_lines_are_not_warned_of(text, tmp_path, caplog):
    content = f'text,label\n"{text}",good\n"{text}",bad\nx,good\n'
    assert columns(tmp_path, "a.csv", content)["text"] == [text, text, "x"]
    assert not caplog.records


def test_the_fast_way_and_the_thorough_one_agree(tmp_path, monkeypatch):
    content = TABLE + "".join(f'"{"word " * (n % 30)}, ""{n}""\nx",{n % 7}\r\n' for n in range(12_000))
    path = put(tmp_path, "a.csv", content)
    fast = pa.concat_tables(DelimitedFile(path, ",", "utf-8").tables())
    monkeypatch.setattr("itra_hf.text.delimited.is_plain", lambda *ignored: False)
    assert fast == pa.concat_tables(DelimitedFile(path, ",", "utf-8").tables())
