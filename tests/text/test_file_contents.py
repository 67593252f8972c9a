"""The content that a file has now is the one that is read, whatever was kept of it."""

import os

import pytest
from tabular import USED, columns, put, read, refused

from itra_hf.text.data import DataArguments, Task, encode_labels, infer_task, load_splits, tokenize
from itra_hf.text.files import Reading, read_files


class Lengths:
    """A tokenizer that counts characters."""

    def num_special_tokens_to_add(self, pair):
        return 0

    def __call__(self, texts, truncation, max_length):
        return {"input_ids": [[len(text)] for text in texts]}


def test_new_content_under_the_old_modification_time_is_read_and_tokenised(tmp_path):
    task = Task("single_label_classification", ["a", "b"], ["text"], "label")
    for texts in (["x", "yy"], ["z", "wwww"], ["x", "yy"]):
        path = put(tmp_path, "a.csv", f"text,label\n{texts[0]},a\n{texts[1]},b\n")
        os.utime(path, (1, 1))
        data = read_files([path], USED, str(tmp_path / "cache"))
        assert data["text"][:] == texts
        assert tokenize(data, Lengths(), task, 8, None)["input_ids"][:] == [[len(text)] for text in texts]


def test_the_table_is_kept_for_other_runs_under_what_decides_it(tmp_path):
    first = read(tmp_path, "a.csv", "text;label\nx;a\n", Reading(";"))
    again = read(tmp_path, "b.csv", "text;label\nx;a\n", Reading(";"))
    other = read(tmp_path, "a.csv", "text;label\nx;a\n", Reading("|"))
    assert first.cache_files == again.cache_files != other.cache_files
    assert other.column_names == ["text;label"]


def test_warnings_from_the_cache_name_the_file_that_is_read_now(tmp_path, caplog):
    for name in ("a.csv", "b.csv"):
        caplog.clear()
        read(tmp_path, name, "text,label\nx\n")
        assert [record.message.startswith(f"{tmp_path / name}, row 1: it has") for record in caplog.records] == [True]


def test_a_cache_that_can_not_be_written_is_named(tmp_path):
    path = put(tmp_path, "a.csv", "text,label\nx,a\n")
    with pytest.raises(ValueError, match=r"a\.csv can't be kept in the datasets cache: .*HF_DATASETS_CACHE"):
        read_files([path], USED, f"{path}/cache")


def test_content_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    digests = iter("ab")
    monkeypatch.setattr("itra_hf.text.files.digest", lambda path: next(digests))
    assert "changed while it was read" in refused(tmp_path, "a.csv", "text,label\nx,a\n")


@pytest.mark.parametrize("name", ["train[1].csv", "q?.csv", "*.csv", "{a,b}.csv", "a.csv"])
def test_the_file_that_was_named_is_read(name, tmp_path):
    for other in ("train1.csv", "q1.csv", "b.csv"):
        put(tmp_path, other, "text,label\nother,a\n")
    assert columns(tmp_path, name, "text,label\nmine,a\n")["text"] == ["mine"]


def test_home_in_a_path_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path, "a.csv", "text,label\nx,a\ny,b\n")
    args = DataArguments(train_file="~/a.csv", validation_file="~/a.csv", test_file="~/a.csv")
    splits = load_splits(args, str(tmp_path / "cache"))
    task = infer_task(args, splits["train"])
    assert [encode_labels(data, name, task, args)["labels"][:] for name, data in splits.items()] == [[0, 1]] * 3
