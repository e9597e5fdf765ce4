"""dse.temperature_series: the work chain for one sample at several temperatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida_dse.calculations.series import temperature_series
from aiida_dse.documents.series_results import SeriesSummary, TemperatureSummary
from aiida_dse.engine.formatting import with_su
from aiida_dse.workchains.members import sample_of
from aiida_dse.workchains.series import SeriesWorkChain


class TemperatureSeriesWorkChain(SeriesWorkChain):
    """Refine a sample at several temperatures; analyse expansion, strain, bonds and B(T)."""

    KIND = "temperature"
    NOUN = "Temperature series"

    @classmethod
    def analysis(cls) -> Any:
        return temperature_series

    @classmethod
    def order(cls, members: Mapping[str, Any]) -> list[str]:
        """By temperature. Raises ValueError for a member without a temperature."""
        found = {}
        for name, member in members.items():
            found[name] = sample_of(member).get("temperature")
            if found[name] is None:
                raise ValueError(f"members.{name}: the temperature is not known. Specify it in K "
                                 "as 'temperature' in the section 'sample' of the document, or in "
                                 "the metadata of the pattern.")
        return sorted(found, key=lambda name: (found[name], name))

    def account_of(self, summary: SeriesSummary) -> str:
        assert isinstance(summary, TemperatureSummary)
        parts, row = [super().account_of(summary)], summary.numbers.get("thermal_expansion_V")
        if row is not None:
            expansion = with_su(row.value * 1e6, (row.su_scaled or 0.0) * 1e6)
            parts.append(f"thermal_expansion_V = {expansion} 1e-6/K")
        return "; ".join(parts + [row.verdict for row in summary.disorder])
