"""Compiled readers and writers of Avro values."""
