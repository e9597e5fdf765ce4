"""Texts for terminals and pages, without characters that control them."""

from __future__ import annotations

import re

#: Control characters other than tab and line feed, and marks that change the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """The text with control characters replaced by the sign for an unknown character."""
    return _CONTROL.sub("\ufffd", str(text))


def has_control_characters(text: str) -> bool:
    """Whether a text contains control characters, or line breaks or tabs."""
    return bool(_CONTROL.search(text)) or "\n" in text or "\t" in text
