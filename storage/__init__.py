"""Stores, and the bucket format on top of them."""
