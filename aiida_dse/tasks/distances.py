"""The task 'build': computes and stores the pair distances of every phase of a document."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import aiida_dse
from aiida_dse.documents.results import BuildSummary, DistancesRow
from aiida_dse.documents.status import Status
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import (
    AtomListPhase,
    PairDistances,
    PairDistancesPhase,
    sample,
)
from aiida_dse.engine.scattering.histograms import GRID_MARGIN
from aiida_dse.engine.scattering.pairs import site_channels
from aiida_dse.engine.units import FloatArray
from aiida_dse.io.distances import write_distances
from aiida_dse.io.results import Result

from .build import BuiltModel
from .summary import common, structure_rows, unrefined_rows

#: Bin width (Å) of the pair-distance distribution that the result shows.
SHOWN_STEP = 0.05


def store_name(phase: str) -> str:
    """The name of the file with the pair distances of a phase."""
    return f"{phase}.distances.h5"


def require_geometry(built: BuiltModel) -> None:
    """Raise ValueError if a phase has stored distances and thus no geometry."""
    for phase in built.model.phases:
        if isinstance(phase, PairDistancesPhase):
            raise ValueError(f"phases.{phase.name}: the distances of this phase are stored "
                             "already; specify a 'structure' or 'atoms' to build new ones.")


def run_build(built: BuiltModel, folder: Path) -> Result[BuildSummary]:
    """Compute the pair distances of every phase at the starting values.

    They are sampled for the q of the pattern and the tolerance of the document, and written to one
    HDF5 file per phase in `folder`. Raises ValueError if a phase has stored distances already.
    """
    require_geometry(built)
    model, clock = built.model, time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    rows, distances = structure_rows(built), {}
    arrays: dict[str, np.ndarray] = {}
    for index, phase in enumerate(model.phases):
        assert isinstance(phase, CrystalPhase | AtomListPhase)
        section = built.document.phases[phase.name]
        stored = sample(phase, model.local(index, model.start), model.sampling, {
            **rows[phase.name].model_dump(),
            "phase": section.model_dump(mode="json", exclude_defaults=True),
            "sha256": built.files[section.file], "engine_version": aiida_dse.__version__,
        })
        write_distances(stored, folder / store_name(phase.name))
        distances[phase.name] = distances_row(stored, model.sampling.tolerance)
        r, pairs = pair_distribution(stored)
        arrays |= {f"pairs/{phase.name}/r": r, f"pairs/{phase.name}/number": pairs}
    return Result(BuildSummary(
        **common(built, Status.COMPLETE, "complete", time.monotonic() - clock),
        parameters=unrefined_rows(model), distances=distances,
    ), arrays)


def distances_row(stored: PairDistances, tolerance: float) -> DistancesRow:
    """Searchable properties of stored distances; lengths in Å, sizes in nm."""
    shape = stored.histograms.shape
    return DistancesRow(
        name=stored.about.get("name", ""), space_group=stored.about.get("space_group", ""),
        sites=dict(zip(stored.labels, stored.ions, strict=True)),
        atoms=float(stored.atoms.sum()), sizes=dict(stored.sizes),
        values=dict(stored.about.get("values", {})),
        step=stored.step, n_channels=shape[0], n_bins=shape[1],
        r_max=(shape[1] - GRID_MARGIN) * stored.step,
        q_max=stored.q_max(tolerance), tolerance=tolerance,
    )


def pair_distribution(stored: PairDistances) -> tuple[FloatArray, FloatArray]:
    """Pair-distance distribution of the mean particle: r (n,) in Å and pairs per Å (n,)."""
    occupancy = np.array(stored.occupancy)
    weight = [occupancy[s] * occupancy[t] for s, t in site_channels(len(occupancy))]
    r = (np.arange(stored.histograms.shape[1]) - GRID_MARGIN) * stored.step
    pairs = np.maximum(weight @ stored.histograms * r, 0.0)
    edges = np.arange(0.0, r[-1] + SHOWN_STEP, SHOWN_STEP)
    number, _ = np.histogram(r, bins=edges, weights=pairs)
    return (edges[1:] + edges[:-1]) / 2, number / SHOWN_STEP
