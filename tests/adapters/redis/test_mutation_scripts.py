"""values/set, values/delete and values/update: events, bounds, retries, routes, and what they do when something is in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis

from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.scripts.mutations import BoundedQueue, QueueFull, RequestId, Stale
from iii_state.errors import OldValueUnknown, RequestFenced, SessionLost, SessionTaken
from tests.support.redis.script_engine import Engine, refused
from tests.support.redis.server import RedisServer, binary
from tests.support.slow import slow

KEYS = Keys()
INCREMENT: list[dict[str, Any]] = [{"type": "increment", "path": "", "by": 1}]
MUTATIONS: dict[str, Callable[[Engine, RequestId | None], Any]] = {
    "set": lambda engine, request: engine.set(b"s", b"k", b"2", request),
    "delete": lambda engine, request: engine.delete(b"s", b"k", request),
    "update": lambda engine, request: engine.update(b"s", b"k", INCREMENT, request=request),
}
every_mutation = pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)


@pytest.fixture
def engine(client: redis.Redis) -> Engine:
    return Engine(client, session=b"engine")


def everything(client: redis.Redis) -> dict[bytes, Any]:
    """Every key and what it holds."""
    found: dict[bytes, Any] = {}
    for key in client.scan_iter():
        match client.type(key):
            case b"hash":
                found[key] = client.hgetall(key)
            case b"stream":
                found[key] = client.xrange(key)
            case b"list":
                found[key] = client.lrange(key, 0, -1)
            case b"set":
                found[key] = client.smembers(key)
            case b"zset":
                found[key] = client.zrange(key, 0, -1, withscores=True)
            case _:
                found[key] = client.get(key)
    return found


def entries(client: redis.Redis, queue: bytes) -> list[dict[bytes, bytes]]:
    """What the entries of a queue's stream hold."""
    stream = cast("list[tuple[bytes, dict[bytes, bytes]]]", client.xrange(KEYS.stream(queue)))
    return [fields for _, fields in stream]


def events(client: redis.Redis, queue: bytes) -> list[tuple[bytes, ...]]:
    return [tuple(fields[name] for name in (b"s", b"k", b"t", b"o", b"n")) for fields in entries(client, queue)]


def test_old_values_and_the_index_of_scopes(engine: Engine, client: redis.Redis) -> None:
    assert engine.set(b"s", b"k", b"1") is None
    assert engine.set(b"s", b"k", b"null") == b"1"
    assert engine.set(b"s", b"k2", b"1") is None
    assert client.smembers(KEYS.scopes) == {b"s"}
    assert engine.delete(b"s", b"k") == b"null"
    assert client.smembers(KEYS.scopes) == {b"s"}
    assert engine.delete(b"s", b"k2") == b"1"
    assert client.smembers(KEYS.scopes) == set()
    assert engine.delete(b"s", b"k2") is None


@pytest.mark.parametrize("name", [b"", b"a\x00b", b"a\nb", "é😀".encode(), b"{x}:y", b"\xff\xfe"])
def test_scopes_and_keys_are_any_bytes(engine: Engine, client: redis.Redis, name: bytes) -> None:
    engine.targets = [BoundedQueue(b"q", 10, 10**6)]
    engine.set(name, name, b"1")
    assert engine.update(name, name, INCREMENT).new == b"2"
    assert client.smembers(KEYS.scopes) == {name}
    assert client.hgetall(KEYS.values(name)) == {name: b"2"}
    assert entries(client, b"q")[0][b"s"] == name
    assert client.llen(KEYS.wait(b"q", lane(name, name))) == 6
    assert engine.delete(name, name) == b"2"


def test_one_event_of_a_lane_is_in_the_stream_and_the_others_wait(engine: Engine, client: redis.Redis) -> None:
    engine.targets = [BoundedQueue(b"q1", 10, 10**6), BoundedQueue(b"q2", 10, 10**6)]
    engine.set(b"s", b"k", b"1")
    engine.update(b"s", b"k", INCREMENT)
    engine.delete(b"s", b"k")
    engine.delete(b"s", b"other")
    for queue in (b"q1", b"q2"):
        assert events(client, queue) == [(b"s", b"k", b"created", b"", b"1"), (b"s", b"other", b"deleted", b"", b"")]
        waiting = client.lrange(KEYS.wait(queue, lane(b"s", b"k")), 0, -1)
        assert waiting[:6] == [b"engine-2", b"s", b"k", b"updated", b"1", b"2"]
        assert waiting[6:] == [b"engine-3", b"s", b"k", b"deleted", b"2", b""]
        assert client.hgetall(KEYS.busy(queue)) == {
            lane(b"s", b"k"): b"3",
            lane(b"s", b"other"): b"1",
            b"entries": b"4",
            b"bytes": b"%d" % (3 + 4 + 3 + 6),
        }


