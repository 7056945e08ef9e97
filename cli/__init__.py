"""Shared by all command lines: flags, exit statuses, interrupts and progress."""
