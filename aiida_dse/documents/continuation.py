"""Documents that begin where an earlier analysis ended."""

from __future__ import annotations

from typing import Any

from .migration import current_document
from .results import ScanSummary, Summary


def model_continued(model: dict[str, Any], summary: Summary) -> dict[str, Any]:
    """A model document that starts at the values of a result, where it has these parameters."""
    model = current_document(model)
    starts = dict(model.get("parameters", {}))
    moved = set(summary.moved) | set(summary.refined) if isinstance(summary, ScanSummary) else set()
    for name, row in summary.parameters.items():
        if row.status.refined or name in starts or name in moved:
            given = starts.get(name)
            bounds = dict(given) if isinstance(given, dict) else {}
            starts[name] = bounds | {"value": row.value}
    return model | {"parameters": starts}
