"""Decode messages: validate, stamp, encode and pack them. This is all the work that concerns one message alone."""

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
from transforms.decode.packs import PACK_BYTES, Pack, count_key_of

_HOUR = 3_600_000_000
"""Microseconds of an hour."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MAX_COMPILED = 10_000
"""Most compiled contracts that are cached. The bound is needed because clients can spell content types in countless ways."""


@dataclass(frozen=True)
class Packed:
    """A pack, and the bucket and shard that it belongs to."""

    id: str
    """The pack's unique id."""
    message_ids: list[str]
    """Messages whose records are in the pack, in their order."""
    bucket: Bucket
    shard: Shard
    data: bytes
    """The pack as bytes: see `transforms.decode.packs`."""


_Key = tuple[str, int, int, str]
"""Stream, hours since 1970, index of the shard, and count key. Plain values, because a key is made for each message, but a
Bucket only for each pack."""


@dataclass
class _PartialPack:
    """The records of a pack that is not full."""

    message_ids: list[str] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    size: int = 0
    """Bytes of the records."""


class _CompiledContract(NamedTuple):
    """The functions for all messages with the same event type, schema version and content type."""

    transcode: Transcoder
    encode_envelope: EnvelopeEncoder
    count_key: str


class Decoder:
    """Turns messages into packs of encoded records.

    Each message goes into exactly one pack: of the bucket of its event, or of the dead letters of its hour. Bucket and shard
    depend on the message alone, so a redelivery goes to the same ones.
    """

    def __init__(self, contracts: Contracts, allowed_lateness: timedelta, shards: int, new_id: Callable[[], str]) -> None:
        """Create a decoder without packs.

        Args:
            contracts: The contracts that messages are validated against.
            allowed_lateness: How long after its hour an event may be published and still belong to it.
            shards: Number of shards of a bucket.
            new_id: Returns a unique id of 32 hex digits.
        """
        self._contracts = contracts
        self._allowed_lateness = allowed_lateness
        self._shards = shards
        self._new_id = new_id
        self._compiled: dict[tuple[str, str | None, str | None], _CompiledContract] = {}
        self._encode_dead_letter = encoder(dead_letter_schema())
        self._partial: dict[_Key, _PartialPack] = {}
        self.skewed = 0
        """Skewed events so far."""

    def add(self, message: Message) -> Packed | None:
        """Decode a message. Return the pack that it has filled, if any."""
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
        except Rejected as rejection:
            return self._refuse(message, received_at, event_type, event_id, rejection)
        moment, skewed = micros(received_at), None
        if skewed_from is not None:
            skewed = micros(skewed_from)
            self.skewed += 1
        # A replayed dead letter keeps the id of its first message. Deduplication, which has only the row, may refuse it again
        # for a conflicting payload, and then recognizes it as the same dead letter.
        identity = attribute(REPLAY_OF) or message.message_id
        row = compiled.encode_envelope(event_id, moment, sent_at, identity, unknown, skewed) + record
        return self._put(message, event_type, moment, compiled.count_key, id_hash(event_id), row)

    def finish(self) -> list[Packed]:
        """Return the partial packs and reset."""
        partial, self._partial = self._partial, {}
        return [self._packed(key, pack) for key, pack in partial.items()]

    def _compile(self, event_type: str, version: str | None, content_type: str | None) -> _CompiledContract:
        if not event_type:
            raise Rejected(Stage.ENVELOPE, Reason.NO_TYPE, f"the attribute {EVENT_TYPE} is missing")
        contract = self._contracts.get(event_type, version)
        transcode = transcoder(contract, self._contracts.newest(event_type), content_type or JSON)
        compiled = _CompiledContract(transcode, envelope_encoder(event_type, contract.version), count_key_of(event_type))
        if len(self._compiled) < _MAX_COMPILED:
            self._compiled[event_type, version, content_type] = compiled
        return compiled

    def _refuse(
        self, message: Message, received_at: datetime, event_type: str, event_id: str, rejection: Rejected
    ) -> Packed | None:
        # A replayed dead letter that is refused again keeps the id of its first message: it is still the same one.
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
                "stage": rejection.stage.value,
                "reason": rejection.reason.value,
                "detail": rejection.detail,
            }
        )
        # Two broken messages with the same event id are two dead letters, so the message id identifies them.
        count_key = count_key_of(event_type, rejection.reason)
        return self._put(message, DEAD_LETTERS, micros(received_at), count_key, id_hash(identity), record)

    def _put(self, message: Message, stream: str, moment: int, count_key: str, hashed: bytes, record: bytes) -> Packed | None:
        hour, offset = divmod(moment, _HOUR)
        key = (stream, hour, Shard.index_of(hashed, self._shards), count_key)
        partial = self._partial.get(key)
        if partial is None:
            partial = self._partial[key] = _PartialPack()
        partial.message_ids.append(message.message_id)
        partial.entries.append(index_entry(hashed, offset, digest_of(message.data)))
        partial.records.append(record)
        partial.size += len(record)
        return self._packed(key, self._partial.pop(key)) if partial.size >= PACK_BYTES else None

    def _packed(self, key: _Key, partial: _PartialPack) -> Packed:
        stream, hour, shard, count_key = key
        bucket = Bucket(stream, _EPOCH + timedelta(hours=hour))
        pack = Pack.of(self._new_id(), count_key, partial.entries, partial.records)
        return Packed(pack.id, partial.message_ids, bucket, Shard(shard, self._shards), pack.to_bytes())


def _sent_at(text: str) -> int:
    try:
        return micros(parse_time(text))
    except (ValueError, OverflowError) as error:
        raise Rejected(Stage.ENVELOPE, Reason.BAD_ATTRIBUTE, f"attribute {SENT_AT}: {error}") from None
