"""The kv adapter on file: what was acknowledged lasts, and what cannot be written is said and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from iii_state.errors import StoreError
from iii_state.events import Delivery
from tests.support.slow import slow
from tests.support.store_process import script
from tests.support.stores import ALL, FAILED, drain, opened
from tests.support.waiting import until


async def test_values_last(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        await store.set("s", "k\x00é", b'{\t\n"a":1\n}')
        await store.set("s", "gone", b"1")
        await store.delete("s", "gone")
    async with opened("kv-file", tmp_path) as store:
        assert await store.entries("s") == [("k\x00é", b'{\t\n"a":1\n}')]
        assert await store.scopes() == ["s"]


async def test_events_attempts_and_dead_letters_last(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        await store.subscribe(ALL)
        for key in ("acked", "retried", "buried", "out", "ready"):
            await store.set("s", key, b"0")
        acked, retried, buried, out, ready = await store.take(ALL.id, 10)
        await store.release([ready])
        await store.ack([acked])
        await store.retry(retried, 10, FAILED)
        await store.dead_letter(buried, FAILED)
        await store.set("s", "retried", b"1")
        first_ids = {out.event_id, ready.event_id, retried.event_id}
    async with opened("kv-file", tmp_path) as store:
        (stats,) = await store.stats()
        assert (stats.hosts, stats.waiting, stats.dead) == ([], 4, 1)
        await store.subscribe(ALL)
        await until(lambda: store.rang(ALL.id))
        seen: list[Delivery] = []
        async with asyncio.timeout(10):
            while len(seen) < 4:
                seen.extend(await drain(store, ALL))
                await asyncio.sleep(0.005)
        attempts = {(d.event.key, d.event.new): d.attempt for d in seen}
        assert attempts == {("out", b"0"): 1, ("ready", b"0"): 1, ("retried", b"0"): 2, ("retried", b"1"): 1}
        assert {d.event_id for d in seen if d.event.new == b"0"} == first_ids
        await store.set("s", "new", b"0")
        (new,) = await store.take(ALL.id, 10)
        assert new.event_id not in first_ids
        (letter,) = await store.dead_letters()
        assert (letter.event.key, letter.attempts, letter.error) == ("buried", 1, "invocation_failed: boom")


async def test_a_subscription_that_ended_and_began_again_in_one_group_has_no_old_events(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        await store.subscribe(ALL)
        await store.set("s", "old", b"0")
        late = store.adapter.values.set("s", "late", b"0")
        store.adapter.queues.unsubscribe(ALL.id)
        store.adapter.queues.subscribe(ALL)
        assert asyncio.isfuture(late)
        await late
    async with opened("kv-file", tmp_path) as store:
        await store.subscribe(ALL)
        assert await store.take(ALL.id, 10) == []


async def test_a_read_sees_what_is_committed_and_a_mutation_what_comes_before_it(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        first = store.adapter.values.set("s", "k", b"1")
        second = store.adapter.values.set("s", "k", b"2")
        assert store.adapter.values.get("s", "k") is None
        assert asyncio.isfuture(first)
        assert asyncio.isfuture(second)
        assert [await first, await second] == [None, b"1"]
        assert store.adapter.values.get("s", "k") == b"2"


async def test_a_second_opener_gets_an_error_and_the_first_goes_on(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        await store.set("s", "k", b"1")
        with pytest.raises(StoreError, match="in use by another process"):
            async with opened("kv-file", tmp_path):
                pass
        await store.set("s", "k", b"2")
    async with opened("kv-file", tmp_path) as store:
        assert await store.get("s", "k") == b"2"


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite3"
    file.write_bytes(b"this is a letter to my aunt\n" * 100)
    with pytest.raises(StoreError, match="no database"):
        async with opened("kv-file", tmp_path):
            pass
    assert file.read_bytes() == b"this is a letter to my aunt\n" * 100


async def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.sqlite3") as other:
        other.execute("CREATE TABLE notes (text TEXT)")
    other.close()
    with pytest.raises(StoreError, match="another program"):
        async with opened("kv-file", tmp_path):
            pass


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        await store.set("s", "k", b"1")
    with sqlite3.connect(tmp_path / "state.sqlite3") as file:
        file.execute("PRAGMA user_version=99")
    file.close()
    with pytest.raises(StoreError, match="format 99"):
        async with opened("kv-file", tmp_path):
            pass


async def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(StoreError, match="has to be a directory"):
        async with opened("kv-file", tmp_path / "f"):
            pass


async def test_a_store_of_the_stock_engine_is_left_alone_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "users.bin").write_bytes(b"x")
    async with opened("kv-file", tmp_path) as store:
        assert await store.scopes() == []
    assert "stock iii engine" in caplog.text
    assert (tmp_path / "users.bin").read_bytes() == b"x"


@pytest.mark.parametrize("round_number", [0, *map(slow, (1, 2, 3))])
async def test_killed_in_a_burst_it_loses_no_acknowledged_write_and_no_event(tmp_path: Path, round_number: int) -> None:
    process = script(
        """
        async with opened("kv-file", directory) as store:
            await store.subscribe(Subscription("all"))
            async def write(writer):
                for number in range(100000):
                    await store.set("s", f"{writer}", b"%d" % number)
                    say("set", writer, number)
            async def handle():
                while True:
                    for delivery in await store.take(Subscription("all").id, 2):
                        await store.ack([delivery])
                        say("ack", delivery.event.key, delivery.event.new.decode())
                    await asyncio.sleep(0.001)
            await asyncio.gather(handle(), *map(write, range(16)))
        """,
        tmp_path,
    )
    assert process.stdout is not None
    acknowledged: dict[str, int] = {}
    handled: dict[str, int] = {}
    limit = 1500 + 700 * round_number
    for count, line in enumerate(process.stdout):
        if not line.endswith("\n"):  # torn by the kill
            break
        word, writer, digits = line.split()
        (acknowledged if word == "set" else handled)[writer] = int(digits)
        if count == limit:
            process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert handled, "some were handled before the kill"
    async with opened("kv-file", tmp_path) as store:
        await store.subscribe(ALL)
        deliveries: dict[str, list[int]] = {}
        for delivery in await drain(store, ALL):
            assert delivery.event.new is not None
            deliveries.setdefault(delivery.event.key, []).append(int(delivery.event.new))
        for writer, number in acknowledged.items():
            value = await store.get("s", writer)
            assert value is not None
            assert int(value) >= number, "an acknowledged write is there"
            left = deliveries.get(writer, [])
            assert left == list(range(int(value) - len(left) + 1, int(value) + 1)), "what is left is whole, and in order"
            assert int(value) - len(left) <= handled.get(writer, -1) + 1, "only what was handled is gone"


async def test_a_full_disk_fails_calls_in_words_and_loses_nothing(tmp_path: Path) -> None:
    process = script(
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        async with opened("kv-file", directory) as store:
            await store.subscribe(Subscription("all"))
            await store.set("s", "before", b"1")
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))
            failed = 0
            for number in range(40):
                try:
                    await store.set("s", f"k{number}", b'"%s"' % (b"x" * 20_000))
                except StoreError as error:
                    failed += 1
                    message = str(error)
                    assert await store.get("s", f"k{number}") is None
            assert failed, "the disk was full"
            say("failed", message)
            (out,) = await store.take(Subscription("all").id, 1)
            pending = store.adapter.queues.ack([out])
            await asyncio.sleep(0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            await asyncio.wait_for(pending, 10)
            await store.set("s", "after", b"1")
            say("kept", len(await store.entries("s")))
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    output, errors = await asyncio.to_thread(process.communicate, None, 60)
    lines = output.splitlines()
    assert len(lines) == 2, errors
    assert lines[0].startswith("failed "), errors
    assert "state.sqlite3" in lines[0]
    kept = int(lines[1].removeprefix("kept "))
    async with opened("kv-file", tmp_path) as store:
        assert len(await store.entries("s")) == kept
        await store.subscribe(ALL)
        assert len(await drain(store, ALL)) == kept - 1, "one event was acknowledged"


@pytest.mark.skipif(os.geteuid() != 0, reason="root is not stopped by permissions, and only root can become somebody else")
def test_a_read_only_directory_is_an_error_in_words(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "hidden" / "inner").mkdir(parents=True)
    (locked / "hidden").chmod(0o700)
    (locked / "listed").mkdir()
    (locked / "listed").chmod(0o766)
    process = script(
        """
        await asyncio.to_thread(int)  # imports what cannot be imported any more after the next line
        async with opened("kv-file", directory) as store:
            await store.set("s", "k", b"1")
        os.seteuid(65534)
        places = ("", "deeper", "hidden/inner", "listed", "n" * 300)
        for place in (directory / place for place in places):
            try:
                async with opened("kv-file", place):
                    say("opened")
            except StoreError as error:
                say(error)
        """,
        locked,
    )
    output, errors = process.communicate(None, 60)
    lines = output.splitlines()
    assert len(lines) == 5, errors
    assert "cannot write" in lines[0]
    assert "cannot make the directory" in lines[1]
    assert "cannot look for the directory" in lines[2]
    assert "Permission denied" in lines[2]
    assert "cannot write" in lines[3]
    assert "File name too long" in lines[4]


async def test_a_write_while_the_store_closes_is_answered(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        before = store.adapter.values.set("s", "before", b"1")
        stopping = asyncio.create_task(store.adapter.stop())
        async with asyncio.timeout(10):
            while not stopping.done():
                with contextlib.suppress(StoreError):
                    await store.set("s", "k", b"1")
                await asyncio.sleep(0)
            with pytest.raises(StoreError, match="being closed"):
                await store.set("s", "after", b"1")
        assert asyncio.isfuture(before)
        assert await before is None
        await store.start()
        assert store.adapter.values.get("s", "before") == b"1"
