"""Costs of shapes and disorder, each beside the plain prism of the same size in the same run."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from aiida_dse.engine.crystal.splitting import SplitSite, SplitSites
from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.crystal.variants import Variants
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.displacements import Uniaxial, bond_direction
from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.particles.boundaries import Boundaries, BoundaryPlanes, SplitOrder
from aiida_dse.engine.particles.parallelepipeds import ParallelepipedPopulation
from aiida_dse.engine.particles.random_centre import RandomCentre
from aiida_dse.engine.resources import Resources
from aiida_dse.io.structures import read_cif
from aiida_dse.shapes.sphere import Ball

EXAMPLE = Path(__file__).parents[1] / "examples" / "cspbbr3"
PSEUDO_CUBIC = ((0.5, 0.5, 0.0), (-0.5, 0.5, 0.0), (0.0, 0.0, 0.5))
Q = np.linspace(0.5, 20, 4000)


def evaluation(phase: CrystalPhase, moved: str) -> float:
    """The shortest time (s) of a pattern after a small change of a parameter."""
    sampling = Sampling(Q, 0.56456, resources=Resources.from_environment())
    values, steps = dict(phase.start), count(1)
    state = phase.state(values, sampling)
    times = []
    for _ in range(7):
        values = values | {moved: phase.start[moved] + 1e-4 * next(steps)}
        begin = time.perf_counter()
        state = phase.state(values, sampling, state)
        times.append(time.perf_counter() - begin)
    return min(times)


def prisms(crystal: Crystal, size: float, sd: float) -> None:
    sizes = {"L_ab": size, "sd_ab": sd, "L_c": size, "sd_c": sd, "size_axes_rotation": 0.0}

    def prism(**more: Any) -> CrystalPhase:
        return CrystalPhase("P", crystal, ParallelepipedPopulation(), sizes, **more)

    x, y, z = bond_direction(crystal, "Br_eq", "Pb").tolist()
    tensors = {"Br_eq": Uniaxial((x, y, z), 0.026, 0.08), "Br_ax": Uniaxial((0.0, 0.0, 1.0), 0.026, 0.08),
               "Cs": Uniaxial((0.0, 1.0, 0.0), 0.105, 0.08), "Pb": Uniaxial((0.0, 0.0, 1.0), 0.02, 0.021)}
    variants = Variants(crystal, PSEUDO_CUBIC)
    one = Boundaries(variants, (BoundaryPlanes("ab", (0, 1), (1, 0, 0)),), {"boundary_ab": 0.1})
    every = Boundaries(variants, (BoundaryPlanes("ab", (0, 1), (1, 0, 0)), BoundaryPlanes("c", (2,), (1, 0, 1))),
                       {"boundary_ab": 0.1, "boundary_c": 0.1})
    direction = np.array([0.6, -0.8, 0.0]) / np.linalg.norm(crystal.cell.matrix @ (0.6, -0.8, 0.0))
    split = SplitOrder(SplitSites(crystal, PSEUDO_CUBIC, (SplitSite("Br_ax", tuple(direction.tolist())),)),
                       {"Br_ax.split": 0.28})
    cases = {
        "boundaries with one shift": (prism(order=one), "limit 2 x"),
        "boundaries with two shifts": (prism(order=every), ""),
        "U_parallel, U_perpendicular of all sites": (prism(displacements=tensors), "limit 8 x"),
        "Br_ax split": (prism(order=split), "limit 2 x"),
    }
    for moved in ("Br_eq.x", "L_ab"):
        plain = evaluation(prism(), moved)
        print(f"{f'prism of {size:g} nm, {moved} changed':58} {plain * 1e3:11.1f} ms")
        for what, (phase, limit) in cases.items():
            seconds = evaluation(phase, moved)
            print(f"{f'  {what}':58} {seconds * 1e3:11.1f} ms   {limit:12} {seconds / plain:.1f} x", flush=True)


def bodies(crystal: Crystal) -> None:
    """Spheres with a random centre, and the growth with their volume."""
    found = []
    for size, sd, limit in ((5.0, 0.75, ""), (7.1, 1.06, ""), (10.0, 1.5, "limit 100 ms")):
        phase = CrystalPhase("P", crystal, RandomCentre(Ball()), {"D": size, "sd_D": sd})
        found.append((size, evaluation(phase, "D")))
        what = f"spheres with a random centre, {size:g} nm, SD {sd:g} nm"
        print(f"{what:58} {found[-1][1] * 1e3:11.1f} ms   {limit}")
    (small, first), (large, last) = found[0], found[-1]
    exponent = np.log(last / first) / (3 * np.log(large / small))
    print(f"{'  exponent of the time as a power of the number of cells':58} {exponent:11.2f}      limit 1.05")


def main() -> None:
    b_iso = {"Cs": 3.9, "Pb": 1.1, "Br_eq": 2.3, "Br_ax": 3.1}
    crystal = read_cif(EXAMPLE / "CsPbBr3.cif")
    crystal = replace(crystal, termination=(0.0, 0.5, 0.5), sites=tuple(
        replace(site, b_iso=b_iso[site.label]) for site in crystal.sites))
    for size, sd in ((5.0, 0.7), (9.0, 1.0)):
        prisms(crystal, size, sd)
    bodies(crystal)


if __name__ == "__main__":
    main()
