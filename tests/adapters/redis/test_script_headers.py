"""What every script and every part says of itself is what it does: keys, arguments, replies, names taken and given."""

from __future__ import annotations

import inspect as python
import re

import pytest

from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import names, parts, script
from tests.support.redis.lua_chunks import inspect, left_by
from tests.support.redis.script_headers import ALIASES, ANY_KEY, header, text_of

MOST_COLUMNS = 132

GLOBALS = {"redis", "KEYS", "ARGV", "string", "table", "math", "tonumber", "tostring", "type", "ipairs", "unpack", "pcall"}
MUTATIONS = "values/name_arguments"
"""The part that names what all mutations take; the header of values/set.lua describes it."""

WALKS = {"values/apply_ops", "values/nested"}
"""Parts that read the ops of an update, whose places only what comes before them tells."""

NAMES = re.compile(r"^local ([a-z_, ]+) = ((?:(?:KEYS|ARGV)\[\d+\]|tonumber\(ARGV\[\d+\]\)|, )+)$", re.MULTILINE)
PLACE = re.compile(r"(KEYS|ARGV)\[(\d+)\]")


def named(text: str) -> dict[tuple[str, int], str]:
    """What a script calls its keys and arguments, by their place."""
    found: dict[tuple[str, int], str] = {}
    for assigned, values in NAMES.findall(text):
        places = PLACE.findall(values)
        for name, (word, number) in zip(assigned.split(", "), places, strict=True):
            found[word, int(number)] = name
    return found


COMMANDS = [name for name in names() if not header(name).refers]


def test_there_are_folders_of_commands_and_one_of_parts() -> None:
    assert all(re.fullmatch(r"[a-z]+/[a-z_]+", name) for name in names() + parts())
    assert not set(parts()) & set(names())
    folders = {name.split("/")[0] for name in names()}
    assert {name.split("/")[0] for name in parts()} <= folders


@pytest.mark.parametrize("command", names())
def test_a_header_says_what_the_command_takes_and_answers(command: str) -> None:
    head = header(command)
    for word in ("KEYS", "ARGV", "eply"):
        assert word in head.text
    assert head.refers or (head.section("KEYS") and head.section("ARGV") and "\nReply" in head.text)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_a_header_is_one_that_keys_py_makes_and_of_its_type(command: str) -> None:
    head = header(command)
    typed = head.types
    untyped = {name for name in head.numbered("KEYS").values() if (command, name) not in ANY_KEY} - set(typed)
    assert not untyped
    for name, kind in typed.items():
        if (command, name) not in ANY_KEY:
            made = python.getattr_static(Keys, ALIASES.get(name, name))
            said = re.match(r"(Hash|Set|Sorted set|Stream|List|Channel)\b", python.getdoc(made) or "")
            assert kind == (said[1].lower() if said else "string"), name


@pytest.mark.parametrize("command", COMMANDS)
def test_keys_and_arguments_are_named_once_and_as_in_the_header(command: str) -> None:
    head = header(command)
    body = text_of(f"lib/{MUTATIONS}" if f'"{MUTATIONS}"' in text_of(command) else command)
    found = named(body)
    for word in ("KEYS", "ARGV"):
        told = head.numbered(word)
        assert list(told) == list(range(1, len(told) + 1))
        assert {place[1]: name for place, name in found.items() if place[0] == word} == told


@pytest.mark.parametrize("path", [*names(), *(f"lib/{part}" for part in parts())])
def test_nothing_is_called_by_its_number_below_the_first_lines(path: str) -> None:
    text = text_of(path)
    if path != f"lib/{MUTATIONS}":
        assert not PLACE.search(NAMES.sub("", text))
        ends = [match.end() for match in NAMES.finditer(text)]
        first_call = text.find("redis.", text.find("]]"))
        assert max(ends, default=0) <= (len(text) if first_call < 0 else first_call)


@pytest.mark.parametrize("path", [*names(), *(f"lib/{part}" for part in parts())])
def test_no_line_is_wider_than_those_of_python(path: str) -> None:
    assert max(map(len, text_of(path).splitlines())) <= MOST_COLUMNS


@pytest.mark.parametrize("command", names())
def test_every_word_of_a_reply_is_in_the_header_and_answered_somewhere(command: str) -> None:
    head, source = header(command), script(command).source.decode()
    told = head.replies | (header("values/set").replies if "of values/set.lua" in head.text else set())
    code = source.split("\n]]\n", 1)[1]
    answered = set(re.findall(r"(?:return \{?|reply = \{|return \{held\[1\] and 'FENCED' or |report\()'([A-Z_]{2,})'", code))
    assert answered <= told
    assert head.refers or told - answered == set()


def test_no_script_uses_or_sets_a_global_of_its_own() -> None:
    for command in names():
        found = inspect(script(command).source)
        assert found.reads <= GLOBALS, command
        assert found.writes == set(), command


def alone(path: str) -> bytes:
    """A part by itself: what it includes left out."""
    return re.sub(r"^[ \t]*--- @include.*$", "", text_of(path), flags=re.MULTILINE).encode()


def given_by_includes(path: str) -> set[str]:
    """What a part gets from those that it includes."""
    given: set[str] = set()
    for part in re.findall(r'--- @include "([^"]*)"', text_of(path)):
        given |= left_by(alone(f"lib/{part}")) | given_by_includes(f"lib/{part}")
    return given


@pytest.mark.parametrize("part", parts())
def test_a_part_is_functions_or_a_step_that_says_what_it_takes_and_gives(part: str) -> None:
    text = text_of(f"lib/{part}")
    gives, itself = left_by(alone(f"lib/{part}")), inspect(alone(f"lib/{part}"))
    if not text.startswith("-- Step: "):
        assert gives
        assert all(re.search(rf"^-- .*\n(?:--.*\n)*local function {name}\(", text, re.MULTILINE) for name in gives)
        assert itself.writes == set()
        arguments = {"KEYS"} if part in WALKS else {"KEYS", "ARGV"}
        assert itself.reads <= (GLOBALS - arguments) | given_by_includes(f"lib/{part}")
        return
    comment = " ".join(line.removeprefix("--").strip() for line in text.split("\n\n")[0].splitlines())
    said = {
        word: set(found[1].split(", ")) if (found := re.search(rf"\b{word}: ([a-z_, ]+)\.", comment)) else set()
        for word in ("Takes", "Changes", "Gives")
    }
    joined = inspect(script(f"lib/{part}").source)
    taken = joined.reads - GLOBALS
    assert gives == said["Gives"]
    assert joined.writes == said["Changes"]
    assert taken - said["Changes"] == said["Takes"]
