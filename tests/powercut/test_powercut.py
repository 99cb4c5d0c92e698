"""A kv store on file opens after a cut of the power, with all that had been forced to disk and nothing that was never written."""

from __future__ import annotations

from pathlib import Path

import pytest

from iii_state.adapters.kv.journal.file import FILE_NAME
from tests.powercut.cuts import STORE, cut, recorded
from tests.powercut.disk import Cut, Disk
from tests.powercut.record import Operation, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("powercut")


@pytest.fixture(scope="module")
def operations(folder: Path) -> list[Operation]:
    return recorded(folder, seed=1, rounds=20)


def after(operations: list[Operation], manner: str, target: Path) -> None:
    """What is on the disk then, where that is no matter of luck."""
    disk, luck = Disk(), Cut(0)
    for operation in operations:
        disk.do(operation)
    luck.manner = manner
    target.mkdir()
    disk.put(target, luck)


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_record_holds_all_that_was_done_to_the_files(operations: list[Operation], folder: Path, tmp_path: Path) -> None:
    after(operations, "everything", tmp_path / "rebuilt")
    assert files(tmp_path / "rebuilt") == files(folder / "disk")
    done = {operation.kind for operation in operations}
    assert done == set("MKCOWTSDX"), "a store makes, cuts, removes, and forces to disk"


def test_the_path_to_a_new_store_is_forced_to_disk_with_the_first_write(operations: list[Operation], tmp_path: Path) -> None:
    first = next(index for index, operation in enumerate(operations) if operation.kind == "S" and operation.path.endswith("-wal"))
    after(
        operations[: first + 3], "nothing", tmp_path / "rebuilt"
    )  # SQLite forces the directory to disk right behind its first log
    assert (tmp_path / "rebuilt" / STORE / FILE_NAME).exists()


def test_after_a_cut_a_store_has_what_was_forced_to_disk_and_no_more(operations: list[Operation]) -> None:
    found = cut(operations, seed=1, points=60)
    assert not found.problems
    assert found.behind > 0, "some cuts cost what had not been forced to disk"


@pytest.mark.slow
def test_after_hundreds_of_cuts_it_does_too(tmp_path: Path) -> None:
    found = cut(recorded(tmp_path, seed=2, rounds=40), seed=2, points=250)
    assert not found.problems
    assert found.points == 250


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["synchronous off", "two transactions"])
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    assert cut(recorded(tmp_path, seed=3, rounds=40, fault=fault), seed=3, points=400).problems


def test_a_disk_that_forces_nothing_is_found(operations: list[Operation]) -> None:
    assert cut(operations, seed=1, points=60, lies=True).problems
