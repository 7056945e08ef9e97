"""Decoding: all that concerns one message at once: decode, check, stamp, encode, pack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.codec.avro_binary import EnvelopeEncoder, envelope_encoder
from schemas.envelope import (
    CONTENT_TYPE,
    EVENT_ID,
    EVENT_TYPE,
    JSON,
    RECEIVED_AT,
    REPLAY_OF,
    SCHEMA_VERSION,
    SENT_AT,
    Message,
    micros,
    parse_time,
    stamp,
)
from schemas.fingerprints import id_hash
from schemas.outcomes import Reason, Rejected, Stage
from schemas.registry.contracts import Contracts
from schemas.row_schemas import dead_letter_schema, encoder
from schemas.shards import Shard
from schemas.transcoder import Transcoder, transcoder
from storage.buckets.id_index import digest_of, index_entry
from transforms.decode.packs import PACK_BYTES, Pack, label_of

_HOUR = 3_600_000_000
"""Microseconds."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MAX_COMPILED = 10_000
"""Compiled contracts that are cached: a content type can be spelled in countless ways."""


@dataclass(frozen=True)
class Packed:
    """A pack and where it belongs. name: the pack's; message_ids: whose records are in it."""

    name: str
    message_ids: list[str]
    bucket: Bucket
    shard: Shard
    data: bytes


_Key = tuple[str, int, int, str]
"""Stream, hours since 1970, shard's index and label. Plain values: a key is made for every message, a bucket for every pack."""


@dataclass
class _Filling:
    message_ids: list[str] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    size: int = 0


class _CompiledContract(NamedTuple):
    """The functions for all messages with the same event type, schema version and content type."""

    transcode: Transcoder
    encode_envelope: EnvelopeEncoder
    label: str


class Decoder:
    """Turns messages into packs of encoded records.

    Every message goes into exactly one pack: that of its event's bucket or that of the dead letters'. Where it goes depends on
    the message alone, so each delivery of it comes to the same place.
    """

    def __init__(self, contracts: Contracts, allowed_lateness: timedelta, shards: int, new_id: Callable[[], str]) -> None:
        self._contracts = contracts
        self._allowed_lateness = allowed_lateness
        self._shards = shards
        self._new_id = new_id
        self._compiled: dict[tuple[str, str | None, str | None], _CompiledContract] = {}
        self._encode_dead_letter = encoder(dead_letter_schema())
        self._filling: dict[_Key, _Filling] = {}
        self.skewed = 0
        """Skewed events so far."""

    def add(self, message: Message) -> Packed | None:
        """Takes one message; gives the pack that it has filled up, if any."""
        attributes = message.attributes
        attribute = attributes.get
        event_type = attribute(EVENT_TYPE, "")
        event_id = attribute(EVENT_ID) or message.message_id
        received_at, skewed_from = message.publish_time, None
        try:
            if RECEIVED_AT in attributes:
                received_at, skewed_from = stamp(attributes, received_at, self._allowed_lateness)
            names = event_type, attribute(SCHEMA_VERSION), attribute(CONTENT_TYPE)
            compiled = self._compiled.get(names) or self._compile(*names)
            sent = attribute(SENT_AT)
            sent_at = _sent_at(sent) if sent else None
            record, unknown = compiled.transcode(message.data)
        except Rejected as refusal:
            return self._refuse(message, received_at, event_type, event_id, refusal)
        moment, skewed = micros(received_at), None
        if skewed_from is not None:
            skewed = micros(skewed_from)
            self.skewed += 1
        # A dead letter that was replayed is known by its first message: should it be refused for its payload now, where there
        # is only its row, it is still the same one.
        identity = attribute(REPLAY_OF) or message.message_id
        row = compiled.encode_envelope(event_id, moment, sent_at, identity, unknown, skewed) + record
        return self._put(message, event_type, moment, compiled.label, id_hash(event_id), row)

    def finish(self) -> list[Packed]:
        """Return the partial packs and reset."""
        filling, self._filling = self._filling, {}
        return [self._packed(key, partial) for key, partial in filling.items()]

    def _compile(self, event_type: str, version: str | None, content_type: str | None) -> _CompiledContract:
        if not event_type:
            raise Rejected(Stage.ENVELOPE, Reason.NO_TYPE, f"the attribute {EVENT_TYPE} is missing")
        contract = self._contracts.get(event_type, version)
        transcode = transcoder(contract, self._contracts.newest(event_type), content_type or JSON)
        compiled = _CompiledContract(transcode, envelope_encoder(event_type, contract.version), label_of(event_type))
        if len(self._compiled) < _MAX_COMPILED:
            self._compiled[event_type, version, content_type] = compiled
        return compiled

    def _refuse(
        self, message: Message, received_at: datetime, event_type: str, event_id: str, refusal: Rejected
    ) -> Packed | None:
        # A dead letter that was replayed and is refused again is still the same one.
        identity = message.attributes.get(REPLAY_OF) or message.message_id
        record = self._encode_dead_letter(
            {
                "message_id": identity,
                "event_id": event_id,
                "event_type": message.attributes.get(EVENT_TYPE),
                "received_at": received_at,
                "published_at": message.publish_time,
                "data": message.data,
                "attributes": dict(message.attributes),
                "stage": refusal.stage.value,
                "reason": refusal.reason.value,
                "detail": refusal.detail,
            }
        )
        # Two broken messages under one event id are two dead letters: what tells them apart is the message's own id.
        label = label_of(event_type, refusal.reason)
        return self._put(message, DEAD_LETTERS, micros(received_at), label, id_hash(identity), record)

    def _put(self, message: Message, stream: str, moment: int, label: str, hashed: bytes, record: bytes) -> Packed | None:
        hour, offset = divmod(moment, _HOUR)
        key = (stream, hour, Shard.index_of(hashed, self._shards), label)
        filling = self._filling.get(key)
        if filling is None:
            filling = self._filling[key] = _Filling()
        filling.message_ids.append(message.message_id)
        filling.entries.append(index_entry(hashed, offset, digest_of(message.data)))
        filling.records.append(record)
        filling.size += len(record)
        return self._packed(key, self._filling.pop(key)) if filling.size >= PACK_BYTES else None

    def _packed(self, key: _Key, filling: _Filling) -> Packed:
        stream, hour, shard, label = key
        bucket = Bucket(stream, _EPOCH + timedelta(hours=hour))
        pack = Pack.of(self._new_id(), label, filling.entries, filling.records)
        return Packed(pack.name, filling.message_ids, bucket, Shard(shard, self._shards), pack.to_bytes())


def _sent_at(text: str) -> int:
    try:
        return micros(parse_time(text))
    except (ValueError, OverflowError) as error:
        raise Rejected(Stage.ENVELOPE, Reason.BAD_ATTRIBUTE, f"attribute {SENT_AT}: {error}") from None
