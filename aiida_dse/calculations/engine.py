"""CalcJobs that run the tasks of dse-engine."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob
from aiida.orm import CifData, Dict, SinglefileData, StructureData, to_aiida_type

from aiida_dse.data.distances import DistancesData
from aiida_dse.data.jobs import (
    MODEL_NAME,
    STDERR,
    STDOUT,
    ModelNodes,
    job_document,
    job_files,
    pattern_file,
    simultaneous_job_document,
)
from aiida_dse.data.pattern import PatternData
from aiida_dse.data.results import summary_from_node
from aiida_dse.data.signatures import is_as_computed
from aiida_dse.documents.status import EXITS, JOB_FAILURES, Outcome, Status
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.io.outcome import OUTCOME_NAME
from aiida_dse.io.results import HDF5_NAME, JSON_NAME, signed_text
from aiida_dse.tasks.distances import store_name
from aiida_dse.tasks.summary import scattering_tables

#: Fraction of the walltime after which a task stops, so that time remains to write its result.
WALLTIME_SHARE = 0.9
RESULT_FOLDER = "results"
SCHEDULER_STDERR = "_scheduler-stderr.txt"


class EngineCalculation(CalcJob):
    """A task of dse-engine on a model document with its pattern, structures and blanks.

    The number of threads does not affect the result. It is therefore metadata, which is not part of
    the hash that caching compares.
    """

    TASK = ""
    COMPARES = True  # the task compares with data and observes the walltime
    #: Outcomes of the task other than success.
    ENDINGS: ClassVar[tuple[Status, ...]] = (Status.WALLTIME, Status.INTERRUPTED)
    CACHE_VERSION = NUMERICS_VERSION

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input("model", valid_type=Dict, serializer=to_aiida_type, help="Model document.")
        cls.define_data(spec)
        spec.input("threads", valid_type=int, required=False, is_metadata=True,
                   help="Number of threads of the engine (default: all cores).")
        spec.inputs.validator = cls.check_ports
        options = spec.inputs["metadata"]["options"]
        options["resources"].default = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["withmpi"].default = False
        options["parser_name"].default = f"dse.{cls.TASK}"
        options["input_filename"].default = MODEL_NAME
        options["output_filename"].default = STDOUT
        options["scheduler_stderr"].default = SCHEDULER_STDERR

        spec.output("result", valid_type=Dict, help="Numerical results and metadata of the task.")
        spec.output("arrays", valid_type=SinglefileData, help="All arrays of the result, as HDF5.")
        spec.default_output_node = "result"
        add_exits(spec, *JOB_FAILURES, *cls.ENDINGS)

    @classmethod
    def define_data(cls, spec: Any) -> None:
        """Define the ports for data."""
        spec.input("pattern", valid_type=PatternData, required=False, help="Measured pattern.")
        define_model_data(spec)

    @classmethod
    def is_valid_cache(cls, node: Any) -> bool:
        """Whether the cache may reuse a job.

        It must have run with the same numerics and tables, and its result must be what it computed.
        """
        if not super().is_valid_cache(node) or "result" not in node.outputs:
            return False
        arrays = node.outputs.arrays if "arrays" in node.outputs else None
        if not is_as_computed(node.outputs.result, arrays):
            return False
        result = node.outputs.result.get_dict()
        return (result.get("numerics_version") == NUMERICS_VERSION
                and result.get("tables") == scattering_tables().model_dump())

    @classmethod
    def check_ports(cls, inputs: dict[str, Any], _: Any = None) -> str | None:
        """Check that the document is valid and that all data to which it refers have nodes.

        The model itself is built and checked when the analysis is launched, and again by the job.
        """
        if "model" not in inputs:
            return None
        if "structures" not in inputs:
            return "the input 'structures' is missing; provide one node for each phase."
        finished = inputs.get("finished", {})
        if len(finished) == 1:
            return ("the input 'finished' is incomplete; provide both 'result' and 'arrays' of the "
                    "interrupted job.")
        if finished and is_as_computed(finished["result"], finished["arrays"]) is False:
            return ("the input 'finished' was changed after it was computed: its numbers or arrays do not "
                    "agree with their signature.")
        try:
            cls.job_document(inputs)
        except ValueError as problem:
            return str(problem)
        if cls.COMPARES and cls.TASK != "simultaneous" and "pattern" not in inputs:
            return (f"the input 'pattern' is missing; the task '{cls.TASK}' requires a measured "
                    "pattern.")
        return None

    @classmethod
    def job_document(cls, inputs: Any) -> dict[str, Any]:
        """The document of a job with these inputs. Raises DocumentError if it is invalid."""
        return job_document(inputs["model"].get_dict(), nodes_of(inputs))

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write the document and its files, and specify the command."""
        for name, content_of_file in self.job_files().items():
            with folder.open(name, "wb") as handle:
                handle.write(content_of_file)
        # the title is taken from the label of the process, because it is not part of the model
        content = self.job_document(self.inputs) | {"title": self.node.label or ""}
        with folder.open(MODEL_NAME, "w", encoding="utf-8") as handle:
            json.dump(content, handle, indent=1)

        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        code.cmdline_params = self._command()
        code.stdout_name, code.stderr_name = STDOUT, STDERR
        calculation = CalcInfo()
        calculation.codes_info = [code]
        calculation.local_copy_list = self._copied()
        calculation.retrieve_temporary_list = [
            f"{RESULT_FOLDER}/{name}"
            for name in (JSON_NAME, HDF5_NAME, OUTCOME_NAME, *self._more_results())
        ]
        calculation.retrieve_list = [STDOUT, STDERR]
        # these files are already stored in the input nodes
        calculation.provenance_exclude_list = list(self.job_files())
        return calculation

    def job_files(self) -> dict[str, bytes]:
        """The contents of the files to which the document refers."""
        return job_files(nodes_of(self.inputs))

    def _more_results(self) -> list[str]:
        """Additional result files of a task."""
        return []

    def _command(self) -> list[str]:
        command = [self.TASK, MODEL_NAME, "--output", RESULT_FOLDER]
        threads = self.inputs.get("threads")
        if threads:
            command += ["--threads", str(threads)]
        seconds = self.inputs.metadata.options.get("max_wallclock_seconds")
        if self.COMPARES and seconds:
            command += ["--walltime", str(max(1, int(seconds * WALLTIME_SHARE)))]
        return command

    def _copied(self) -> list[tuple[str, str, str]]:
        return []


