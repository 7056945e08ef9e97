"""Replay, backfill and missing events."""
