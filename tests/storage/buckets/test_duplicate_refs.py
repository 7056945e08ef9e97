"""Files of references to duplicates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from storage.buckets.duplicate_refs import by_hours, entry, hour_number, packed

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


def test_packed__read_back_by_hours() -> None:
    """Packed entries are sorted and distinct, and are read back by their hours."""
    # Among them, ids that differ only in zeros at their end.
    ids = [b"a" * 15 + b"\0", b"a" * 14 + b"\0\0", b"\0" * 16]
    held = hour_number(HOUR)
    entries = [*(entry(id_hash, HOUR + timedelta(hours=1), held) for id_hash in ids), entry(b"b" * 16, LONG_AGO, held)]
    data, count = packed([*reversed(entries), *entries])
    assert (count, len(data)) == (4, 4 * 24)
    assert data == b"".join(sorted(entries))
    found = {hours: array.tobytes() for hours, array in by_hours(data).items()}
    assert found == {(HOUR + timedelta(hours=1), HOUR): b"".join(sorted(ids)), (LONG_AGO, HOUR): b"b" * 16}


@pytest.mark.parametrize("data", [b"x", b"\x7f" * 24, b"\x80" * 24])
def test_by_hours__invalid_data(data: bytes) -> None:
    """Data that is no list of entries is refused."""
    with pytest.raises((ValueError, OverflowError)):
        by_hours(data)
