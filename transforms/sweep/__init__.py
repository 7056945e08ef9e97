"""Revisits hours that no event reaches, so that they close and load."""
