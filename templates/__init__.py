"""Dataflow flex templates: parameters of the launch form, the image, and the template spec that combines them."""
