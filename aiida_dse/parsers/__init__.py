"""Parsers: read a result, pick an exit code."""
