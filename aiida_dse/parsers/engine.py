"""Parsers of the engine's tasks: a result object becomes output nodes and an exit code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiida.engine import ExitCode
from aiida.orm import SinglefileData
from aiida.parsers import Parser

import aiida_dse
from aiida_dse.calculations.engine import RESULT_FOLDER, SCHEDULER_STDERR, STDERR
from aiida_dse.data.distances import DistancesData
from aiida_dse.data.jobs import built_from_nodes, cif_node, simultaneous_from_nodes
from aiida_dse.data.results import summary_node
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import CrystalPhase
from aiida_dse.io.results import HDF5_NAME, JSON_NAME, Result, read_result
from aiida_dse.io.structures import cif_text
from aiida_dse.tasks.distances import store_name


class EngineParser(Parser):
    """Attach result and arrays; explain their absence."""

    CACHE_VERSION = 1

    def parse(self, **kwargs: Any) -> ExitCode | None:
        folder = Path(kwargs["retrieved_temporary_folder"]) / RESULT_FOLDER
        if not folder.exists():
            folder = folder.parent
        try:
            result = read_result(folder)
        except ValueError as problem:
            return self._without_result(folder, str(problem))
        wanted = (self.node.process_type or "").rpartition(".")[2]
        if result.task != wanted:
            return self.exit_codes.ERROR_DAMAGED_RESULT.format(
                detail=f"it is of the task '{result.task}', not of '{wanted}'"
            )
        self.out("result", summary_node(result))
        self.out("arrays", SinglefileData(file=str(folder / HDF5_NAME), filename=HDF5_NAME))
        try:
            self.report_extra_outputs(result, folder)
        except ValueError as problem:
            return self.exit_codes.ERROR_DAMAGED_RESULT.format(detail=str(problem))
        return self.exit_code_of(result)

    def report_extra_outputs(self, result: Result, folder: Path) -> None:
        """Outputs of one task only."""

    def exit_code_of(self, result: Result) -> ExitCode | None:
        if result.status in ("complete", "converged"):
            return None
        return self.exit_codes.ERROR_WALLTIME

    def _without_result(self, folder: Path, problem: str) -> ExitCode:
        # what the shell itself says (killed, not found) is in the scheduler's file
        stderr = "\n".join(
            self.retrieved.base.repository.get_object_content(name)
            for name in (STDERR, self.node.get_option("scheduler_stderr") or SCHEDULER_STDERR)
            if name in self.retrieved.base.repository.list_object_names()
        )
        last = stderr.strip().splitlines()[-1] if stderr.strip() else problem
        codes = self.exit_codes
        if "No space left" in stderr:
            return codes.ERROR_DISK_FULL.format(detail=last)
        if "MemoryError" in stderr or "Killed" in stderr or "Unable to allocate" in stderr:
            return codes.ERROR_OUT_OF_MEMORY.format(detail=last)
        if "Error:" in stderr and "Traceback" not in stderr:
            return codes.ERROR_INVALID_INPUT.format(detail=stderr.split("Error:", 1)[1].strip())
        if (folder / JSON_NAME).exists():
            return codes.ERROR_DAMAGED_RESULT.format(detail=problem)
        return codes.ERROR_NO_RESULT.format(detail=last)


class BuildParser(EngineParser):
    """Adds the stores of distances."""

    def report_extra_outputs(self, result: Result, folder: Path) -> None:
        for name in result.summary["distances"]:
            node = DistancesData.from_file(
                folder / store_name(name), result.summary["distances"][name]["tolerance"])
            node.label = f"{name}, sampled by aiida-dse {aiida_dse.__version__}"
            self.out(f"distances.{name}", node)


class SimulateParser(EngineParser):
    """Nothing beyond result and arrays."""


class _MinimumParser(EngineParser):
    """Tells non-convergence and singularity of a refinement."""

    def exit_code_of(self, result: Result) -> ExitCode | None:
        codes, reason = self.exit_codes, result.summary["stop_reason"]
        if result.status == "not_converged":
            return codes.ERROR_NOT_CONVERGED.format(detail=reason)
        if result.status == "singular":
            names = result.summary.get("undetermined") or [
                name for name, row in result.summary["parameters"].items()
                if row.get("undetermined")
            ]
            return codes.ERROR_SINGULAR.format(detail=", ".join(names))
        return super().exit_code_of(result)


class RefineParser(_MinimumParser):
    """Adds the refined crystals."""

    def report_extra_outputs(self, result: Result, folder: Path) -> None:
        inputs = self.node.inputs
        blanks = {k: inputs.blanks[k] for k in inputs.blanks} if "blanks" in inputs else {}
        structures = {k: inputs.structures[k] for k in inputs.structures}
        built = built_from_nodes(
            inputs.model.get_dict(), inputs.pattern, structures, blanks
        )
        self.out_structures(built.model, result.summary["parameters"])

    def out_structures(
        self, model: PatternModel, parameters: Mapping[str, dict[str, Any]], prefix: str = ""
    ) -> None:
        """The crystals of one pattern's model at its refined values."""
        values = {name: row["value"] for name, row in parameters.items()}
        for index, phase in enumerate(model.phases):
            if isinstance(phase, CrystalPhase):
                crystal = phase.structure(model.local(index, values))
                node = cif_node(cif_text(crystal), f"{prefix}{phase.name}.cif")
                node.label = f"{prefix}{phase.name} refined by aiida-dse {aiida_dse.__version__}"
                self.out(f"structures.{prefix}{phase.name}", node)


class SimultaneousParser(RefineParser):
    """The crystals of every pattern, as structures.PATTERN_PHASE."""

    def report_extra_outputs(self, result: Result, folder: Path) -> None:
        inputs = self.node.inputs
        blanks = {k: inputs.blanks[k] for k in inputs.blanks} if "blanks" in inputs else {}
        built = simultaneous_from_nodes(
            inputs.model.get_dict(), {k: inputs.patterns[k] for k in inputs.patterns},
            {k: inputs.structures[k] for k in inputs.structures}, blanks,
        )
        for name, one in built.patterns.items():
            self.out_structures(
                one.model, result.summary["patterns"][name]["parameters"], f"{name}_"
            )


class ScanParser(EngineParser):
    """Nothing beyond result and arrays."""


class UncertaintyParser(_MinimumParser):
    """Tells a posterior that is not converged."""

    def exit_code_of(self, result: Result) -> ExitCode | None:
        if result.status == "posterior_not_converged":
            return self.exit_codes.ERROR_POSTERIOR_NOT_CONVERGED.format(
                detail=result.summary["stop_reason"]
            )
        return super().exit_code_of(result)
