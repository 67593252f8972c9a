"""Text files: what they are encoded in, and what to say of one that can't be decoded."""

import codecs

BEGINNINGS = {
    b"\x1f\x8b": "a gzip file; unpack it",
    b"PK\x03\x04": "a zip file or an Excel workbook; unpack it, or export it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; export it as CSV",
    b"PAR1": "a Parquet file; let its name end in .parquet",
}
MARKS = {  # the longer ones first, for UTF-16's begin them
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BYTE_ORDER_MARK = "\ufeff"


def check_beginning(path: str) -> None:
    """Checks that a file can be text.

    Raises:
        ValueError: it is empty, or begins like a packed file or a workbook.
    """
    beginning = _beginning(path)
    if not beginning:
        raise ValueError(f"{path} is empty.")
    for mark, what in BEGINNINGS.items():
        if beginning.startswith(mark):
            raise ValueError(f"{path} is no text, for it begins like {what}.")


def undecodable(path: str, encoding: str, row: int | None) -> ValueError:
    """The error for a file whose bytes are not in the encoding.

    Args:
        path: the file.
        encoding: what it was read in.
        row: the first data row that can't be decoded, counted from 1; 0 for the header, `None` if it is not known.
    """
    where = "" if row is None else ", the header" if row == 0 else f", row {row}"
    beginning = _beginning(path)
    marked = next((name for mark, name in MARKS.items() if beginning.startswith(mark)), None)
    advice = f"{marked}, as its first bytes say" if marked else "its own, such as latin-1, cp1252 or utf-16"
    return ValueError(f"{path}{where}: there are bytes that are not {encoding}; set file_encoding to {advice}.")


def _beginning(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)
