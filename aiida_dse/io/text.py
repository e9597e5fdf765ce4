"""Text files of structures and patterns: encodings and numbers."""

from __future__ import annotations

import re
from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 (with or without a byte-order mark) or Latin-1.

    Raises ValueError for files that cannot be read and for binary files.
    """
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise ValueError(f"{path.name} cannot be read: {problem.strerror}.") from None
    return decoded(raw, path.name)


def decoded(raw: bytes, name: str) -> str:
    """The text of the bytes of a file; see `read_text`."""
    if raw.startswith(b"RAW"):
        raise ValueError(f"{name} is a Bruker RAW file, which is binary. Export it as text (.xy or "
                         ".uxd).")
    if re.search(rb"[\x00-\x08\x0e-\x19\x1b-\x1f]", raw):
        raise ValueError(
            f"{name} is a binary file (or UTF-16 text). Export it as plain text (UTF-8).")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def number(text: str) -> float:
    """A number, also with an exponent D of Fortran. Raises ValueError for other text."""
    return float(re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", text))
