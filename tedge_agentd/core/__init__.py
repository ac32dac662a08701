"""Decides. Pure: no I/O, no clock, no environment, no logging (import-linter holds it to that)."""
