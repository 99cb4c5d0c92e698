"""An export that was changed, cut off, or is none, is refused by its line, and nothing is imported."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from iii_state.errors import MAX_VALUE_BYTES, TransferError
from iii_state.transfer.files import zstandard
from iii_state.transfer.importing import ExportFile, check
from iii_state.transfer.lines import LineReader

HEADER = b'{"iii_state_export":1,"version":"0.2.0","id":"x","from":"here","at":"now"}\n'
ROWS = [b'{"scope":"s","key":"a","value":[1,2]}\n', b'{"scope":"t","key":"b","value":"x","deadline_ms":9999999999999}\n']


def whole(*rows: bytes, header: bytes = HEADER, **end: object) -> bytes:
    """An export of these lines; `end` are members of its trailer that are other than they have to be."""
    text = header + b"".join(rows)
    scopes = len({json.loads(row)["scope"] for row in ROWS}) if rows == tuple(ROWS) else 1
    trailer = {"scopes": scopes, "values": len(rows), "sha256": hashlib.sha256(text).hexdigest(), **end}
    return text + json.dumps({"end": trailer}, separators=(",", ":")).encode() + b"\n"


def read(text: bytes) -> int:
    """How many values it has."""
    reading = LineReader()
    for line in text.splitlines(keepends=True):
        reading.take(line)
    return reading.finish().values


def test_a_whole_export_is_read() -> None:
    assert read(whole(*ROWS)) == 2
    assert read(HEADER + b'{"end":{"scopes":0,"values":0,"sha256":"%b"}}\n' % hashlib.sha256(HEADER).hexdigest().encode()) == 0


def test_one_that_is_cut_anywhere_is_refused() -> None:
    text = whole(*ROWS)
    for length in range(len(text)):
        with pytest.raises(TransferError, match=r"line \d|empty"):
            read(text[:length])


def test_one_in_which_any_byte_is_another_is_refused() -> None:
    text = whole(*ROWS)
    for position in range(len(text)):
        for other in (text[position] ^ 1, text[position] ^ 0x20, 0x0A, 0xFF):
            if other != text[position]:
                with pytest.raises(TransferError, match=r"line \d|empty"):
                    read(b"%b%c%b" % (text[:position], other, text[position + 1 :]))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b"{}\n", "line 2: Object missing required field `scope`"),
        (b'{"scope":"s","key":"k"}\n', "line 2: Object missing required field `value`"),
        (b'{"scope":"s","key":"k","value":1,"ttl_ms":5}\n', "line 2: Object contains unknown field `ttl_ms`"),
        (b'{"scope":"s","key":7,"value":1}\n', "line 2: Expected `str`, got `int` - at `.\\.key`"),
        (b'{"scope":"s","key":"k","value":1e400}\n', "line 2: number out of range"),
        (b'{"scope":"s","key":"k","value":NaN}\n', "line 2: JSON is malformed"),
        (b'{"scope":"s","key":"k","value":"\xff"}\n', "line 2: byte 32 is no UTF-8"),
        (b'{"scope":"s","key":"k","value":"\\ud800"}\n', "line 2: .*surrogate"),
        (b'{"scope":"s","key":"k","value":%b1%b}\n' % (b"[" * 600, b"]" * 600), "line 2: nesting deeper than 512 levels"),
        (b'{"scope":"s","key":"k","value":1,"deadline_ms":-1}\n', "line 2: deadline_ms is -1"),
        (b'{"scope":"s","key":"k","value":"%b"}\n' % (b"x" * MAX_VALUE_BYTES), "line 2: the value has 16777218 bytes"),
        (b"\n", "line 2"),
    ],
)
def test_a_bad_line_is_named(row: bytes, words: str) -> None:
    with pytest.raises(TransferError, match=words):
        read(whole(row))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "the file is empty"),
        (b'{"a":1}\n', "line 1 is no header"),
        (
            whole(*ROWS, header=HEADER.replace(b":1,", b":3,")),
            "line 1: the export has format 3, written by iii-state 0.2.0; .*newer",
        ),
        (whole(*ROWS, values=3), "line 4: the trailer counts 3 values of 2 scopes, and the file has 2 of 2"),
        (whole(*ROWS, scopes=1), "line 4: the trailer counts 2 values of 1 scopes"),
        (whole(*ROWS, sha256="0" * 64), "line 4: the checksum is 0000"),
        (whole(*ROWS) + ROWS[0], "line 5 stands behind the end"),
        (HEADER + ROWS[0], "the file ends behind line 2, without a trailer"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(text: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=words):
        read(text)
    file = tmp_path / "export.jsonl"
    file.write_bytes(text)
    with pytest.raises(TransferError, match=words) as caught:
        check(ExportFile(str(file)), lambda done: None)
    assert str(file) in str(caught.value)
    assert str(caught.value).endswith("nothing was imported")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_or_changed_is_refused(suffix: str, tmp_path: Path) -> None:
    text = whole(*ROWS)
    packed = gzip.compress(text) if suffix == ".gz" else zstandard().compress(text)
    file = tmp_path / f"export.jsonl{suffix}"
    file.write_bytes(packed)
    assert check(ExportFile(str(file)), lambda done: None) == 2
    for length in range(len(packed)):
        file.write_bytes(packed[:length])
        with pytest.raises(TransferError, match=r"export\.jsonl"):
            check(ExportFile(str(file)), lambda done: None)
    file.write_bytes(packed[: len(packed) // 2] + b"\0\0\0\0" + packed[len(packed) // 2 + 4 :])
    with pytest.raises(TransferError, match=r"export\.jsonl"):
        check(ExportFile(str(file)), lambda done: None)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"cannot read .*missing\.jsonl: No such file"):
        check(ExportFile(str(tmp_path / "missing.jsonl")), lambda done: None)
