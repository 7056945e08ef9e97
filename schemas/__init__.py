"""Data model and codecs: envelope, contracts, counters, reports, table schemas. Imports neither Beam nor a cloud client."""
