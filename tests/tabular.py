"""Data files that tests write and read as training does."""

import pytest

from itra_hf.text.files import Reading, read_files

USED = Reading(used=(("text",), ("label",)))
TABLE = "text,label\n"


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(folder, name, content, reading=USED):
    return read_files([put(folder, name, content)], reading, str(folder / "cache"))


def columns(folder, name, content, reading=USED):
    return read(folder, name, content, reading)[:]


def refused(folder, name, content, reading=USED):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the callers look at the message
        read(folder, name, content, reading)
    assert name in str(caught.value)
    return str(caught.value)
