"""Messages of the iii worker protocol as its grammar makes them, with all that can be wrong with one, and frames around them."""

from __future__ import annotations

import json
import random
from typing import NamedTuple

from tests.fuzz import texts
from tests.fuzz.connection import frame

ID = b"@ID@"
"""Stands for an invocation id of its own in the text of a call."""

ANYBODYS = ("", "s", "fuzz::a")
"""Functions that a connection may have registered: it never answers."""
FUNCTIONS = (
    *("state::set", "state::get", "state::delete", "state::update", "state::list", "state::list_keys", "state::list_groups"),
    *(
        "state::get_many",
        "state::transact",
        "state::list_entries",
        "engine::functions::list",
        "engine::functions::info",
        "engine::workers::list",
    ),
    *("engine::triggers::list", "engine::registered-triggers::list", "iii-state::triggers", "iii-state::dead_list"),
    *("iii-state::dead_show", "iii-state::dead_retry", "iii-state::dead_drop", "iii-state::session_open"),
    *("iii-state::trigger_pause", "iii-state::trigger_resume", "iii-state::trigger_purge", "iii-state::trigger_remove"),
    *("nope::nope", "nope::é", "nope::" + "x" * 300, *ANYBODYS),
)
SERVED = ("fuzz::a", "fuzz::b")
"""What connections register, and never answer."""
TRIGGER_TYPES = ("state", "http", "fuzz.type", "", "engine::workers-available")


class Sample(NamedTuple):
    """A message. A call has `ID` in it once; `answers` says how many results it gets, None where that is not known."""

    text: bytes
    answers: int | None


def message(luck: random.Random) -> Sample:
    """Any message."""
    draw = luck.random()
    if draw < 0.6:
        return call(luck)
    return Sample(_members(luck, _other(luck)).encode(errors="surrogatepass"), None)


def call(luck: random.Random) -> Sample:
    """A call that the engine carries out or refuses; now and then one that is answered by nobody."""
    members = [("type", '"invokefunction"'), ("invocation_id", f'"{ID.decode()}"')]
    answers: int | None = 1
    draw = luck.random()
    if draw < 0.9:
        function_id = luck.choice(FUNCTIONS)
        members.append(("function_id", json.dumps(function_id)))
        if function_id in ANYBODYS:
            answers = None
    elif draw < 0.95:
        members.append(("function_id", luck.choice(("1", "null", "[]", "{}", "true"))))
    draw = luck.random()
    if draw < 0.7:
        members.append(("data", _request(luck)))
    elif draw < 0.8:
        members.append(("data", texts.value(luck)))
    elif draw < 0.9:
        members.append(("data", texts.odd(luck)))
    for extra, chance in (("traceparent", 0.05), ("baggage", 0.03), ("metadata", 0.1), ("caller", 0.02), ("observe_depth", 0.02)):
        if luck.random() < chance:
            members.append((extra, texts.value(luck)))
    if luck.random() < 0.1:
        members.append(("namespace", luck.choice(('"default"', '"other"', '""', '" "', "null", "1", "[]"))))
    if luck.random() < 0.15:
        action = luck.choice(('{"type":"void"}', '{"type":"enqueue","queue":"q"}', '{"type":"other"}', "null", "{}", "1", '"void"'))
        members.append(("action", action))
        if action == '{"type":"void"}':
            answers = 0
        elif answers is None and action != "null":
            answers = 1
    return Sample(_members(luck, members, repeats=False).encode(), answers)


def _members(luck: random.Random, members: list[tuple[str, str]], *, repeats: bool = True) -> str:
    if luck.random() < 0.3:
        luck.shuffle(members)
    if repeats and luck.random() < 0.1:
        members.append(luck.choice(members))
    if luck.random() < 0.1:
        members.insert(luck.randrange(len(members) + 1), ("unknown", texts.value(luck)))
    between, colon = luck.choice(((",", ":"), (",", ":"), (" , ", " : "), (",\n\t", ":\r\n")))
    return f"{{{between.join([f'{json.dumps(member)}{colon}{text}' for member, text in members])}}}"


def _text(luck: random.Random) -> str:
    """What a member holds that should be a string."""
    draw = luck.random()
    if draw < 0.75:
        return json.dumps(luck.choice(("s", "t", "k", "")))
    return luck.choice(texts.STRINGS) if draw < 0.9 else texts.scalar(luck)


def _request(luck: random.Random) -> str:
    """What a function is called with, more or less."""
    members = [("scope", _text(luck)), ("key", _text(luck))]
    draw = luck.random()
    if draw < 0.4:
        members.append((luck.choice(("value", "value", "data")), texts.value(luck) if luck.random() < 0.9 else texts.odd(luck)))
    elif draw < 0.6:
        ops = [
            f'{{"type":{_op_type(luck)},"path":{_text(luck)},"value":{texts.value(luck)},"by":1}}'
            for _ in range(luck.randint(0, 4))
        ]
        members.append(("ops", f"[{','.join(ops)}]"))
    elif draw < 0.75:
        odd = luck.choice(("limit", "max_bytes", "cursor", "id", "dead_letter_id", "function_id", "session", "epoch", "prefix"))
        members.append((odd, texts.scalar(luck)))
    if luck.random() < 0.1:
        members.append(("ttl_ms", luck.choice(("1", "1000", "0", "-1", "1e3", "null", '"1"', "10000000000001"))))
    if luck.random() < 0.05:
        numbers = [texts.scalar(luck) if luck.random() < 0.3 else "1" for _ in range(3)]
        request = '{{"session":"fuzz-session","epoch":{},"slot":{},"seq":{}}}'.format(*numbers)
        members.append(("_iii_state_request", request))
    if luck.random() < 0.1:
        members.pop(luck.randrange(len(members)))
    return _members(luck, members) if members else "{}"


