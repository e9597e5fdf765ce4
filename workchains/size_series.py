"""dse.size_series: the work chain for samples of several sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiida_dse.calculations.series import size_series
from aiida_dse.documents.series_results import SeriesSummary
from aiida_dse.engine.formatting import with_su
from aiida_dse.workchains.series import SeriesWorkChain


class SizeSeriesWorkChain(SeriesWorkChain):
    """Refine samples of several sizes; analyse strain, surface energy and distortions vs. 1/L."""

    KIND = "size"
    NOUN = "Size series"

    @classmethod
    def analysis(cls) -> Any:
        return size_series

    @classmethod
    def order(cls, members: Mapping[str, Any]) -> list[str]:
        """By name with numbers in numerical order, since the sizes are not known in advance."""
        return sorted(members, key=lambda name: [
            int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])

    def account_of(self, summary: SeriesSummary) -> str:
        account, row = super().account_of(summary), summary.numbers.get("surface_energy")
        if row is None:
            return account
        return f"{account}; gamma = {with_su(row.value, row.su_scaled or 0.0)} {row.unit}"
