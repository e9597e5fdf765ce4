"""Coverage of the standard uncertainties in repeated refinements. Part of `make validate`.

A population of CsPbBr3 parallelepipeds is computed by the tests' own direct double sum (no line of the
engine), and refined under many draws of Poisson noise, each from the same displaced start. An
honest 68.3 % interval holds the truth in 68.3 % of the draws.
"""

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.pattern import Background, ObservedPattern, PatternModel
from aiida_dse.tasks.build import build

ROOT = Path(__file__).parent.parent
WAVELENGTH = 0.56456  # Å
PEAK, CONSTANT = 4e5, 2e3  # counts
Q = np.linspace(0.6, 16.0, 900)
#: nm
LAWS = {"L_ab": 2.0, "sd_ab": 0.35, "L_c": 2.6, "sd_c": 0.7}
#: The limits for the groups' mean coverage, per cent.
LIMITS = (60.0, 76.0)
STAGES = [["P.[abc]", "P.L_*"], ["P.*.B_iso", "P.sd_*"], ["P.*.[xyz]"]]
CIF = """data_P
_cell_length_a 8.22
_cell_length_b 8.39
_cell_length_c 11.78
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P b n m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_B_iso_or_equiv
Cs Cs1+ 0.4944 0.0205 0.25 1 3.0
Pb Pb2+ 0 0 0.5 1 1.5
Br_eq Br1- 0.2878 0.2150 0.484 1 3.0
Br_ax Br1- 0.0550 0.0030 0.75 0.9 2.5
"""
TRUTH = {
    "a": 8.207, "b": 8.407, "c": 11.756, "Cs.x": 0.4914, "Cs.y": 0.0225, "Br_eq.x": 0.2908,
    "Br_eq.y": 0.2120, "Br_eq.z": 0.486, "Br_ax.x": 0.052, "Br_ax.y": 0.006, "Cs.B_iso": 3.9,
    "Pb.B_iso": 1.1, "Br_eq.B_iso": 2.3, "Br_ax.B_iso": 3.1, **LAWS,
}
GROUPS = {
    "cell": ("a", "b", "c"),
    "Br coordinates": ("Br_eq.x", "Br_eq.y", "Br_eq.z", "Br_ax.x", "Br_ax.y"),
    "B_iso": ("Cs.B_iso", "Pb.B_iso", "Br_eq.B_iso", "Br_ax.B_iso"),
    "sizes": ("L_ab", "sd_ab", "L_c", "sd_c"),
}


def direct_sum():
    """tests/physics/direct.py, which imports nothing of the package."""
    path = ROOT / "tests" / "physics" / "direct.py"
    spec = importlib.util.spec_from_file_location("_direct", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["_direct"] = module
    spec.loader.exec_module(module)
    return module


def log_normal(length, mean, sd):
    """Density by the formula of docs/physics.md, written again."""
    width2 = np.log(1 + sd**2 / mean**2)
    centre = np.log(mean) - width2 / 2
    return np.exp(-((np.log(length) - centre) ** 2) / (2 * width2)) / length


def mean_pattern():
    """Counts (n_q,) of the population, parallelepiped by parallelepiped of whole cells."""
    direct = direct_sum()
    structure = direct.cspbbr3_pbnm()
    a, b, c = structure.cell[:3]
    total, weights = np.zeros(len(Q)), 0.0
    for n_ab in range(1, 6):
        for n_c in range(1, 9):
            weight = (log_normal(n_ab * np.sqrt(a * b) / 10, LAWS["L_ab"], LAWS["sd_ab"])
                      * log_normal(n_c * c / 10, LAWS["L_c"], LAWS["sd_c"]))
            weights += weight
            if weight * n_ab**4 * n_c**2 < 1e-7:
                continue
            atoms = direct.block(structure, n_ab, n_ab, n_c)
            total += weight * direct.intensity(atoms, Q, WAVELENGTH)
    total /= weights
    return PEAK * total / total.max() + CONSTANT


def phase(folder: Path) -> CrystalPhase:
    from aiida_dse.documents import parse_document

    (folder / "P.cif").write_text(CIF)
    built = build(parse_document({
        "pattern": {"axis": "q_inverse_angstrom", "wavelength": WAVELENGTH,
                    "grid": {"start": 0.6, "stop": 16.0, "step": 0.1}},
        "phases": {"P": {"structure": "P.cif", "particle": {
            "shape": "parallelepiped", "L_ab": {"mean": 2.2, "sd": 0.4}, "L_c": {"mean": 2.4, "sd": 0.8}}}},
    }), folder)
    return built.model.phases[0]


def coverage(repeats: int, progress=print):
    """Parameter -> (share of draws with the truth inside one s.u., mean and sd of the pulls)."""
    import tempfile

    expected = mean_pattern()
    with tempfile.TemporaryDirectory() as folder:
        crystal = phase(Path(folder))
    pulls = {name: [] for name in TRUTH}
    failed = 0
    for seed in range(repeats):
        counts = np.random.default_rng(seed).poisson(expected).astype(float)
        observation = ObservedPattern(Q, counts, np.sqrt(counts), WAVELENGTH)
        model = PatternModel(observation, [crystal], Background(chebyshev=2))
        found = refine(model, STAGES)
        failed += not found.converged
        for p in found.free:
            name = p.name.removeprefix("P.")
            pulls[name].append((p.value - TRUTH[name]) / p.su if p.su else np.nan)
        if (seed + 1) % 20 == 0:
            progress(f"  {seed + 1} of {repeats} draws", flush=True)
    return {
        name: (float(np.mean(np.abs(values) <= 1)), float(np.mean(values)), float(np.std(values)))
        for name, values in pulls.items()
    }, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    begin = time.perf_counter()
    found, failed = coverage(repeats)
    print(f"\n{'parameter':12} {'within 1 s.u. / %':>18} {'mean pull':>10} {'sd of pulls':>12}")
    for name, (share, mean, spread) in found.items():
        print(f"{name:12} {100 * share:18.1f} {mean:10.2f} {spread:12.2f}")
    one = 100 * np.sqrt(0.683 * 0.317 / repeats)
    print(f"\nhonest: 68.3 %; one parameter scatters by {one:.1f} % in {repeats} draws")
    missed = []
    for group, names in GROUPS.items():
        share = 100 * np.mean([found[name][0] for name in names])
        inside = LIMITS[0] <= share <= LIMITS[1]
        missed += [] if inside else [group]
        print(f"{group:16} {share:5.1f} %  {'within' if inside else 'OUTSIDE'} "
              f"{LIMITS[0]:g}-{LIMITS[1]:g} %")
    print(f"{failed} draws did not converge; {time.perf_counter() - begin:.0f} s")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
