"""What a queue in this process drops for new events, and what finding that costs."""

from __future__ import annotations

from iii_state.adapters.local_queue import Queue
from iii_state.adapters.oldest_waiting import OldestWaiting
from iii_state.events import Change, Delivery, QueueLimits, Subscription

ROOM = 1000


def filled(count: int) -> Queue:
    queue = Queue(Subscription("watch", on_full="drop_oldest"), QueueLimits(ROOM), lambda _: None)
    for number in range(count):
        queue.push(delivery(number))
    return queue


def delivery(number: int) -> Delivery:
    return Delivery("watch", Change(f"w-{number}", "s", f"k-{number}", "state:created", None, b"1"), token=number)


def dropped(queue: Queue, count: int) -> list[object]:
    gone = [queue.drop_oldest() for _ in range(count)]
    return [None if each is None else each.token for each in gone]


def test_what_is_out_is_not_dropped_and_what_came_back_is_in_its_turn() -> None:
    queue = filled(8)
    out = queue.take(3)
    assert dropped(queue, 1) == [3]
    queue.release(out[1])
    queue.finish(out[0])
    queue.push(delivery(8))
    assert dropped(queue, 2) == [1, 4]
    assert [each.token for each in queue.take(1)] == [5]
    assert dropped(queue, 4) == [6, 7, 8, None]
    assert queue.dropped == 6
    assert [each.token for each in queue] == [2, 5], "what is out stays"


def test_a_drop_looks_at_a_few_deliveries_however_many_are_out() -> None:
    class Counted(dict[int, Delivery]):
        looks = 0

        def __contains__(self, number: object) -> bool:
            self.looks += 1
            return super().__contains__(number)

    queue = filled(ROOM)
    queue.take(ROOM - 1)
    queue._pending = pending = Counted(queue._pending)
    for number in range(ROOM, 3 * ROOM):
        assert queue.drop_oldest() is not None
        queue.push(delivery(number))
    assert pending.looks < 10 * ROOM, "2,000 drops"


def test_what_went_or_came_back_is_not_kept_for_ever() -> None:
    queue = filled(10)
    dropped(queue, 1)
    for number in range(10, 1000):
        queue.push(delivery(number))
        (taken,) = queue.take(1)
        queue.release(taken)
        queue.finish(*queue.take(1))
    assert isinstance(queue._oldest, OldestWaiting)
    assert len(queue._oldest._order) < 100
    assert len(queue._oldest._returned) < 100
