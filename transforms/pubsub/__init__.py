"""Pub/Sub on local runners: pull, extend, acknowledge."""
