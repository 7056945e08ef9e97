"""Revisit hours, so that buckets without new events are closed and loaded."""
