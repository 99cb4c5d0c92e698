"""Op lists as their grammar makes them, right and wrong, as JSON text; and what the model makes of those that it knows."""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

from tests.fuzz import texts
from tests.fuzz.texts import NAMES, ODD_NAMES

WORDS = ("set", "merge", "increment", "decrement", "append", "remove")


class OpList(NamedTuple):
    """`text` is what a call gets as `ops`; `ops` are the same for the model, None where it does not know them.

    `is_refused`: the call is refused as a whole, and nothing changes.
    """

    text: str
    ops: list[dict[str, Any]] | None
    is_refused: bool


def op_list(luck: random.Random) -> OpList:
    """Up to eight ops; now and then something that is none."""
    draw = luck.random()
    made = [_op(luck) for _ in range(luck.choice((0, 1, 1, 1, 2, 2, 3, 5, 8)))]
    if draw < 0.1:
        made += _sum(luck)
    if draw < 0.80:
        text = f"[{','.join(made)}]"
        return OpList(text, json.loads(text), False)
    if draw < 0.90:  # as JSON may be written, too; numbers and members that the model does not keep as they are
        made.insert(luck.randint(0, len(made)), _odd_op(luck))
        return OpList(f"[ {' ,'.join(made)}\n]", None, False)
    if draw < 0.98:
        made.insert(luck.randint(0, len(made)), _wrong_op(luck))
        return OpList(f"[{','.join(made)}]", None, True)
    return OpList(luck.choice(("{}", "null", "1", '"set"', "[[]]", "[null]", "[1]", "true")), None, True)


def _op(luck: random.Random) -> str:
    word = luck.choice(WORDS)
    members = [f'"type":"{word}"']
    if (path := _path(luck)) is not None:
        members.append(f'"path":{path}')
    if word in ("set", "append"):
        members.append(f'"value":{texts.value(luck)}')
    elif word == "merge":
        members.append(f'"value":{texts.document(luck) if luck.random() < 0.8 else _merge_value(luck)}')
    elif word != "remove":
        members.append(f'"by":{texts.integer(luck) if luck.random() < 0.7 else luck.choice(texts.FLOATS)}')
    if luck.random() < 0.3:
        luck.shuffle(members)
    return f"{{{','.join(members)}}}"


def _sum(luck: random.Random) -> list[str]:
    """Two ops that meet: a number, often one at the edge of something, and another that is added to it."""
    path = texts.name(luck.choice(("n", "a", "é")), luck)
    number, by = (luck.choice((*texts.FLOATS, "-0.0", str(texts.integer(luck)))) for _ in range(2))
    word = luck.choice(("increment", "decrement"))
    return [f'{{"type":"set","path":{path},"value":{number}}}', f'{{"type":"{word}","path":{path},"by":{by}}}']


def _path(luck: random.Random) -> str | None:
    draw = luck.random()
    if draw < 0.1:
        return luck.choice((None, "null", '""', "[]"))
    if draw < 0.6:
        return texts.name(_name(luck), luck)
    depth = luck.choice((1, 2, 2, 3, 4, 32, 33)) if luck.random() < 0.2 else luck.randint(1, 3)
    return f"[{','.join([texts.name(_name(luck), luck) for _ in range(depth)])}]"


def _name(luck: random.Random) -> str:
    return luck.choice(NAMES) if luck.random() < 0.97 else luck.choice(ODD_NAMES)


def _merge_value(luck: random.Random) -> str:
    draw = luck.random()
    if draw < 0.5:
        return texts.value(luck)
    if draw < 0.7:
        return f'{{"a":1,{json.dumps(luck.choice(ODD_NAMES))}:2}}'
    if draw < 0.72:
        return json.dumps({f"m{index}": index for index in range(luck.choice((1024, 1025)))})
    levels = luck.choice((15, 16, 17))
    return '{"a":' * levels + "1" + "}" * levels


def _odd_op(luck: random.Random) -> str:
    draw, path = luck.random(), _path(luck) or "null"
    if draw < 0.3:
        return f'{{"type":"{luck.choice(("set", "append", "merge"))}","path":{path},"value":{texts.odd(luck)}}}'
    if draw < 0.6:
        by = luck.choice((*texts.ODD_NUMBERS, "1e308", "1e19", "9007199254740993.0"))
        return f'{{"type":"{luck.choice(("increment", "decrement"))}","path":{path},"by":{by}}}'
    if draw < 0.8:
        by = str(texts.integer(luck))
        return f'{{"type":"set","type":"{luck.choice(WORDS)}","value":{{"a":1}},"by":1,"by":{by},"unknown":[{{}}]}}'
    return f' {{ "type" :\t"set" , "path" : {path},\r\n"value" : {texts.value(luck)} }} '


def _wrong_op(luck: random.Random) -> str:
    word = luck.choice(WORDS)
    draw = luck.random()
    if draw < 0.2:
        return f'{{"type":{luck.choice(_NO_WORDS)},"value":1,"by":1}}'
    if draw < 0.4:
        return f'{{"type":"{word}","path":{luck.choice(_NO_PATHS)},"value":{{}},"by":1}}'
    if draw < 0.6:
        return f'{{"type":"{luck.choice(("increment", "decrement"))}","by":{luck.choice(_NO_OPERANDS)}}}'
    if draw < 0.8:
        return luck.choice(_NO_OPS)
    return f'{{"type":"set","path":"a","value":{luck.choice(_NO_VALUES)}}}'


_NO_WORDS = ('"other"', "1", "null", "[]", '"SET"', '""')
_NO_PATHS = ("1", "true", "{}", "[1]", '[["a"]]', "[null]")
_NO_OPERANDS = ('"1"', "null", "[]", "true", "{}")
_NO_OPS = ('{"type":"append"}', '{"type":"merge","path":"a"}', '{"type":"increment"}', '{"value":1}', "{}", "[]", "1")
_NO_VALUES = ("[" * 513 + "]" * 513, '"\\ud800"', '"\\udc00"', "1e400", '{"a":{"b":-1e999}}')
