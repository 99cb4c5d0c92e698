"""The parts of this package that are in C, where they have been built (`_native.c`), else stand-ins that leave all to Python.

Both give the same for every text. `III_STATE_PURE=1` in the environment leaves those in C unused.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from msgspec import Raw


def _left_to_python(text: bytes | Raw) -> bytes | None:
    return None


def _depth_left_to_python(text: bytes | Raw, limit: int) -> bool | None:
    return None


to_stored: Callable[[bytes | Raw], bytes | None] = _left_to_python
"""The stored form of a checked text; None where Python has to make it, or the error."""
normalize: Callable[[bytes | Raw], bytes | None] = _left_to_python
"""The compact normal form of a checked text; None where Python has to make it, or the error."""
nesting_exceeds: Callable[[bytes | Raw, int], bool | None] = _depth_left_to_python
"""Whether a text nests deeper; None where Python has to find out."""
is_built = False

if os.environ.get("III_STATE_PURE") != "1":
    try:
        from iii_state.values import _native
    except ImportError:
        pass
    else:
        to_stored, normalize, nesting_exceeds = _native.to_stored, _native.normalize, _native.nesting_exceeds
        is_built = True
