"""Readers and writers of patterns, structures, pair distances and results."""
