"""What rights allow: globs of functions and scopes, prefixes, and what has to be given expressly."""

from __future__ import annotations

import pytest

from iii_state.rights import Rights


@pytest.mark.parametrize(
    ("glob", "name", "allowed"),
    [
        ("state::get", "state::get", True),
        ("state::get", "state::get_many", False),
        ("state::get", "STATE::GET", False),
        ("state::*", "state::set", True),
        ("state::*", "my::state::set", False),
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("team-?", "team-1", True),
        ("team-?", "team-10", False),
        ("team/*", "team/a/b\nc", True),
        ("a[b]*", "a[b]c", True),
        ("a[b]*", "abc", False),
        ("a.c", "abc", False),
        ("a*", "a\x00\n😀", True),
    ],
)
def test_a_glob_matches_whole_names(glob: str, name: str, allowed: bool) -> None:
    assert Rights(functions=(glob,)).allows_function(name) is allowed
    assert Rights(register=(glob,)).allows_register(name) is allowed
    assert Rights(scopes=(glob,)).allows_scope(name) is allowed
    assert Rights(scopes=("other", glob)).allows_scope(name) is allowed


def test_no_globs_allow_nothing_and_absent_ones_everything() -> None:
    for rights, allowed in ((Rights(functions=(), register=(), scopes=()), False), (Rights(), True)):
        assert rights.allows_function("f") is allowed
        assert rights.allows_register("f") is allowed
        assert rights.allows_scope("") is allowed
    assert Rights().allows_write()
    assert not Rights(read_only=True).allows_write()


def test_operating_and_providing_have_to_be_given_expressly() -> None:
    assert (Rights().operate, Rights().trigger_types) == (False, False)


@pytest.mark.parametrize(
    ("globs", "prefix", "allowed"),
    [
        (("team/*",), "team/", True),
        (("team/*",), "team/a", True),
        (("team/*",), "team", False),
        (("team/*",), "", False),
        (("*",), "", True),
        (("team/a",), "team/a", False),
        (("team/?*",), "team/", False),
        (("team/?*",), "team/b", True),
        ((), "", False),
    ],
)
def test_a_prefix_lies_inside_only_where_all_that_begins_so_does(globs: tuple[str, ...], prefix: str, allowed: bool) -> None:
    assert Rights(scopes=globs).allows_scope_prefix(prefix) is allowed
    assert Rights().allows_scope_prefix(prefix)


def test_many_stars_over_a_long_name_are_no_burden() -> None:
    """A pattern that goes back would not end on this (some 10^25 steps)."""
    rights = Rights(scopes=("*a*a*a*a*a*a*b",))
    assert not rights.allows_scope("a" * 20_000)