def test_the_bell_rings_for_what_can_be_taken(real: redis.Redis) -> None:
    engine = Engine(real)
    engine.targets = [BoundedQueue(b"q", 10, 10**6)]
    with real.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(KEYS.stream(b"q"))
        assert heard.get_message(timeout=5) is None
        for _ in range(3):
            engine.set(b"s", b"k", b"1")
        engine.set(b"s", b"k2", b"1")
        assert heard.get_message(timeout=5) is not None
        assert heard.get_message(timeout=5) is not None
        assert heard.get_message(timeout=0.05) is None


@every_mutation
@pytest.mark.parametrize(("entries", "size"), [(1, 10**6), (10, 5)])
def test_a_full_queue_refuses_and_nothing_changes(
    engine: Engine, client: redis.Redis, mutate: Callable[[Engine, RequestId | None], Any], entries: int, size: int
) -> None:
    engine.targets = [BoundedQueue(b"roomy", 10, 10**6), BoundedQueue(b"full", entries, size)]
    engine.set(b"s", b"k", b"1")
    before = everything(client)
    with refused(QueueFull) as full:
        mutate(engine, None)
    assert full[0].queue == 1
    assert everything(client) == before
    engine.targets[1] = BoundedQueue(b"full", 2, 3 + 4)
    engine.delete(b"s", b"k")


@every_mutation
def test_a_call_made_again_answers_its_first_outcome(
    engine: Engine, client: redis.Redis, mutate: Callable[[Engine, RequestId | None], Any]
) -> None:
    engine.targets = [BoundedQueue(b"q", 10, 10**6)]
    engine.set(b"s", b"k", b"1")
    request = engine.request(slot=3)
    first = mutate(engine, request)
    before = everything(client)
    assert mutate(engine, request) == first
    assert everything(client) == before
    engine.reopen()
    assert mutate(engine, request._replace(epoch=engine.epoch)) == first
    with pytest.raises(RequestFenced):
        mutate(engine, request)


def test_the_failures_of_an_update_made_again_are_the_same(engine: Engine) -> None:
    ops = [{"type": "increment", "path": "a", "by": 1}, {"type": "append", "path": "n", "value": 1}, *INCREMENT]
    engine.put(b"s", b"k", b'{\t\n"a":"x",\n"n":1\n}')
    request = engine.request()
    first = engine.update(b"s", b"k", ops, request=request)
    assert [error.code for error in first.errors] == ["increment.not_number", "append.type_mismatch", "increment.not_number"]
    engine.put(b"s", b"k", b"0")
    assert engine.update(b"s", b"k", ops, request=request) == first


def test_a_call_made_again_for_a_key_that_was_missing(engine: Engine) -> None:
    request = engine.request()
    first = engine.update(b"s", b"k", INCREMENT, request=request)
    assert (first.old, first.new) == (None, b"1")
    assert engine.update(b"s", b"k", INCREMENT, request=request) == first


def test_a_slot_used_since_is_fenced(engine: Engine) -> None:
    early, late = engine.request(), engine.request()
    engine.set(b"s", b"k", b"1", late)
    with pytest.raises(RequestFenced):
        engine.set(b"s", b"k", b"2", early)
    assert engine.stored(b"s", b"k") == b"1"


def test_an_old_value_that_is_too_large_is_not_recorded(engine: Engine, client: redis.Redis) -> None:
    engine.put(b"s", b"k", b'"%b"' % (b"x" * 2**20))
    request = engine.request()
    assert engine.delete(b"s", b"k", request) is not None
    with pytest.raises(OldValueUnknown):
        engine.delete(b"s", b"k", request)
    assert sum(map(len, client.hvals(KEYS.session(b"engine").decode()))) < 100


def test_opening_a_session_tells_a_lost_one_from_a_taken_one(engine: Engine, client: redis.Redis) -> None:
    assert engine.epoch == 1
    engine.reopen()
    assert engine.epoch == 2
    with pytest.raises(SessionTaken):
        Engine(client, session=b"engine")
    engine.epoch = 1
    with pytest.raises(SessionTaken):
        engine.reopen()
    engine.epoch = 2
    client.delete(KEYS.session(b"engine"))
    with pytest.raises(SessionLost):
        engine.reopen()
    assert client.keys() == []


@every_mutation
def test_without_its_session_a_call_is_not_applied(
    engine: Engine, client: redis.Redis, mutate: Callable[[Engine, RequestId | None], Any]
) -> None:
    client.delete(KEYS.session(b"engine"))
    with pytest.raises(SessionLost):
        mutate(engine, None)
    assert client.keys() == []


@every_mutation
def test_a_stale_call_learns_the_changes(
    engine: Engine, client: redis.Redis, mutate: Callable[[Engine, RequestId | None], Any]
) -> None:
    engine.set(b"s", b"k", b"1")
    for version in (1, 2, 3):
        client.set(KEYS.routes_version, version)
        client.xadd(KEYS.routes_log, {"add": f"q{version}"}, id=f"{version}-0")
    before = everything(client)
    with refused(Stale) as stale:
        mutate(engine, None)
    assert (stale[0].version, [version for version, _ in stale[0].changes]) == (3, [1, 2, 3])
    engine.routes_version = 1
    with refused(Stale) as stale:
        mutate(engine, None)
    assert stale[0].changes == [(2, [b"add", b"q2"]), (3, [b"add", b"q3"])]
    assert everything(client) == before
    engine.routes_version = 3
    mutate(engine, None)