def define_model_data(spec: Any) -> None:
    """Define the ports for structures and blanks, by their names in the document."""
    spec.input_namespace(
        "structures", valid_type=(CifData, StructureData, SinglefileData), dynamic=True,
        help="Structure of each phase, by name of the phase.",
    )
    spec.input_namespace(
        "blanks", valid_type=PatternData, dynamic=True, required=False,
        help="Measured blanks (solvent, capillary), by name in the document.",
    )


def nodes_of(inputs: Any) -> ModelNodes:
    """The data nodes among the inputs of a job."""
    return ModelNodes(inputs.get("pattern"), dict(inputs.get("structures", {})),
                      dict(inputs.get("blanks", {})))


class SimulateCalculation(EngineCalculation):
    """Simulation of the pattern of a model at its starting values."""

    TASK = "simulate"
    COMPARES = False


class BuildCalculation(EngineCalculation):
    """Sampling of the pair distances of every phase at its starting values."""

    TASK = "build"
    COMPARES = False

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.output_namespace("distances", valid_type=DistancesData, dynamic=True,
                              help="Pair distances of each phase, which can replace its structure.")

    def _more_results(self) -> list[str]:
        return [store_name(name) for name in self.inputs.structures]


def add_exits(spec: Any, *outcomes: Outcome) -> None:
    """Define the exit codes of a process from the table of outcomes, each number only once."""
    for one in dict.fromkeys(EXITS[outcome] for outcome in outcomes):
        if one.number:
            spec.exit_code(one.number, one.label, message=one.message,
                           invalidates_cache=not one.cachable)


def _define_structures(spec: Any) -> None:
    spec.output_namespace("structures", valid_type=CifData, dynamic=True,
                          help="Refined structures, as CIF.")


#: Outcomes of a refinement other than success.
REFINEMENT_ENDINGS = (
    Status.WALLTIME, Status.INTERRUPTED, Status.NOT_CONVERGED, Status.UNDETERMINED)


class RefineCalculation(EngineCalculation):
    """Least-squares refinement of a model against a pattern."""

    TASK = "refine"
    ENDINGS = REFINEMENT_ENDINGS

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        _define_structures(spec)


class SimultaneousCalculation(EngineCalculation):
    """Simultaneous refinement of several patterns, where 'model' is a simultaneous document."""

    TASK = "simultaneous"
    ENDINGS = REFINEMENT_ENDINGS

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        _define_structures(spec)

    @classmethod
    def define_data(cls, spec: Any) -> None:
        spec.input_namespace(
            "patterns", valid_type=PatternData, dynamic=True,
            help="Measured patterns, by name in the document.",
        )
        define_model_data(spec)

    @classmethod
    def job_document(cls, inputs: Any) -> dict[str, Any]:
        nodes = nodes_of(inputs)
        return simultaneous_job_document(
            inputs["model"].get_dict(), dict(inputs.get("patterns", {})), nodes.structures,
            nodes.blanks)

    def job_files(self) -> dict[str, bytes]:
        files = job_files(nodes_of(self.inputs))
        return files | {pattern_file(name): node.as_text().encode()
                        for name, node in self.inputs.patterns.items()}


class ResumableCalculation(EngineCalculation):
    """A task that can be continued from `finished`, the outputs of an interrupted job."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input("finished.result", valid_type=Dict, required=False,
                   help="Output 'result' of an interrupted job, which this job continues.")
        spec.input("finished.arrays", valid_type=SinglefileData, required=False,
                   help="Output 'arrays' of the same interrupted job.")

    def _command(self) -> list[str]:
        command = super()._command()
        return [*command, "--continue"] if self._resumes else command

    @property
    def _resumes(self) -> bool:
        return "arrays" in self.inputs.get("finished", {})

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        calculation = super().prepare_for_submission(folder)
        if self._resumes:
            folder.get_subfolder(RESULT_FOLDER, create=True)
            finished = self.inputs.finished
            with folder.open(f"{RESULT_FOLDER}/{JSON_NAME}", "w") as handle:
                handle.write(signed_text(summary_from_node(finished.result),
                                         finished.arrays.get_content(mode="rb")))
        return calculation

    def _copied(self) -> list[tuple[str, str, str]]:
        if not self._resumes:
            return []
        node = self.inputs.finished.arrays
        return [(node.uuid, node.filename, f"{RESULT_FOLDER}/{HDF5_NAME}")]


class ScanCalculation(ResumableCalculation):
    """GoF map over one to four axes; points in `finished` are not computed again."""

    TASK = "scan"


class UncertaintyCalculation(ResumableCalculation):
    """Profile likelihoods, bootstrap and posterior around the minimum of a refinement.

    Profile points, bootstrap samples and steps in `finished` are not computed again; the model may
    request further ones.
    """

    TASK = "uncertainty"
    ENDINGS = (*REFINEMENT_ENDINGS, Status.POSTERIOR_NOT_CONVERGED)
