"""The flex template of deliver."""
