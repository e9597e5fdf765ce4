"""dse.build_model: the work chain that samples the pair distances of a model."""

from __future__ import annotations

from typing import Any

from aiida_dse.calculations.engine import BuildCalculation
from aiida_dse.data.results import summary_from_node
from aiida_dse.documents.results import BuildSummary
from aiida_dse.tasks.build import BuiltModel
from aiida_dse.tasks.distances import require_geometry
from aiida_dse.workchains.restart import EngineRestartWorkChain


class BuildModelWorkChain(EngineRestartWorkChain):
    """Run dse.build, and restart it after a failure if another attempt can succeed."""

    _process_class = BuildCalculation
    NAMESPACE = "build"
    NOUN = "Pair distances"

    @classmethod
    def check_model(cls, built: BuiltModel) -> tuple[str, ...]:
        require_geometry(built)
        return super().check_model(built)

    def line(self, result: Any) -> str:
        summary = summary_from_node(result)
        assert isinstance(summary, BuildSummary)
        return "; ".join(
            f"{name}: {row.atoms:.0f} atoms, distances up to {row.r_max:.1f} Å, accurate up to "
            f"q = {row.q_max:.3g} 1/Å" for name, row in summary.distances.items())
