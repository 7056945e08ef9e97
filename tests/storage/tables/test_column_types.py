"""Every column type from the Avro value to the value read from the table, for each implementation of TableStore."""

from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

from schemas.columns import Column
from tests.support.tables import Row, Store, job_id, row

TEN = datetime(2026, 3, 29, 10, tzinfo=UTC)


def logical(avro_type: str, name: str, **attributes: object) -> Row:
    return {"type": avro_type, "logicalType": name, **attributes}


POINT = {
    "type": "record",
    "name": "point",
    "fields": [{"name": "x", "type": "int"}, {"name": "label", "type": ["null", "string"]}],
}
DAY = datetime(2026, 3, 29, 23, 59, 59, 999999, tzinfo=UTC)

# Avro type, column, value written, value read. Types and columns are those of BigQuery's documented conversions.
TYPES = [
    ("string", Column("c", "STRING", "NULLABLE"), "żółw 🐢", "żółw 🐢"),
    ("bytes", Column("c", "BYTES", "NULLABLE"), b"\x00\xff", b"\x00\xff"),
    ({"type": "fixed", "name": "f", "size": 2}, Column("c", "BYTES", "NULLABLE"), b"\x01\x02", b"\x01\x02"),
    ("int", Column("c", "INT64", "NULLABLE"), -(2**31), -(2**31)),
    ("long", Column("c", "INT64", "NULLABLE"), 2**63 - 1, 2**63 - 1),
    ("float", Column("c", "FLOAT64", "NULLABLE"), 0.5, 0.5),
    ("double", Column("c", "FLOAT64", "NULLABLE"), 0.1, 0.1),
    ("boolean", Column("c", "BOOL", "NULLABLE"), True, True),
    ({"type": "enum", "name": "e", "symbols": ["RED", "BLUE"]}, Column("c", "STRING", "NULLABLE"), "BLUE", "BLUE"),
    (["null", "string"], Column("c", "STRING", "NULLABLE"), None, None),
    (logical("int", "date"), Column("c", "DATE", "NULLABLE"), date(1969, 12, 31), date(1969, 12, 31)),
    (logical("int", "time-millis"), Column("c", "TIME", "NULLABLE"), time(1, 2, 3, 4000), time(1, 2, 3, 4000)),
    (logical("long", "time-micros"), Column("c", "TIME", "NULLABLE"), time(23, 59, 59, 999999), time(23, 59, 59, 999999)),
    (logical("long", "timestamp-micros"), Column("c", "TIMESTAMP", "NULLABLE"), DAY, DAY),
    (logical("long", "timestamp-millis"), Column("c", "TIMESTAMP", "NULLABLE"), DAY, DAY.replace(microsecond=999000)),
    (
        logical("long", "local-timestamp-micros"),
        Column("c", "DATETIME", "NULLABLE"),
        datetime(1969, 7, 20, 20, 17, 40, 1),  # noqa: DTZ001 (a DATETIME has no zone)
        datetime(1969, 7, 20, 20, 17, 40, 1),  # noqa: DTZ001
    ),
    (
        logical("bytes", "decimal", precision=20, scale=9),
        Column("c", "NUMERIC", "NULLABLE", digits=(20, 9)),
        Decimal("-12345678901.123456789"),
        Decimal("-12345678901.123456789"),
    ),
    (
        logical("bytes", "decimal", precision=38, scale=18),
        Column("c", "BIGNUMERIC", "NULLABLE", digits=(38, 18)),
        Decimal("12345678901234567890.123456789012345678"),
        Decimal("12345678901234567890.123456789012345678"),
    ),
    (
        logical("bytes", "decimal", precision=38, scale=2),
        Column("c", "BIGNUMERIC", "NULLABLE", digits=(38, 2)),
        Decimal("-123456789012345678901234567890123456.78"),
        Decimal("-123456789012345678901234567890123456.78"),
    ),
    (
        logical("string", "uuid"),
        Column("c", "STRING", "NULLABLE"),
        UUID("8f14e45f-ceea-467a-9575-8f3b5d6c1c1a"),
        "8f14e45f-ceea-467a-9575-8f3b5d6c1c1a",
    ),
    (
        POINT,
        Column("c", "STRUCT", "NULLABLE", (Column("x", "INT64", "NULLABLE"), Column("label", "STRING", "NULLABLE"))),
        {"x": 1, "label": None},
        {"x": 1, "label": None},
    ),
    ({"type": "array", "items": "long"}, Column("c", "INT64", "REPEATED"), [1, 2], [1, 2]),
    (["null", {"type": "array", "items": "long"}], Column("c", "INT64", "REPEATED"), None, []),
    (
        {"type": "array", "items": POINT},
        Column("c", "STRUCT", "REPEATED", (Column("x", "INT64", "NULLABLE"), Column("label", "STRING", "NULLABLE"))),
        [{"x": 1, "label": "a"}, {"x": 2, "label": None}],
        [{"x": 1, "label": "a"}, {"x": 2, "label": None}],
    ),
    (
        {"type": "map", "values": logical("int", "date")},
        Column("c", "STRUCT", "REPEATED", (Column("key", "STRING", "REQUIRED"), Column("value", "DATE", "NULLABLE"))),
        {"a": date(2026, 3, 29)},
        [{"key": "a", "value": date(2026, 3, 29)}],
    ),
]


def test_load__every_column_type(store: Store) -> None:
    """Values of every type are read as documented. One table and one load suffice, to spare a real service."""
    columns = [replace(column, name=f"c{number}") for number, (_, column, _, _) in enumerate(TYPES)]
    numbers = iter(range(len(TYPES)))
    fields = []
    for number, (avro_type, *_) in enumerate(TYPES):
        own = {**avro_type, "name": f"n{next(numbers)}"} if isinstance(avro_type, dict) and "name" in avro_type else avro_type
        if isinstance(own, dict) and isinstance(own.get("items"), dict):
            own = {**own, "items": {**own["items"], "name": f"items{number}"}}
        fields.append({"name": f"c{number}", "type": own})
    table = store.table(*columns)
    store.tables.ensure(table)
    written = row("a", TEN, **{f"c{number}": value for number, (_, _, value, _) in enumerate(TYPES)})
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([written], *fields)]) == 1
    [read] = store.rows(table.name, TEN)
    assert read == row("a", TEN, **{f"c{number}": value for number, (_, _, _, value) in enumerate(TYPES)})
