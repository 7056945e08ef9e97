"""Compiled readers and writers of Avro values, and collectors of unknown fields."""
