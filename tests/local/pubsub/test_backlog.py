"""Messages and leases of one subscription."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from local.pubsub.backlog import MAX_RESPONSE_BYTES, Backlog, Flow


def test_take__order():
    """Messages are taken in their order, each once."""
    backlog = filled(b"a", b"b", b"c")
    assert payloads(backlog.take(0, 10, 2, Flow())) == [b"a", b"b"]
    assert payloads(backlog.take(0, 10, 2, Flow())) == [b"c"]
    assert backlog.take(0, 10, 2, Flow()) == []


def test_take__expired_lease():
    """A lease expires at its deadline and not earlier; the message then has a new ack id."""
    backlog = filled(b"a")
    [(first, _)] = backlog.take(100, 10, 1, Flow())
    assert backlog.take(109.9, 10, 1, Flow()) == []
    [(second, message)] = backlog.take(110, 10, 1, Flow())
    assert (message, second != first) == (b"a", True)


def test_set_expiry__from_now():
    """An extension counts from the present time and can shorten a lease."""
    backlog = filled(b"a", b"b")
    (a, _), (b, _) = backlog.take(0, 10, 2, Flow())
    backlog.set_expiry(5, [a], 10)
    backlog.set_expiry(5, [b], 1)
    assert payloads(backlog.take(6, 60, 2, Flow())) == [b"b"]
    assert backlog.take(14.9, 10, 2, Flow()) == []
    assert payloads(backlog.take(15, 10, 2, Flow())) == [b"a"]


def test_ack__expired_lease():
    """An expired lease can be neither acknowledged nor extended."""
    backlog = filled(b"a")
    [(old, _)] = backlog.take(0, 10, 1, Flow())
    backlog.ack(10, [old])
    backlog.set_expiry(10, [old], 600)
    assert payloads(backlog.take(10, 10, 1, Flow())) == [b"a"]
    backlog.ack(11, [old])
    assert len(backlog) == 1


def test_set_expiry__nack():
    """A nacked message is available after those that already were."""
    backlog = filled(b"a", b"b")
    [(ack_id, _)] = backlog.take(0, 10, 1, Flow())
    backlog.set_expiry(0, [ack_id], 0)
    assert payloads(backlog.take(0, 10, 2, Flow())) == [b"b", b"a"]


def test_next_expiry__valid_leases_only():
    """The next end is the earliest of the valid leases."""
    backlog = filled(b"a", b"b")
    assert backlog.next_expiry() is None
    (a, _), (b, _) = backlog.take(0, 10, 2, Flow())
    backlog.set_expiry(0, [b], 20)
    assert backlog.next_expiry() == 10
    backlog.ack(1, [a])
    assert backlog.next_expiry() == 20


def test_take__max_messages():
    """A subscriber has leases of at most max_messages messages."""
    backlog = filled(*[b"x"] * 5)
    flow = Flow(max_messages=3)
    taken = backlog.take(0, 10, 100, flow)
    assert len(taken) == 3
    assert backlog.take(0, 10, 100, flow) == []
    backlog.ack(1, [taken[0][0]])
    assert len(backlog.take(1, 10, 100, flow)) == 1
    assert len(backlog.take(10, 10, 100, flow)) == 2, "expired leases do not count"


def test_take__max_bytes():
    """A subscriber has leases of at most max_bytes bytes, or of one larger message."""
    backlog = filled(b"x" * 60, b"y" * 60, b"z" * 500)
    flow = Flow(max_bytes=100)
    for expected in (60, 60, 500):
        [(ack_id, message)] = backlog.take(0, 10, 100, flow)
        assert len(message) == expected
        assert backlog.take(0, 10, 100, flow) == []
        backlog.ack(0, [ack_id])


def test_take__response_size():
    """A response has at most MAX_RESPONSE_BYTES, or one message."""
    size = MAX_RESPONSE_BYTES // 2
    backlog = filled(*[b"x" * size] * 3, b"y" * (2 * MAX_RESPONSE_BYTES))
    assert [len(backlog.take(0, 10, 100, Flow())) for _ in range(3)] == [2, 1, 1]


def test_ack__frees_memory():
    """Acknowledged messages are freed at once, not when their leases would have expired."""
    backlog = filled(b"held")
    backlog.take(0, 10, 1, Flow())
    tracemalloc.start()
    for _ in range(50):
        backlog.add(bytes(1_000) for _ in range(1_000))
        backlog.ack(0, [ack_id for ack_id, _ in backlog.take(0, 600, 1_000, Flow())])
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(backlog) == 1
    assert allocated < 1_000_000


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "ack", "extend", "wait"]), st.integers(0, 12)), max_size=40))
def test_backlog__no_message_is_lost(steps):
    """After any steps, all messages that are not acknowledged are delivered again."""
    backlog, now, added = Backlog("1-1"), 0, 0
    leased: dict[str, tuple[bytes, int]] = {}
    available: set[bytes] = set()
    for step, number in steps:
        for ack_id in [ack_id for ack_id, (_, until) in leased.items() if until <= now]:
            available.add(leased.pop(ack_id)[0])
        chosen = list(leased)[:number]
        if step == "add":
            available.add(b"%d" % added)
            backlog.add([b"%d" % added])
            added += 1
        elif step == "take":
            taken = backlog.take(now, 10, number, Flow())
            assert len(taken) == min(number, len(available))
            for ack_id, message in taken:
                available.remove(message)
                leased[ack_id] = (message, now + 10)
        elif step == "ack":
            backlog.ack(now, chosen)
            for ack_id in chosen:
                del leased[ack_id]
        elif step == "extend":
            backlog.set_expiry(now, chosen, number)
            leased |= {ack_id: (leased[ack_id][0], now + number) for ack_id in chosen}
        else:
            now += number
    expected = available | {message for message, _ in leased.values()}
    assert sorted(payloads(backlog.take(now + 600, 10, 1_000, Flow()))) == sorted(expected)


def filled(*messages: bytes) -> Backlog:
    backlog = Backlog("1-1")
    backlog.add(messages)
    return backlog


def payloads(taken: list[tuple[str, bytes]]) -> list[bytes]:
    return [message for _, message in taken]
