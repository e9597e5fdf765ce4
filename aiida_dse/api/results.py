"""Results for notebooks, with numbers, numpy arrays, table and figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_dse.documents.records import Value
from aiida_dse.documents.results import RefinementSummary, ScanSummary, SimulationSummary
from aiida_dse.documents.status import Status
from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.model.agreement import Agreement
from aiida_dse.engine.units import FloatArray
from aiida_dse.io.results import Result, write_result
from aiida_dse.io.structures import parse_cif
from aiida_dse.report.tables import result_report

from .model import Inputs, Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class AnalysisResult:
    """Result of a task, with the model at its values, and its document and data."""

    result: Result[Any]
    model: Model
    inputs: Inputs

    def __repr__(self) -> str:
        return result_report(self.result)

    @property
    def warnings(self) -> list[str]:
        """Warnings, which the table lists at its end."""
        return list(self.result.summary.warnings)

    def save(self, folder: str | Path) -> Path:
        """Write result.json and result.h5, as `dse-engine` does, and return the folder."""
        write_result(self.result, Path(folder))
        return Path(folder)

    def to_document(self, folder: str | Path) -> Path:
        """Write the document of this result and its files (model.yaml, CIF, xye); return its path.

        `dse-engine` and `aiida-dse launch` reproduce the result from it. Raises ValueError if the
        folder contains such files already.
        """
        return self.inputs.write(folder)


@dataclass(frozen=True, eq=False, repr=False)
class PatternResult(AnalysisResult):
    """A calculated pattern with the observed one."""

    result: Result[RefinementSummary] | Result[SimulationSummary]

    @property
    def agreement(self) -> Agreement:
        """GoF, Rwp, Rexp, chi2, ... (fractions, not per cent)."""
        found = self.result.summary.agreement
        assert found is not None  # there is a measured pattern
        return found

    @property
    def gof(self) -> float:
        """GoF, the square root of the reduced chi2."""
        return self.agreement.gof

    @property
    def values(self) -> dict[str, float]:
        """All parameters except the linear coefficients, by name."""
        return {name: row.value for name, row in self.result.summary.parameters.items()}

    @property
    def derived(self) -> dict[str, Value]:
        """Derived quantities with unscaled s.u. by 'phase.name': volume, distances, sizes, ..."""
        return {f"{phase}.{name}": row for phase, rows in self.result.summary.derived.items()
                for name, row in (rows.sizes | rows.quantities).items()}

    @property
    def q(self) -> FloatArray:
        """q (n,) in 1/Å."""
        return self.result.arrays["pattern/q"]

    @property
    def two_theta(self) -> FloatArray:
        """2theta (n,) in degrees."""
        return self.result.arrays["pattern/two_theta"]

    @property
    def observed(self) -> FloatArray:
        """Observed intensity (n,)."""
        return self.result.arrays["pattern/observed"]

    @property
    def sigma(self) -> FloatArray:
        """s.u. of the observed intensity (n,)."""
        return self.result.arrays["pattern/sigma"]

    @property
    def calculated(self) -> FloatArray:
        """Calculated intensity (n,), including the background."""
        return self.result.arrays["pattern/calculated"]

    @property
    def residual(self) -> FloatArray:
        """Weighted residual (n,): (observed - calculated) / sigma."""
        return (self.observed - self.calculated) / self.sigma

    @property
    def components(self) -> dict[str, FloatArray]:
        """Components (n,) by name: background, blanks ('blank.name') and phases.

        They add up to the calculated intensity.
        """
        return _below(self.result.arrays, "components/")

    def plot(self) -> Figure:
        """Draw observed and calculated pattern, components and residual as a matplotlib figure.

        Raises ImportError if matplotlib is not installed.
        """
        try:
            from aiida_dse.report.figures import fit_figure
        except ModuleNotFoundError as problem:
            raise _missing(problem) from None
        return fit_figure(self.result)


@dataclass(frozen=True, eq=False, repr=False)
class RefinementResult(PatternResult):
    """A refinement; `model` starts at the refined values, for further analyses."""

    result: Result[RefinementSummary]

    @property
    def converged(self) -> bool:
        """Whether the refinement converged and the data determine every refined parameter."""
        return self.result.status is Status.CONVERGED

    @property
    def su(self) -> dict[str, float]:
        """Unscaled s.u. of refined and constrained parameters and of the linear coefficients."""
        rows = self.result.summary.parameters | self.result.summary.linear
        return {name: row.su for name, row in rows.items() if row.su is not None}

    @property
    def su_scaled(self) -> dict[str, float]:
        """Standard uncertainties times max(1, GoF), as the table prints them."""
        return {name: su * self.result.summary.su_scale for name, su in self.su.items()}

    @property
    def linear(self) -> dict[str, float]:
        """Scales of phases and blanks, and background coefficients, by name."""
        return {name: row.value for name, row in self.result.summary.linear.items()}

    @property
    def covariance(self) -> tuple[list[str], FloatArray]:
        """Names and unscaled covariance (n, n) of refined parameters and linear coefficients."""
        arrays = self.result.arrays
        return [str(name) for name in arrays["covariance/names"]], arrays["covariance/matrix"]

    @property
    def crystals(self) -> dict[str, Crystal]:
        """The refined crystal of each phase with a structure, by name."""
        return {name: parse_cif(text, name=name)
                for name, text in self.result.summary.cif.items()}


@dataclass(frozen=True, eq=False, repr=False)
class ScanResult(AnalysisResult):
    """A GoF map; `model` starts at its lowest point. Arrays have the shape of the grid."""

    result: Result[ScanSummary]

    @property
    def axes(self) -> dict[str, FloatArray]:
        """The values along each axis by name, in the order of the dimensions."""
        return {row.name: self.result.arrays[f"scan/axis_{k}"]
                for k, row in enumerate(self.result.summary.axes)}

    @property
    def gof(self) -> FloatArray:
        """GoF, the square root of the reduced chi2; nan at unreachable points."""
        return self.result.arrays["scan/gof"]

    @property
    def chi2(self) -> FloatArray:
        """chi2, the weighted sum of squares."""
        return self.result.arrays["scan/chi2"]

    @property
    def minimum(self) -> dict[str, float]:
        """The lowest point: values of axes, moved and refined parameters, and 'gof'."""
        return dict(self.result.summary.minimum or {})

    @property
    def refined(self) -> dict[str, FloatArray]:
        """The values of the parameters refined at every point, by name."""
        return _below(self.result.arrays, "scan/refined/")

    @property
    def quantities(self) -> dict[str, FloatArray]:
        """Derived quantities by name, of length 1 along axes that do not change them."""
        return {row.name: self.result.arrays[f"scan/quantity_{k}"]
                for k, row in enumerate(self.result.summary.quantities)}

    def plot(
        self, quantity: str | None = None, at: Mapping[str, float] | None = None
    ) -> Figure:
        """Draw the map as a matplotlib figure, with contours of a derived quantity.

        `at` fixes axes at the grid values nearest to the given ones; a map of four axes is drawn at
        that value of its last axis at which the GoF is lowest.

        Raises ImportError if matplotlib is not installed.
        """
        try:
            from aiida_dse.report.map_figures import map_figure
        except ModuleNotFoundError as problem:
            raise _missing(problem) from None
        return map_figure(self.result, quantity=quantity, at=at)


def _below(arrays: Any, prefix: str) -> dict[str, np.ndarray]:
    return {path.removeprefix(prefix): values for path, values in arrays.items()
            if path.startswith(prefix)}


def _missing(problem: ModuleNotFoundError) -> ImportError:
    return ImportError(f"a figure requires {problem.name}, which is not installed. Install it with "
                       f"'pip install {problem.name}'.")
