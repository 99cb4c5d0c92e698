"""Routes by prefix: what they match is what a comparison with each of them would, whatever comes and goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iii_state.adapters.prefix_routes import PrefixRoutes, Wanted

NAME = st.text("abü", max_size=4)
MAYBE = st.none() | NAME


@st.composite
def wanted(draw: st.DrawFn) -> Wanted:
    scope, key = draw(MAYBE), draw(MAYBE)
    scope_prefix = draw(MAYBE) if scope is None else None
    key_prefix = draw(MAYBE) if key is None else None
    return Wanted(scope, key, scope_prefix, key_prefix)


def wants(each: Wanted, scope: str, key: str) -> bool:
    return (
        each.scope in (None, scope)
        and each.key in (None, key)
        and (each.scope_prefix is None or scope.startswith(each.scope_prefix))
        and (each.key_prefix is None or key.startswith(each.key_prefix))
    )


@given(st.lists(wanted(), max_size=20), st.lists(st.tuples(NAME, NAME), min_size=1, max_size=5), st.data())
def test_they_match_what_begins_so(all_wanted: list[Wanted], places: list[tuple[str, str]], data: st.DataObject) -> None:
    routes: PrefixRoutes[str, int] = PrefixRoutes()
    there = dict(enumerate(all_wanted))
    for number, each in there.items():
        routes.add(each, str(number), number)
    while True:
        for scope, key in places:
            found = routes.matching(scope, key)
            assert sorted(number for _, number in found) == [n for n, each in there.items() if wants(each, scope, key)]
            assert all(queue == str(number) for queue, number in found)
        if not there:
            break
        gone = data.draw(st.sampled_from(sorted(there)))
        routes.remove(there.pop(gone), str(gone))
    assert not routes
