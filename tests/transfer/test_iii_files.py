"""The files of a stock engine's store: read to the last byte, or refused by name."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest

from iii_state.errors import InvalidValue, TransferError
from iii_state.transfer import stores
from iii_state.transfer.iii_files import IiiFiles, members_of, scope_of
from iii_state.transfer.importing import Import, check
from iii_state.transfer.rows import RowOutcome
from iii_state.transfer.stores import StorePlace
from tests.transfer.places import held_in

TEXT = b'{"ada":{"name":"Ada","n":1.0},"big":18446744073709551615,"none":null,"e":[],"":{}}'


def content(text: bytes) -> bytes:
    """What a stock engine writes for a scope."""
    padding = -len(text) % 4
    return text + b"\0" * padding + struct.pack("<iI", -(len(text) + padding), len(text))


@pytest.mark.parametrize("padding", range(4))
def test_every_value_is_read(padding: int) -> None:
    text = TEXT[:-1] + b',"p":"%b"}' % (b"x" * padding)
    found = members_of(content(text))
    assert found["ada"] == b'{\t\n"name":"Ada",\n"n":1.0\n}'
    assert (found["big"], found["none"], found["e"], found[""]) == (b"18446744073709551615", b"null", b"[]", b"{}")


def test_one_that_is_cut_anywhere_is_refused() -> None:
    data = content(TEXT)
    for length in range(len(data)):
        with pytest.raises(InvalidValue):
            members_of(data[:length])
    for length in range(1, len(data)):
        with pytest.raises(InvalidValue):
            members_of(data[length:])
    for more in (b"\0", b"\0\0\0\0", data):
        with pytest.raises(InvalidValue):
            members_of(data + more)


def test_one_whose_padding_or_trailer_is_another_is_refused() -> None:
    data = content(TEXT)
    for position in range(len(TEXT), len(data)):
        for other in range(256):
            if other != data[position]:
                changed = b"%b%c%b" % (data[:position], other, data[position + 1 :])
                with pytest.raises(InvalidValue):
                    members_of(changed)


def test_any_other_byte_of_the_text_gives_values_or_is_refused() -> None:
    data = content(TEXT)
    for position in range(len(TEXT)):
        for other in (0, 0x20, 0x22, 0x5C, 0x7D, 0xFF):
            changed = b"%b%c%b" % (data[:position], other, data[position + 1 :])
            with contextlib.suppress(InvalidValue):
                assert all(members_of(changed).values())


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b'"a"', b"{", b'{"a":1}x', b'{"a":"\xff"}', b'{"a":1e400}', b"{" * 100])
def test_a_text_that_is_no_object_of_values_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidValue):
        members_of(content(text))


def test_names_of_files_are_scopes() -> None:
    assert scope_of("users.bin") == "users"
    assert scope_of("a%2Fb%3A%25%00.bin") == "a/b:%\0"
    assert scope_of("%F0%9F%8E%88.bin") == "🎈"
    assert scope_of("a.bin.bin") == "a.bin"
    for name in ("%.bin", "%zz.bin", "%ff.bin"):
        with pytest.raises(InvalidValue, match="its name"):
            scope_of(name)


async def test_a_directory_is_imported(tmp_path: Path) -> None:
    folder = tmp_path / "kv_store_data.db"
    folder.mkdir()
    (folder / "users.bin").write_bytes(content(TEXT))
    (folder / "a%2Fb.bin").write_bytes(content(b'{"k":1}'))
    (folder / "other.txt").write_bytes(b"not ours")
    source = IiiFiles(folder)
    place = StorePlace(directory=tmp_path / "ours")
    assert check(source, lambda done: None) == 6
    async with stores.target(place, "error", events=False, is_dry=False) as target:
        done = await Import(source, target).run()
    assert done.outcomes[RowOutcome.STORED] == 6
    rows = await held_in(place)
    assert {(row.scope, row.key) for row in rows} >= {("a/b", "k"), ("users", ""), ("users", "ada")}


def test_a_damaged_file_is_named_and_nothing_is_imported(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(content(TEXT))
    (tmp_path / "b.bin").write_bytes(content(TEXT)[:-1])
    with pytest.raises(
        TransferError, match=r"b\.bin is no file of a stock engine's store, or is damaged: .*; nothing was imported"
    ):
        check(IiiFiles(tmp_path), lambda done: None)
    with pytest.raises(TransferError, match=r"holds no files <scope>\.bin"):
        check(IiiFiles(tmp_path / ".."), lambda done: None)
