"""Outcomes of events, and the reasons for dead letters."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of a message. RECEIVED counts all of them: it is the sum of the three others."""

    RECEIVED = "received"
    DELIVERED = "delivered"
    DUPLICATE = "duplicate"
    DEAD_LETTER = "dead_letter"


class Stage(StrEnum):
    """The step that rejects a message or event. Stored in dead letters."""

    ENVELOPE = "envelope"
    DECODE = "decode"
    VALIDATE = "validate"
    DEDUPLICATE = "deduplicate"


class Reason(StrEnum):
    """Why a message or event becomes a dead letter. Values are stored in files and tables, and are never renamed."""

    NO_TYPE = "no_type"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    UNKNOWN_CONTENT_TYPE = "unknown_content_type"
    BAD_ATTRIBUTE = "bad_attribute"
    UNREADABLE_RECEIVED_AT = "unreadable_received_at"
    FUTURE_RECEIVED_AT = "future_received_at"
    EMPTY_PAYLOAD = "empty_payload"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    INVALID_UTF8 = "invalid_utf8"
    NOT_JSON = "not_json"
    BROKEN_AVRO = "broken_avro"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    CONFLICTING_PAYLOAD = "conflicting_payload"


class Rejected(Exception):
    """A message or event breaks its contract.

    Args:
        detail: The field and the broken rule, but no value of the payload.
    """

    def __init__(self, stage: Stage, reason: Reason, detail: str) -> None:
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage = stage
        self.reason = reason
        self.detail = detail
