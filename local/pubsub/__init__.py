"""An in-memory Pub/Sub broker."""
