"""Dataflow flex templates: what a launch form asks for, the image, and the spec that holds them together."""