WRONG: dict[str, Callable[[Engine], bytes]] = {
    "values": lambda engine: KEYS.values(b"s"),
    "scopes": lambda engine: KEYS.scopes,
    "session": lambda engine: KEYS.session(engine.session),
    "routes version": lambda engine: KEYS.routes_version,
    "first stream": lambda engine: KEYS.stream(b"q1"),
    "second stream": lambda engine: KEYS.stream(b"q2"),
    "first busy": lambda engine: KEYS.busy(b"q1"),
    "second busy": lambda engine: KEYS.busy(b"q2"),
}


@every_mutation
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_key_of_the_wrong_type_fails_whole(
    engine: Engine, client: redis.Redis, mutate: Callable[[Engine, RequestId | None], Any], wrong: Callable[[Engine], bytes]
) -> None:
    engine.targets = [BoundedQueue(b"q1", 10, 10**6), BoundedQueue(b"q2", 10, 10**6)]
    name = wrong(engine)
    if name != KEYS.values(b"s"):
        engine.put(b"s", b"k", b"1")
        if name == KEYS.scopes and mutate is not MUTATIONS["delete"]:
            client.delete(KEYS.values(b"s"))
    client.delete(name)
    if name == KEYS.routes_version:
        client.sadd(name, "x")
    else:
        client.set(name, "x")
    before = everything(client)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        mutate(engine, None)
    assert everything(client) == before


@every_mutation
@pytest.mark.parametrize("queue", [b"q1", b"q2"])
def test_a_waiting_list_of_the_wrong_type_fails_whole(
    engine: Engine, client: redis.Redis, mutate: Callable[[Engine, RequestId | None], Any], queue: bytes
) -> None:
    engine.targets = [BoundedQueue(b"q1", 10, 10**6), BoundedQueue(b"q2", 10, 10**6)]
    engine.set(b"s", b"k", b"1")
    client.set(KEYS.wait(queue, lane(b"s", b"k")), "x")
    before = everything(client)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        mutate(engine, None)
    assert everything(client) == before


@pytest.fixture(params=["7", *map(slow, ("6.2", "valkey"))])
def crowded(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine of a Redis with data whose memory is full."""
    server = binary(request.param)
    if server is None:
        pytest.skip(f"no Redis {request.param} here")
    with RedisServer("--maxmemory-policy", "noeviction", executable=server) as running:
        client = running.client
        engine = Engine(client, session=b"engine")
        engine.targets = [BoundedQueue(b"q", 1000, 10**9)]
        for number in range(20):
            engine.set(b"s", b"%d" % number, b'"%b"' % (b"x" * 10_000))
        client.config_set("maxmemory", 1)
        yield engine


def test_when_memory_is_full_writes_fail_whole_and_deletes_work(crowded: Engine) -> None:
    client = crowded.client
    crowded.reopen()
    before = everything(client)
    for routes in ([], [BoundedQueue(b"q", 1000, 10**9)]):
        crowded.targets = routes
        for name in ("set", "update"):
            with pytest.raises(redis.ResponseError, match="maxmemory"):
                MUTATIONS[name](crowded, None)
            assert everything(client) == before
    for number in range(20):
        assert crowded.delete(b"s", b"%d" % number) is not None
    assert crowded.delete(b"s", b"missing") is None
    assert not client.exists(KEYS.values(b"s"))
    assert client.smembers(KEYS.scopes) == set()
    assert client.hget(KEYS.busy(b"q").decode(), "entries") == b"41"


def test_no_script_leaves_a_global(client: redis.Redis) -> None:
    count = "local count = 0 for _ in pairs(_G) do count = count + 1 end return count"
    globals_before = client.eval(count, 0)
    engine = Engine(client)
    engine.targets = [BoundedQueue(b"q", 10, 10**6), BoundedQueue(b"r", 10, 10**6)]
    for mutate in MUTATIONS.values():
        mutate(engine, None)
    every_op: list[dict[str, Any]] = [
        {"type": "set", "path": ["a", "b"], "value": 1.5},
        {"type": "increment", "path": ["a", "b"], "by": 2**60},
        {"type": "merge", "path": "", "value": {"x": [], "y": 2**63}},
        {"type": "increment", "path": "y", "by": 2**62},
        {"type": "append", "path": "x", "value": 1},
        {"type": "append", "path": "y", "value": 1},
        {"type": "remove", "path": ["a", "b"]},
        {"type": "remove", "path": "x"},
        {"type": "remove", "path": ""},
    ]
    engine.update(b"s", b"new", every_op)
    assert client.eval(count, 0) == globals_before


def test_scripts_are_loaded_again_after_a_flush(engine: Engine, client: redis.Redis) -> None:
    engine.set(b"s", b"k", b"1")
    client.script_flush()
    assert engine.set(b"s", b"k", b"2") == b"1"
