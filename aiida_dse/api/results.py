"""Results for notebooks: numbers, numpy arrays, table and figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_dse.documents.records import Value
from aiida_dse.documents.results import RefinementSummary, ScanSummary, SimulationSummary
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
    """A task's result, the model at its values, and the document and data that it was made from."""

    result: Result[Any]
    model: Model
    inputs: Inputs

    def __repr__(self) -> str:
        return result_report(self.result)

    @property
    def warnings(self) -> list[str]:
        """Remarks on the result; the table ends with them."""
        return list(self.result.summary.warnings)

    def save(self, folder: str | Path) -> Path:
        """Write result.json and result.h5, as `dse-engine` does; the folder."""
        write_result(self.result, Path(folder))
        return Path(folder)

    def to_document(self, folder: str | Path) -> Path:
        """Write the document that was run and its files (model.yaml, CIF, xye); its path.

        `dse-engine` and `aiida-dse launch` compute this result from it. Raises ValueError where
        the folder holds such files already.
        """
        return self.inputs.write(folder)


@dataclass(frozen=True, eq=False, repr=False)
class PatternResult(AnalysisResult):
    """A calculated pattern beside the observed one."""

    result: Result[RefinementSummary] | Result[SimulationSummary]

    @property
    def agreement(self) -> Agreement:
        """GoF, Rwp, Rexp, chi2, ... (fractions, not percent)."""
        found = self.result.summary.agreement
        assert found is not None  # there is a measured pattern
        return found

    @property
    def gof(self) -> float:
        """sqrt of the reduced chi2."""
        return self.agreement.gof

    @property
    def values(self) -> dict[str, float]:
        """All parameters but the linear coefficients, by name."""
        return {name: row.value for name, row in self.result.summary.parameters.items()}

    @property
    def derived(self) -> dict[str, Value]:
        """Derived quantities with unscaled s.u. by 'phase.name': volume, distances, sizes, ..."""
        return {f"{phase}.{name}": row for phase, rows in self.result.summary.derived.items()
                for name, row in (rows.sizes | rows.quantities).items()}

    @property
    def q(self) -> FloatArray:
        """(n,) 1/Å."""
        return self.result.arrays["pattern/q"]

    @property
    def two_theta(self) -> FloatArray:
        """(n,) degrees."""
        return self.result.arrays["pattern/two_theta"]

    @property
    def observed(self) -> FloatArray:
        """(n,) observed intensity."""
        return self.result.arrays["pattern/observed"]

    @property
    def sigma(self) -> FloatArray:
        """(n,) s.u. of the observed intensity."""
        return self.result.arrays["pattern/sigma"]

    @property
    def calculated(self) -> FloatArray:
        """(n,) calculated intensity, background included."""
        return self.result.arrays["pattern/calculated"]

    @property
    def residual(self) -> FloatArray:
        """(n,) (observed - calculated) / sigma."""
        return (self.observed - self.calculated) / self.sigma

    @property
    def components(self) -> dict[str, FloatArray]:
        """(n,) of the background, each blank ('blank.name') and each phase; they add up."""
        return _below(self.result.arrays, "components/")

    def plot(self) -> Figure:
        """Observed and calculated pattern, components and residual, as a matplotlib figure.

        Raises ImportError where matplotlib is not installed.
        """
        try:
            from aiida_dse.report.figures import fit_figure
        except ModuleNotFoundError as problem:
            raise _missing(problem) from None
        return fit_figure(self.result)


@dataclass(frozen=True, eq=False, repr=False)
class RefinementResult(PatternResult):
    """A refinement; `model` begins at its values, for what follows."""

    result: Result[RefinementSummary]

    @property
    def converged(self) -> bool:
        """Whether it converged with every refined parameter determined by the data."""
        return self.result.status.value == "converged"

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
        """Scales, blanks and background terms by name."""
        return {name: row.value for name, row in self.result.summary.linear.items()}

    @property
    def covariance(self) -> tuple[list[str], FloatArray]:
        """Names and unscaled covariance (n, n) of refined parameters and linear coefficients."""
        arrays = self.result.arrays
        return [str(name) for name in arrays["covariance/names"]], arrays["covariance/matrix"]

    @property
    def crystals(self) -> dict[str, Crystal]:
        """The refined structure of each phase that has one."""
        return {name: parse_cif(text, name=name)
                for name, text in self.result.summary.cif.items()}


@dataclass(frozen=True, eq=False, repr=False)
class ScanResult(AnalysisResult):
    """A GoF map; `model` begins at its lowest point. Arrays have the shape of the grid."""

    result: Result[ScanSummary]

    @property
    def axes(self) -> dict[str, FloatArray]:
        """The values along each axis by name, in the order of the dimensions."""
        return {row.name: self.result.arrays[f"scan/axis_{k}"]
                for k, row in enumerate(self.result.summary.axes)}

    @property
    def gof(self) -> FloatArray:
        """sqrt of the reduced chi2; nan where no structure has the requested values."""
        return self.result.arrays["scan/gof"]

    @property
    def chi2(self) -> FloatArray:
        """Weighted sum of squares."""
        return self.result.arrays["scan/chi2"]

    @property
    def minimum(self) -> dict[str, float]:
        """The lowest point: axes, moved and refined parameters, and 'gof'."""
        return dict(self.result.summary.minimum or {})

    @property
    def refined(self) -> dict[str, FloatArray]:
        """The parameters that were refined at every point."""
        return _below(self.result.arrays, "scan/refined/")

    @property
    def quantities(self) -> dict[str, FloatArray]:
        """Derived quantities; of length 1 along axes that do not change them."""
        return {row.name: self.result.arrays[f"scan/quantity_{k}"]
                for k, row in enumerate(self.result.summary.quantities)}

    def plot(self, quantity: str | None = None) -> Figure:
        """The map as a matplotlib figure, a derived quantity as contours.

        Raises ImportError where matplotlib is not installed.
        """
        try:
            from aiida_dse.report.map_figures import map_figure
        except ModuleNotFoundError as problem:
            raise _missing(problem) from None
        return map_figure(self.result, quantity=quantity)


def _below(arrays: Any, prefix: str) -> dict[str, np.ndarray]:
    return {path.removeprefix(prefix): values for path, values in arrays.items()
            if path.startswith(prefix)}


def _missing(problem: ModuleNotFoundError) -> ImportError:
    return ImportError(f"a figure needs {problem.name}, which is not installed: pip install "
                       f"{problem.name}.")
