"""What is to be known of subscriptions and dead letters, whatever keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from iii_state.events import QueueLimits, QueueStats
from iii_state.observe.doctor.findings import Finding, counted, named

NEARLY_FULL = 0.8


def of_queues(queues: Sequence[QueueStats], limits: QueueLimits | None = None) -> Iterator[Finding]:
    """Subscriptions that nobody serves, that are paused, or looping, or nearly full; and dead letters."""
    waiting = [queue for queue in queues if not queue.hosts and queue.waiting + queue.pending]
    if waiting:
        events = sum(queue.waiting + queue.pending for queue in waiting)
        yield Finding(
            "warning",
            "backlog-unserved",
            f"{counted(events, 'event waits', 'events wait')} for functions that no engine serves: {_functions(waiting)}",
            'Nobody handles them. They go when the subscription\'s retention_ms is over, or, with "forever", fill its queue until '
            "writes are refused.",
            "Start the worker that registers the function; or end the subscription: iii-state triggers remove FUNCTION",
        )
    stale = [queue for queue in queues if not queue.hosts and not queue.waiting + queue.pending and queue.paused_at_ms is None]
    if stale:
        yield Finding(
            "warning",
            "subscription-unserved",
            f"{counted(len(stale), 'subscription is', 'subscriptions are')} served by no engine: {_functions(stale)}",
            "Each write that they want pays for them, and their events wait for a worker that may never come back.",
            "If it does not come back: iii-state triggers remove FUNCTION",
        )
    paused = [queue for queue in queues if queue.paused_at_ms is not None]
    if paused:
        yield Finding(
            "note",
            "subscription-paused",
            f"{counted(len(paused), 'subscription is', 'subscriptions are')} paused: {_functions(paused)}",
            "Their events wait until an operator lets them go on.",
            "iii-state triggers resume FUNCTION",
        )
    looping = [queue for queue in queues if queue.is_looping]
    if looping:
        yield Finding(
            "warning",
            "function-looping",
            f"{counted(len(looping), 'function leads to itself', 'functions lead to themselves')}: {_functions(looping)}",
            "What the function writes makes the event that it is called with next: this goes on for ever.",
            "Have it write only what differs, or narrow its trigger; dispatch.loop_limit ends such chains",
        )
    full = [queue for queue in queues if queue.waiting + queue.pending >= NEARLY_FULL * _most(queue, limits)]
    if full:
        yield Finding(
            "warning",
            "queue-nearly-full",
            f"{counted(len(full), 'queue is', 'queues are')} nearly full: {_functions(full)}",
            "When one is full, writes that it wants an event of are refused (on_full: reject), or its oldest events are dropped.",
            "Let more handlers run (concurrency), mend the handler, or raise max_queue_length",
        )
    dead = [queue for queue in queues if queue.dead]
    if dead:
        counts: Counter[str] = Counter()
        for queue in dead:
            counts[queue.subscription.function_id] += queue.dead
        yield of_dead_letters(counts)


def of_dead_letters(counts: Counter[str]) -> Finding:
    """That there are dead letters, of these functions."""
    functions = named([f"{name} ({count:,})" for name, count in counts.most_common()])
    return Finding(
        "warning",
        "dead-letters",
        f"{counted(counts.total(), 'event is a dead letter', 'events are dead letters')}: {functions}",
        "Their handlers failed at every attempt, and nobody tries again.",
        "iii-state dead list says why; then iii-state dead retry FUNCTION, or iii-state dead drop FUNCTION",
    )


def _functions(queues: Sequence[QueueStats]) -> str:
    return named(sorted({queue.subscription.function_id for queue in queues}))


def _most(queue: QueueStats, limits: QueueLimits | None) -> int:
    return queue.subscription.limits(limits or QueueLimits()).max_queue_length
