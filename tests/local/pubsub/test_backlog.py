"""Leases of one subscription, on a clock that the test moves."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from local.pubsub.backlog import MAX_RESPONSE_BYTES, Backlog, Flow


def test_messages_are_taken_in_their_order_and_only_once():
    backlog = filled(b"a", b"b", b"c")
    assert payloads(backlog.take(0, 10, 2, Flow())) == [b"a", b"b"]
    assert payloads(backlog.take(0, 10, 2, Flow())) == [b"c"]
    assert backlog.take(0, 10, 2, Flow()) == []


def test_a_lease_ends_at_its_deadline_and_not_sooner():
    backlog = filled(b"a")
    [(first, _)] = backlog.take(100, 10, 1, Flow())
    assert backlog.take(109.9, 10, 1, Flow()) == []
    [(second, message)] = backlog.take(110, 10, 1, Flow())
    assert (message, second != first) == (b"a", True)


def test_an_extension_counts_from_now_and_can_shorten():
    backlog = filled(b"a", b"b")
    (a, _), (b, _) = backlog.take(0, 10, 2, Flow())
    backlog.extend(5, [a], 10)
    backlog.extend(5, [b], 1)
    assert payloads(backlog.take(6, 60, 2, Flow())) == [b"b"]
    assert backlog.take(14.9, 10, 2, Flow()) == []
    assert payloads(backlog.take(15, 10, 2, Flow())) == [b"a"]


def test_an_ended_lease_can_be_neither_acked_nor_extended():
    backlog = filled(b"a")
    [(old, _)] = backlog.take(0, 10, 1, Flow())
    backlog.ack(10, [old])
    backlog.extend(10, [old], 600)
    assert payloads(backlog.take(10, 10, 1, Flow())) == [b"a"]
    backlog.ack(11, [old])
    assert len(backlog) == 1


def test_a_nack_puts_a_message_behind_those_that_wait():
    backlog = filled(b"a", b"b")
    [(ack_id, _)] = backlog.take(0, 10, 1, Flow())
    backlog.extend(0, [ack_id], 0)
    assert payloads(backlog.take(0, 10, 2, Flow())) == [b"b", b"a"]


def test_the_next_end_is_that_of_a_lease_that_still_lasts():
    backlog = filled(b"a", b"b")
    assert backlog.next_end() is None
    (a, _), (b, _) = backlog.take(0, 10, 2, Flow())
    backlog.extend(0, [b], 20)
    assert backlog.next_end() == 10
    backlog.ack(1, [a])
    assert backlog.next_end() == 20


def test_a_reader_gets_no_more_messages_than_it_wants_in_hand():
    backlog = filled(*[b"x"] * 5)
    flow = Flow(max_messages=3)
    taken = backlog.take(0, 10, 100, flow)
    assert len(taken) == 3
    assert backlog.take(0, 10, 100, flow) == []
    backlog.ack(1, [taken[0][0]])
    assert len(backlog.take(1, 10, 100, flow)) == 1
    assert len(backlog.take(10, 10, 100, flow)) == 2, "an ended lease is no longer in hand"


def test_a_reader_gets_no_more_bytes_than_it_wants_in_hand_but_one_message_at_least():
    backlog = filled(b"x" * 60, b"y" * 60, b"z" * 500)
    flow = Flow(max_bytes=100)
    for expected in (60, 60, 500):
        [(ack_id, message)] = backlog.take(0, 10, 100, flow)
        assert len(message) == expected
        assert backlog.take(0, 10, 100, flow) == []
        backlog.ack(0, [ack_id])


def test_an_answer_stays_below_what_a_client_takes_at_once():
    size = MAX_RESPONSE_BYTES // 2
    backlog = filled(*[b"x" * size] * 3, b"y" * (2 * MAX_RESPONSE_BYTES))
    assert [len(backlog.take(0, 10, 100, Flow())) for _ in range(3)] == [2, 1, 1]


def test_acked_messages_are_freed_long_before_their_leases_would_have_ended():
    backlog = filled(b"held")
    backlog.take(0, 10, 1, Flow())
    tracemalloc.start()
    for _ in range(50):
        backlog.add(bytes(1_000) for _ in range(1_000))
        backlog.ack(0, [ack_id for ack_id, _ in backlog.take(0, 600, 1_000, Flow())])
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(backlog) == 1
    assert left < 1_000_000


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "ack", "extend", "wait"]), st.integers(0, 12)), max_size=40))
def test_whatever_happens_every_message_is_acked_or_comes_again(steps):
    backlog, now, added = Backlog("1-1"), 0, 0
    held: dict[str, tuple[bytes, int]] = {}
    waiting: set[bytes] = set()
    for step, number in steps:
        for ack_id in [ack_id for ack_id, (_, until) in held.items() if until <= now]:
            waiting.add(held.pop(ack_id)[0])
        chosen = list(held)[:number]
        if step == "add":
            waiting.add(b"%d" % added)
            backlog.add([b"%d" % added])
            added += 1
        elif step == "take":
            taken = backlog.take(now, 10, number, Flow())
            assert len(taken) == min(number, len(waiting))
            for ack_id, message in taken:
                waiting.remove(message)
                held[ack_id] = (message, now + 10)
        elif step == "ack":
            backlog.ack(now, chosen)
            for ack_id in chosen:
                del held[ack_id]
        elif step == "extend":
            backlog.extend(now, chosen, number)
            held |= {ack_id: (held[ack_id][0], now + number) for ack_id in chosen}
        else:
            now += number
    expected = waiting | {message for message, _ in held.values()}
    assert sorted(payloads(backlog.take(now + 600, 10, 1_000, Flow()))) == sorted(expected)


def filled(*messages: bytes) -> Backlog:
    backlog = Backlog("1-1")
    backlog.add(messages)
    return backlog


def payloads(taken: list[tuple[str, bytes]]) -> list[bytes]:
    return [message for _, message in taken]
