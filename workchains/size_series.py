"""dse.size_series: samples of several sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiida_dse.calculations.series import size_series
from aiida_dse.engine.formatting import with_su
from aiida_dse.workchains.series import SeriesWorkChain


class SizeSeriesWorkChain(SeriesWorkChain):
    """Refine samples of several sizes; strain, surface energy and distortions against 1/L."""

    KIND = "size"

    @classmethod
    def analysis(cls) -> Any:
        return size_series

    @classmethod
    def order(cls, members: Mapping[str, Any]) -> list[str]:
        """By name, numbers in it by their value: sizes are not known before."""
        return sorted(members, key=lambda name: [
            int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])

    def told(self, result: Mapping[str, Any]) -> str:
        row = result["parameters"].get("surface_energy")
        energy = "" if row is None else (
            f"; gamma = {with_su(row['value'], row['su_scaled'] or 0.0)} {row['unit']}")
        return super().told(result) + energy
