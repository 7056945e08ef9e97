"""Contracts of event types: loading and checks."""