def _op_type(luck: random.Random) -> str:
    return json.dumps(luck.choice(("set", "merge", "increment", "decrement", "append", "remove", "other")))


def _other(luck: random.Random) -> list[tuple[str, str]]:
    """What is no call: what workers say of themselves and of calls that they have been asked to carry out."""
    kind = luck.choice(
        (
            *("invocationresult", "registerfunction", "unregisterfunction", "registertriggertype", "unregistertriggertype"),
            *("registertrigger", "registertrigger", "unregistertrigger", "triggerregistrationresult", "registerservice"),
            *("ping", "pong", "workerregistered", "reattach", "registrationrejected", "error", "nothing known"),
        )
    )
    members = [("type", json.dumps(kind) if luck.random() < 0.97 else texts.scalar(luck))]
    chosen = luck.choice((_text(luck), json.dumps(luck.choice(SERVED)), json.dumps(f"trigger-{luck.randrange(20)}")))
    for member, text in (
        ("id", chosen),
        ("description", _text(luck)),
        ("function_id", json.dumps(luck.choice((*SERVED, "state::get", "nope::nope")))),
        ("trigger_type", json.dumps(luck.choice(TRIGGER_TYPES))),
        ("config", _config(luck)),
        ("metadata", texts.value(luck)),
        ("namespace", luck.choice(('"default"', '"other"', '""', "null", "1"))),
        ("invocation_id", '"00000000-0000-4000-8000-000000000000"'),
        ("result", texts.value(luck)),
        ("error", luck.choice(("null", '{"code":"c","message":"m"}', "[]", '"e"', texts.value(luck)))),
        ("previous_worker_id", _text(luck)),
        ("reattach_token", _text(luck)),
    ):
        wanted = {"namespace": 0.1, "invocation_id": 0.4 if kind == "invocationresult" else 0.0}.get(member, 0.6)
        if luck.random() < wanted:
            members.append((member, text))
    return members


def _config(luck: random.Random) -> str:
    if luck.random() < 0.2:
        return texts.value(luck)
    members = [("scope", _text(luck)), ("key", _text(luck)), ("condition_function_id", '"fuzz::a"'), ("delivery", '"broadcast"')]
    kept = [member for member in members if luck.random() < 0.4]
    return _members(luck, kept) if kept else "{}"


def framed(text: bytes, luck: random.Random) -> bytes:
    """A message as a client may send it: whole or in fragments with control frames between, as text or binary, with any mask."""
    mask = luck.randbytes(4) if luck.random() < 0.2 else b"\x00\x00\x00\x00"
    draw = luck.random()
    if draw < 0.88:
        return frame(text, mask=mask)
    if draw < 0.93:
        return frame(text, 0x82, mask)
    cuts = sorted(luck.randint(0, len(text)) for _ in range(luck.randint(1, 3)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    frames = [frame(piece, 0x01 if index == 0 else 0x00, mask) for index, piece in enumerate(pieces[:-1])]
    if luck.random() < 0.5:
        frames.insert(
            luck.randint(1, len(frames)), frame(luck.randbytes(luck.choice((0, 4, 125))), luck.choice((0x89, 0x8A)), mask)
        )
    return b"".join(frames) + frame(pieces[-1], 0x80, mask)


def unframed(text: bytes, luck: random.Random) -> bytes:
    """What no client may send: frames with reserved bits, opcodes and lengths, unmasked, control frames too long or in pieces."""
    first = luck.choice((0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0x09, 0x08, 0x83, 0x8B, 0x8F, 0xC1, 0xA1, 0x91, 0xFF))
    draw = luck.random()
    if draw < 0.4:
        return frame(text, first, luck.randbytes(4))
    if draw < 0.55:
        return bytes((first, min(len(text), 125))) + text[:125]
    if draw < 0.7:
        code = luck.choice((0, 999, 1000, 1004, 1005, 1006, 1012, 1015, 2999, 3000, 4999, 5000, 65535))
        return frame(code.to_bytes(2, "big") + luck.choice((b"", b"\xff\xfe", b"why", b"x" * 123)), 0x88)
    if draw < 0.8:
        return frame(luck.choice((b"", b"\x03")), 0x88)
    if draw < 0.9:
        size = luck.choice((2**63, 2**64 - 1, 64 * 2**20 + 1, 2**32, len(text) + 1, 65535))
        return bytes((first, 0x80 | 127)) + size.to_bytes(8, "big") + bytes(4) + text
    return luck.randbytes(luck.randint(1, 200))
