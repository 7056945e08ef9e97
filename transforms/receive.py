"""Receive: all that concerns one message at once: decode, check, stamp, encode, count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from schemas import envelope
from schemas.buckets import DEAD_LETTERS, Bucket, hour_of
from schemas.contracts import Contracts
from schemas.envelope import Message, Stamp, parse_time, stamp
from schemas.fingerprints import Tally, id_hash
from schemas.outcomes import Exit, Reason, Rejected, Stage
from schemas.payload import decode
from schemas.receipts import Contribution
from schemas.rows import dead_letter_schema, encoder, row_schema
from schemas.shards import Shard
from transforms.packs import PACK_BYTES, Pack, label_of


@dataclass(frozen=True)
class Packed:
    """A pack and where it belongs."""

    bucket: Bucket
    shard: Shard
    data: bytes


_Key = tuple[str, datetime, int, str]
"""Stream, hour, shard's index and label. Plain values: a key is made for every message, a bucket only for every pack."""


@dataclass
class _Filling:
    ids: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    size: int = 0


class Receiver:
    """Turns messages into packs of encoded records, and counts what it received.

    Every message goes into exactly one pack: that of its event's bucket or that of the dead letters'. Where it goes depends on
    the message alone, so each delivery of it comes to the same place.
    """

    def __init__(self, contracts: Contracts, allowed_lateness: timedelta, shards: int, new_id: Callable[[], str]) -> None:
        self._contracts = contracts
        self._allowed_lateness = allowed_lateness
        self._shards = shards
        self._new_id = new_id
        self._encoders = {kind: encoder(row_schema(contracts.newest(kind))) for kind in contracts.types}
        self._encode_dead_letter = encoder(dead_letter_schema())
        self._filling: dict[_Key, _Filling] = {}
        self._received: dict[tuple[str, datetime, str], list[bytes]] = {}

    def add(self, message: Message) -> Packed | None:
        """Takes one message; gives the pack that it has filled up, if any."""
        claimed = message.attributes.get(envelope.EVENT_TYPE, "")
        event_id = message.attributes.get(envelope.EVENT_ID) or message.message_id
        try:
            received = stamp(message.attributes, message.published_at, self._allowed_lateness)
        except Rejected as refusal:
            return self._refuse(message, Stamp(message.published_at), claimed, event_id, refusal)
        try:
            record = self._encode(message, received, claimed, event_id)
        except Rejected as refusal:
            return self._refuse(message, received, claimed, event_id, refusal)
        return self._put(claimed, hour_of(received.received_at), claimed, label_of(claimed), id_hash(event_id), record)

    def finish(self) -> tuple[list[Packed], dict[Bucket, Contribution]]:
        """The packs that are not full, and what was received since the last call. Starts anew."""
        packs = [self._packed(key, filling) for key, filling in self._filling.items()]
        books: dict[Bucket, dict[str, dict[Exit, Tally]]] = {}
        for (stream, hour, kind), ids in self._received.items():
            books.setdefault(Bucket(stream, hour), {})[kind] = {Exit.RECEIVED: Tally.of_hashes(b"".join(ids))}
        self._filling, self._received = {}, {}
        return packs, {bucket: Contribution(self._new_id(), lines) for bucket, lines in books.items()}

    def _encode(self, message: Message, received: Stamp, claimed: str, event_id: str) -> bytes:
        attributes = message.attributes
        if not claimed:
            raise Rejected(Stage.ENVELOPE, Reason.NO_TYPE, f"the attribute {envelope.EVENT_TYPE} is missing")
        contract = self._contracts.get(claimed, attributes.get(envelope.SCHEMA_VERSION))
        sent_at = attributes.get(envelope.SENT_AT)
        try:
            sent = parse_time(sent_at) if sent_at else None
        except (ValueError, OverflowError) as error:
            raise Rejected(Stage.ENVELOPE, Reason.BAD_ATTRIBUTE, f"attribute {envelope.SENT_AT}: {error}") from None
        content_type = attributes.get(envelope.CONTENT_TYPE) or envelope.JSON
        row, unknown = decode(contract, self._contracts.newest(claimed), message.data, content_type)
        row["event_id"] = event_id
        row["event_type"] = claimed
        row["schema_version"] = contract.version
        row["received_at"] = received.received_at
        row["sent_at"] = sent
        row["message_id"] = message.message_id
        row["unknown_fields"] = unknown
        row["skewed_from"] = received.skewed_from
        return self._encoders[claimed](row)

    def _refuse(self, message: Message, received: Stamp, claimed: str, event_id: str, refusal: Rejected) -> Packed | None:
        record = self._encode_dead_letter(
            {
                "message_id": message.message_id,
                "event_id": event_id,
                "event_type": message.attributes.get(envelope.EVENT_TYPE),
                "received_at": received.received_at,
                "published_at": message.published_at,
                "data": message.data,
                "attributes": dict(message.attributes),
                "stage": refusal.stage.value,
                "reason": refusal.reason.value,
                "detail": refusal.detail,
            }
        )
        hour = hour_of(received.received_at)
        # Two broken messages under one event id are two dead letters: what tells them apart is the message's own id.
        return self._put(DEAD_LETTERS, hour, claimed, label_of(claimed, refusal.reason), id_hash(message.message_id), record)

    def _put(self, stream: str, hour: datetime, kind: str, label: str, digest: bytes, record: bytes) -> Packed | None:
        self._received.setdefault((stream, hour, kind), []).append(digest)
        key = (stream, hour, Shard.index_of(digest, self._shards), label)
        filling = self._filling.get(key)
        if filling is None:
            filling = self._filling[key] = _Filling()
        filling.ids.append(digest)
        filling.records.append(record)
        filling.size += len(record)
        return self._packed(key, self._filling.pop(key)) if filling.size >= PACK_BYTES else None

    def _packed(self, key: _Key, filling: _Filling) -> Packed:
        stream, hour, shard, label = key
        sizes = tuple(map(len, filling.records))
        return Packed(
            Bucket(stream, hour),
            Shard(shard, self._shards),
            Pack(label, b"".join(filling.ids), sizes, b"".join(filling.records)).to_bytes(),
        )
