"""Command lines. Nothing here is imported by another room."""
