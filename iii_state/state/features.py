"""What this engine can do that older ones cannot, as it is announced to whoever would rely on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from iii_state.errors import Code, FunctionError, unsupported
from iii_state.events import TRIGGERS_PAUSE, TRIGGERS_V2

FEATURES: list[str] = ["if", "meta", "many", "transact", "prefix", "touch", "history", TRIGGERS_V2, TRIGGERS_PAUSE]
"""`features` in the metadata of `state::set`. Engines ignore members that they do not know: a `set` with `if` would be carried out
without it. So callers look here, and refuse what is missing (`UNSUPPORTED`)."""


class _Engine(Protocol):
    async def trigger(self, request: dict[str, Any]) -> Any: ...


async def check_features(engine: _Engine, needed: Iterable[str]) -> None:
    """Raises `FunctionError` (`UNSUPPORTED`) where the state of an engine lacks one of these: a state worker may be an older one.

    It is looked up at each call that needs one, since a worker may go and another one come; in the same process that takes some
    20 µs.
    """
    try:
        about = await engine.trigger({"function_id": "engine::functions::info", "payload": {"function_id": "state::set"}})
    except FunctionError as error:
        if error.code not in (Code.FUNCTION_NOT_FOUND, Code.NOT_FOUND):
            raise
        raise FunctionError(Code.FUNCTION_NOT_FOUND, "this engine has no state (state::set)") from None
    known = announced(about)
    for feature in needed:
        if feature not in known:
            raise unsupported("the state of this engine", feature)


def announced(about: Any) -> frozenset[str]:
    """The features that the answer of `engine::functions::info` about `state::set` lists; none, where it says nothing of them."""
    metadata = about.get("metadata") if isinstance(about, dict) else None
    ours = metadata.get("iii_state") if isinstance(metadata, dict) else None
    features = ours.get("features") if isinstance(ours, dict) else None
    return frozenset(name for name in features if isinstance(name, str)) if isinstance(features, list) else frozenset()
