"""Deliver again: backfill from the archive, find missing events, and replay dead letters."""
