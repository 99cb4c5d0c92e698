"""A signal tells everybody who is connected, in the order in which they connected."""

from __future__ import annotations

from iii_state.tasks.signal import Signal


def test_every_callback_is_called_in_turn_each_time() -> None:
    told = list[str]()
    signal = Signal()
    signal.emit()
    signal.connect(lambda: told.append("first"), lambda: told.append("second"))
    signal.connect(lambda: told.append("third"))
    signal.emit()
    signal.emit()
    assert told == ["first", "second", "third"] * 2
