"""The values of xraydb's tables, with a cache of those that were used.

Loading xraydb, which includes a database toolkit, takes longer than computing a pattern. The values
that it returned are therefore kept in a file beside the compiled code of the engine; the file is
bound to the version and the file of xraydb, and rebuilt if it does not match them or cannot be read.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from numba.core import config

#: Largest number of values in the file.
MOST_VALUES = 5000


def ions(element: str) -> tuple[str, ...]:
    """The ions of an element in the table of Waasmaier and Kirfel; empty for other elements."""
    def compute() -> list[str]:
        import xraydb

        try:
            return [str(ion) for ion in xraydb.f0_ions(element)]
        except ValueError:
            return []

    return tuple(_values.get(f"ions {element}", compute))


def f0_terms(ion: str) -> tuple[float, list[float], list[float]]:
    """c, a and b of f0(s) = c + sum of a exp(-b s^2), s = sin(theta) / lambda in 1/Å."""
    def compute() -> list[Any]:
        import xraydb

        row = next(row for row in xraydb.get_xraydb().get_cache("Waasmaier") if row.ion == ion)
        return [float(row.offset), json.loads(row.scale), json.loads(row.exponents)]

    offset, scale, exponents = _values.get(f"f0 {ion}", compute)
    return offset, scale, exponents


def f1_f2(element: str, energy: float) -> tuple[float, float]:
    """Chantler's f' and f'' (electrons) of an element at an energy (eV)."""
    def compute() -> list[float]:
        import xraydb

        return [float(xraydb.f1_chantler(element, energy)),
                float(xraydb.f2_chantler(element, energy))]

    f1, f2 = _values.get(f"f1 f2 {element} {energy!r}", compute)
    return f1, f2


def tables_version() -> str:
    """The version of the tables, such as '9.2'."""
    def compute() -> str:
        import xraydb

        found = re.search(r"XrayDB Version:\s*([^\s,]+)", xraydb.get_xraydb().get_version())
        return found[1] if found else "of unknown version"

    return str(_values.get("version", compute))


class _Values:
    """Values by key, in memory and in a file."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[str, Any] | None = None

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        with self._lock:
            if self._known is None:
                self._known = self._read()
            if key not in self._known:
                value = compute()
                if len(self._known) >= MOST_VALUES:
                    self._known.clear()
                self._known[key] = value
                self._write()
            return self._known[key]

    @property
    def path(self) -> Path:
        folder = getattr(config, "CACHE_DIR", "") or Path(__file__).parent / "__pycache__"
        return Path(folder) / "aiida-dse-tables.json"

    @staticmethod
    def _source() -> str:
        """What the values belong to: version, size and time of xraydb's file."""
        found = importlib.util.find_spec("xraydb")
        assert found is not None and found.origin is not None
        file = (Path(found.origin).parent / "xraydb.sqlite").stat()
        return f"{importlib.metadata.version('xraydb')} {file.st_size} {file.st_mtime_ns}"

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["source"] == self._source() and isinstance(content["values"], dict):
                return dict(content["values"])
        return {}

    def _write(self) -> None:
        # without the file, the next process loads xraydb again
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            try:
                with os.fdopen(number, "w", encoding="utf-8") as file:
                    json.dump({"source": self._source(), "values": self._known}, file)
                os.replace(name, self.path)
            except OSError:
                os.unlink(name)


_values = _Values()
