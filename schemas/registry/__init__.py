"""The contracts of event types: load and check."""
