"""However many functions there are, and whatever watches and bridges call theirs, the lines of a scrape are bounded."""

from __future__ import annotations

from iii_state.events import QueueStats, Subscription
from iii_state.figures import MOST_FUNCTIONS, OTHERS, function_label
from iii_state.observe.metrics import AT_ONCE, exposition
from iii_state.state.dispatch.tallies import Tallies
from iii_state.state.queue_figures import OLDEST, WAITING, queue_figures
from tests.support.metrics import Metrics, lint


def stats(function_id: str, waiting: int, oldest_at_ms: int | None = None) -> QueueStats:
    return QueueStats(Subscription(function_id), waiting, 0, 0, 0, 0, [], oldest_at_ms)


def test_functions_of_watches_and_bridges_have_one_label_each() -> None:
    assert function_label("iii-state::watch::0b4f") == "iii-state::watch"
    assert function_label("iii-state::bridge::1f::7") == "iii-state::bridge"
    assert function_label("iii-state::watcher") == "iii-state::watcher"


def test_the_functions_with_most_to_look_at_have_lines_of_their_own() -> None:
    queues = [stats(f"f{number}", number, 1000 * number) for number in range(MOST_FUNCTIONS + 3)]
    figures = queue_figures([*queues, stats("f1", 10**6)], 5_000_000)
    waiting = {figure.labels[0]: figure.value for figure in figures if figure.family is WAITING}
    assert len(waiting) == MOST_FUNCTIONS + 1
    assert waiting["f1"] == 10**6 + 1
    assert waiting[OTHERS] == 0 + 2 + 3, "the smallest, and f1 is not among them"
    ages = {figure.labels[0]: figure.value for figure in figures if figure.family is OLDEST}
    assert ages[OTHERS] == 5000


def test_deliveries_of_functions_beyond_the_bound_count_as_those_of_others() -> None:
    tallies = Tallies()
    for number in range(MOST_FUNCTIONS + 2):
        tallies.of(f"f{number}").dead += 1
    assert tallies.of("f0") is tallies.of("f0")
    assert tallies.of(f"f{MOST_FUNCTIONS}") is tallies.of("another")
    dead = {figure.labels[0]: figure.value for figure in tallies.figures() if figure.labels[1:] == ("dead",)}
    assert len(dead) == MOST_FUNCTIONS + 1
    assert dead[OTHERS] == 2


async def test_the_text_of_thousands_of_figures_is_one_family() -> None:
    tallies = Tallies()
    for number in range(3 * AT_ONCE + 1):
        tallies.of(f"f{number}").done += number
    text = (await exposition(tallies.figures())).decode()
    assert text.count("# TYPE iii_state_handler_duration_seconds histogram") == 1
    assert text.count("# HELP iii_state_deliveries_total ") == 1
    metrics = Metrics(text)
    assert [metrics("deliveries_total", function_id=f"f{n}", outcome="handled") for n in range(3 * AT_ONCE + 1)] == [
        *range(3 * AT_ONCE + 1)
    ]
    assert len(metrics.all("handler_duration_seconds_count")) == 3 * AT_ONCE + 1
    assert await lint(text) == ""
