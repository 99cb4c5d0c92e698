"""Failed attempts: counted per address, slowed down, forgotten, bounded."""

from __future__ import annotations

from iii_state.guard.failures import FREE, LONGEST_SECONDS, MAX_ADDRESSES, MAX_WAITING, Failures, network_of


def test_the_first_are_answered_at_once_and_the_others_later_and_later() -> None:
    failures = Failures()
    pauses = [failures.note("10.0.0.1", 0.0) for _ in range(30)]
    assert pauses[:FREE] == [0.0] * FREE
    assert pauses[FREE:] == sorted(pauses[FREE:])
    assert 0 < pauses[FREE] < pauses[-1] == LONGEST_SECONDS


def test_addresses_do_not_slow_each_other() -> None:
    failures = Failures()
    for _ in range(10):
        failures.note("10.0.0.1", 0.0)
    assert failures.note("10.0.0.2", 0.0) == 0.0


def test_a_quiet_while_is_forgiven() -> None:
    failures = Failures()
    for _ in range(10):
        failures.note("10.0.0.1", 0.0)
    assert failures.note("10.0.0.1", 601.0) == 0.0


def test_addresses_are_bounded_and_the_quietest_is_forgotten_first() -> None:
    failures = Failures()
    for number in range(MAX_ADDRESSES + 10):
        for _ in range(FREE + 1 if number == 0 else 1):
            failures.note(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", float(number))
    assert len(failures) == MAX_ADDRESSES
    assert failures.note("10.0.0.0", 1e4) == 0.0


def test_answers_that_wait_are_bounded() -> None:
    failures = Failures()
    failures.waiting = MAX_WAITING
    assert [failures.note("10.0.0.1", 0.0) for _ in range(20)] == [0.0] * 20


def test_what_counts_as_one_address() -> None:
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth1")
    assert network_of("a socket") == "a socket"
