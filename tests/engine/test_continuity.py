"""chi2 is continuous in every parameter of every shape, also where counts change.

A sweep in tiny steps: all changes of chi2 from step to step must be alike. A model that jumps at
one place (a layer gained by all particles of a size, a row of sizes, an atom) shows one change that
is far larger than those beside it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import AtomListPhase
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.particles.cell_spheres import CellSpherePopulation
from aiida_dse.engine.particles.parallelepipeds import (
    ParallelepipedPopulation,
    QuasiCubePopulation,
    SingleParallelepiped,
)
from aiida_dse.engine.particles.spheres import SingleSphere, SpherePopulation

PBNM_STEP = float(np.sqrt(8.207 * 8.407)) / 10
#: Steps of a sweep; their sizes, by kind, are shares of the natural step of the parameter.
N_STEPS = 12
SHARE = 2e-4
#: How much larger than the changes around it a change of chi2 may be.
LIMIT = 3.0

BLOCK = {"L_ab": 2.6, "sd_ab": 0.5, "L_c": 2.8, "sd_c": 0.6, "size_axes_rotation": 0.0}
SHAPES = {
    "single parallelepiped": (SingleParallelepiped((3, 2, 2)), {}),
    "parallelepipeds": (ParallelepipedPopulation(), BLOCK),
    "rotated parallelepipeds": (ParallelepipedPopulation(), BLOCK | {"size_axes_rotation": 20.0}),
    "cut parallelepipeds": (ParallelepipedPopulation(largest=2.9), BLOCK),
    "quasi-cubes": (QuasiCubePopulation(), {"L": 2.6, "sd_L": 0.5}),
    "cut quasi-cubes": (QuasiCubePopulation(largest=2.9), {"L": 2.6, "sd_L": 0.5}),
    "sphere": (SingleSphere(2.0), {}),
    "spheres": (SpherePopulation(), {"D": 1.7, "sd_D": 0.25}),
    "spheres of whole cells": (CellSpherePopulation(), {"D": 1.0, "sd_D": 0.12}),
    "cut spheres": (SpherePopulation(largest=1.9), {"D": 1.7, "sd_D": 0.25}),
}


def crystal_of(small, name):
    if name == "pbnm":
        return small.pbnm()
    return small.crystal(
        "P -1", (5.1, 5.9, 6.6, 84.0, 101.0, 96.0),
        [("Pb", "Pb2+", (0.11, 0.24, 0.31), 0.8, 1.3), ("S", "S", (0.42, 0.67, 0.78), 1.0, 0.9)],
    )


def model_of(small, q, phase):
    """Against a pattern some way off, with counting noise: chi2 has a slope in everything."""
    probe = small.model(q, np.ones(len(q)), np.ones(len(q)), [phase])
    pattern = probe.intensity(0, probe.states(probe.start)[0], probe.start)
    intensity, sigma = small.counts(pattern * (1 + 0.1 * np.sin(3 * q)))
    return small.model(q, intensity, sigma, [phase], background=small.background(2))


def changes(model, name, values, step):
    """chi2 from step to step, around values[name]."""
    at = values[name] + step * (np.arange(N_STEPS + 1) - N_STEPS / 2)
    chi2 = [model.evaluate(values | {name: float(x)}).chi2 for x in at]
    return np.diff(chi2)


def largest_jump(found, noise):
    """The largest departure of a change from the median one, against their size.

    `noise`: what the transform of length-dependent grids may add to chi2.
    """
    ordinary = np.median(np.abs(found)) + noise
    return np.abs(found - np.median(found)).max() / ordinary


def signatures(shape, crystal, sizes, name, value):
    """What is counted: shape of the tables, commonest height of each N, non-zero numbers."""
    at, now, stretch = crystal, sizes, 1.0
    if name in sizes:
        now = sizes | {name: value}
    else:
        at = crystal.with_cell(**{name: value})
    if shape.isotropic:
        stretch = (at.cell.volume / crystal.cell.volume) ** (1 / 3)
        at = crystal
    counts = shape.pair_counts(at, now, stretch=stretch)
    heights = ()
    if hasattr(shape, "number_weights") and not shape.isotropic:
        heights = tuple(shape.number_weights(at, now)[0].argmax(axis=1))
    return counts.tables.shape, heights, int((counts.tables != 0).sum())


def places(shape, crystal, sizes, parameter, step):
    """Values of a parameter at which something is counted anew, one or two of each sort.

    Searched over the default range of starting points, narrowed to a hundredth of a step.
    """
    name = parameter.name.local
    grid = np.linspace(*parameter.start_range(parameter.value), 24)[1:-1]
    known = [signatures(shape, crystal, sizes, name, x) for x in grid]
    found = []
    for sort in range(3):
        changed = [k for k in range(len(grid) - 1) if known[k][sort] != known[k + 1][sort]]
        for k in changed[:: max(1, len(changed) - 1)][:2]:
            low, high = grid[k], grid[k + 1]
            while high - low > step / 100:
                middle = (low + high) / 2
                same = signatures(shape, crystal, sizes, name, middle)[sort] == known[k][sort]
                low, high = (middle, high) if same else (low, middle)
            found.append((low + high) / 2)
    return found


#: Counting the spheres of a cell of 20 atoms for many sizes takes a quarter of a minute or more.
CASES = [(crystal, shape) for shape in SHAPES for crystal in ("pbnm", "triclinic")
         if not (crystal == "pbnm" and shape in ("spheres", "spheres of whole cells"))]


@pytest.mark.parametrize(("crystal_name", "shape_name"), CASES, ids=str)
def test_chi2_is_continuous_in_every_parameter(crystal_name, shape_name, small):
    q = np.linspace(0.6, 8.0, 90)
    crystal = crystal_of(small, crystal_name)
    shape, sizes = SHAPES[shape_name]
    phase = CrystalPhase("P", crystal, shape, sizes)
    model = model_of(small, q, phase)
    tried = 0
    for name, parameter in model.parameters.items():
        step = parameter.shift * SHARE
        start = model.start
        if parameter.kind is Kind.OCCUPANCY and start[name] == 1:
            start = start | {name: 0.95}
        at = [start[name]]
        if sizes and parameter.kind in (Kind.CELL_LENGTH, Kind.SIZE, Kind.SIZE_SD,
                                        Kind.SIZE_ROTATION):
            at += places(shape, crystal, sizes, parameter, step)
        for value in at:
            found = changes(model, name, start | {name: value}, step)
            noise = 1e-9 * model.evaluate(start).chi2
            assert largest_jump(found, noise) < LIMIT, (name, value, found)
            tried += 1
    assert tried > len(model.parameters) or not sizes, "no critical place was visited"


def test_rounded_heights_would_be_seen(small):
    """The measure that the other tests use does see a layer gained by all particles of a size."""
    q = np.linspace(0.6, 8.0, 90)
    crystal = crystal_of(small, "pbnm")

    @dataclasses.dataclass(frozen=True)
    class Rounded(QuasiCubePopulation):
        def number_weights(self, crystal, sizes):
            spread, length_ab, length_c = super().number_weights(crystal, sizes)
            heights = np.maximum(1, np.round(length_ab / length_c[0])).astype(int)
            number = np.zeros((len(spread), max(spread.shape[1], heights[-1])))
            number[np.arange(len(spread)), heights - 1] = spread.sum(axis=1)
            return number, length_ab, np.arange(1.0, number.shape[1] + 1) * length_c[0]

    phase = CrystalPhase("P", crystal, Rounded(), {"L": 2.6, "sd_L": 0.5})
    model = model_of(small, q, phase)
    crossing = 3 * PBNM_STEP * 10 / 2.5  # c at which three cells are 2.5 layers high
    start = model.start | {"P.c": crossing}
    found = changes(model, "P.c", start, model.parameters["P.c"].shift * SHARE)
    assert largest_jump(found, 1e-9 * model.evaluate(start).chi2) > 10 * LIMIT


def test_chi2_is_continuous_at_the_crossing_of_half_a_layer(small):
    """The 5 nm example's fault: three cells that are 2.5 layers high, and whole numbers of them."""
    q = np.linspace(0.6, 8.0, 90)
    phase = CrystalPhase("P", crystal_of(small, "pbnm"), QuasiCubePopulation(),
                         {"L": 2.6, "sd_L": 0.5})
    model = model_of(small, q, phase)
    for layers in (2.5, 2.0):
        start = model.start | {"P.c": 3 * PBNM_STEP * 10 / layers}
        found = changes(model, "P.c", start, model.parameters["P.c"].shift * SHARE)
        assert largest_jump(found, 1e-9 * model.evaluate(start).chi2) < LIMIT


def test_chi2_is_continuous_in_the_scale_of_a_fixed_geometry(small):
    q = np.linspace(0.6, 8.0, 90)
    crystal = crystal_of(small, "triclinic")
    cells = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    atoms = (cells[:, None] + crystal.positions()).reshape(-1, 3) @ crystal.cell.matrix.T
    kinds = np.tile(crystal.site_of_atom, len(cells))
    phase = AtomListPhase("P", ("Pb", "S"), ("Pb2+", "S"), kinds, atoms, (1.3, 0.9), (1.0, 0.7))
    model = model_of(small, q, phase)
    for name, parameter in model.parameters.items():
        start = model.start | ({name: 0.95} if parameter.kind is Kind.OCCUPANCY else {})
        found = changes(model, name, start, parameter.shift * SHARE)
        assert largest_jump(found, 1e-9 * model.evaluate(start).chi2) < LIMIT, name
