"""Accuracy against DebUsSy's own patterns, whose truth is known. `make validate`.

Every row is a full refinement from one common start; the last column names what misses its limit.
The patterns are not part of this project: they are looked for in ../shared/data, or where
DSE_DATA specifies.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import xraylib

from aiida_dse.documents import load_document, parse_document
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.units import FloatArray, photon_energy
from aiida_dse.tasks.build import BuiltModel, build
from aiida_dse.tasks.run import run_refine

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("DSE_DATA", ROOT.parent / "shared" / "data"))
EXAMPLE = ROOT / "examples" / "cspbbr3"
ROCK_SALT = """data_PbS
_cell_length_a 5.936
_cell_length_b 5.936
_cell_length_c 5.936
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
Pb Pb 0 0 0 1.0
S S 0.5 0.5 0.5 1.0
"""
#: Edge (Å) of the primitive cell that DebUsSy was given, all angles 60 degrees.
PRIMITIVE_EDGE = 4.196
#: Parameters of the CsPbBr3 patterns that must be within 3 s.u. of the truth, per cent.
WITHIN_3_SU = 97.0
#: nm; larger means with spheres of all atoms within the radius take minutes each.
SPHERES_OF_ATOMS_BELOW = 7
ELECTRON_REST_ENERGY = 510998.95  # eV


@dataclass(frozen=True)
class Row:
    """Differences from the truth of one fit, each with its limit (None: reported only)."""

    name: str
    values: dict[str, tuple[float, float | None]]
    seconds: float
    #: (value - truth) / s.u. of the refined parameters; nan without an s.u.
    pulls: dict[str, float] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        return [
            name for name, (value, limit) in self.values.items()
            if limit is not None and not abs(value) <= limit
        ]

    def __str__(self) -> str:
        shown = "  ".join(f"{name} {value:+.4g}" for name, (value, _) in self.values.items())
        verdict = "outside: " + ", ".join(self.missed) if self.missed else "within limits"
        far = [f"{name} {pull:+.1f}" for name, pull in self.pulls.items() if not abs(pull) <= 3]
        verdict += f"; beyond 3 s.u.: {', '.join(far)}" if far else ""
        return f"{self.name:34} {shown}  {self.seconds:5.1f} s  {verdict}"


def refined(built: BuiltModel) -> tuple[dict[str, float], dict, float]:
    """Refined values, the summary and the seconds it took."""
    begin = time.perf_counter()
    summary = run_refine(built).summary
    values = {name: row.value for name, row in summary.parameters.items()}
    return values, summary, time.perf_counter() - begin


def cspbbr3_patterns() -> list[tuple[Path, dict]]:
    """The synthetic CsPbBr3 patterns with what went into them."""
    folder = DATA / "cspbbr3_debussy"
    found = []
    for truth_file, subfolder in (("size_truth.json", "size"), ("temp_truth.json", "temperature")):
        if (folder / truth_file).exists():
            for truth in json.loads((folder / truth_file).read_text()):
                found.append((folder / subfolder / f"{truth['name']}.xye", truth))
    return found


def fit_cspbbr3(path: Path, truth: dict) -> Row:
    """18 parameters, from the bulk-like start of the example."""
    content = load_document(EXAMPLE / "refine.yaml").canonical()
    content["pattern"]["file"] = str(path.resolve())
    values, summary, seconds = refined(build(parse_document(content), EXAMPLE))
    off = {name.removeprefix("CsPbBr3."): value for name, value in values.items()}
    quantities = summary.derived["CsPbBr3"].quantities
    cell = max((off[edge] - true for edge, true in zip("abc", truth["cell"], strict=True)), key=abs)
    sizes = max((100 * (off[n] / truth[n] - 1) for n in ("L_ab", "L_c")), key=abs)
    angles = [quantities[f"angle(Pb-Br_{k}-Pb)_1"].value - truth[f"angle_{k}"]
              for k in ("eq", "ax")]
    b_iso = max((off[f"{label}.B_iso"] - true for label, true in truth["B"].items()), key=abs)
    small = truth["name"] in ("size_05nm", "size_11nm")
    true = dict(zip("abc", truth["cell"], strict=True)) | {
        name: truth[name] for name in ("L_ab", "sd_ab", "L_c", "sd_c")} | {
        f"{site}.B_iso": value for site, value in truth["B"].items()} | {
        f"{site}.{axis}": value for site in truth["B"]
        for axis, value in zip("xyz", truth[site], strict=True)}
    pulls = {
        name: (row.value - true[name]) / (row.su or nan)
        for full, row in summary.parameters.items()
        if row.status.refined and (name := full.removeprefix("CsPbBr3.")) in true
    }
    return Row(truth["name"], {
        "GoF": (summary.agreement.gof, 1.03), "cell/Å": (cell, 0.003),
        "angle/deg": (max(angles, key=abs), 0.5), "size/%": (sizes, 2.0),
        "B_iso/Å^2": (b_iso, 0.25 if small else 0.3),
    }, seconds, pulls)


def pbs_patterns() -> list[Path]:
    return sorted((DATA / "pbs_qdots").glob("PbS_*.cal"))


def compton(q: FloatArray, wavelength: float) -> FloatArray:
    """Compton scattering per PbS (n_q,), electron units: EPDL97, Klein-Nishina unpolarised part."""
    s = q / (4 * np.pi)
    scattered = np.array([xraylib.SF_Compt(82, x) + xraylib.SF_Compt(16, x) for x in s])
    recoil = photon_energy(wavelength) / ELECTRON_REST_ENERGY
    ratio = 1 / (1 + recoil * 2 * (s * wavelength) ** 2)
    return np.asarray(scattered * ratio**2 * (ratio + 1 / ratio) / 2)


def fit_pbs(path: Path, *, whole_cells: bool = True) -> Row:
    """Cell, diameter and its spread, two B_iso; Compton scattering, a constant, the solvent.

    With all atoms within the radius instead of whole cells, the surface is not the one behind the
    patterns: GoF is then reported only (docs/measured.md). DebUsSy's diameters are those of the
    unexpanded lattice.
    """
    found = re.fullmatch(
        r"PbS_Str(.+)_SD(.+)_Avg(.+)_Solv(TOL|HEX)_Conc(.+)_noisy(.+)\.cal", path.name
    )
    assert found, path.name
    expansion, spread, mean, conc, noise = (float(found[k]) for k in (1, 2, 3, 5, 6))
    blanks = {"compton": {"file": "compton.xy", "axis": "q_inverse_angstrom", "wavelength": 0.56,
                          "sigma": "1 %"}}
    if conc < 100:
        trace = {"TOL": "Toluene", "HEX": "Hexane"}[found[4]]
        blanks["solvent"] = {"file": str((path.parent / f"{trace}.xye").resolve()),
                             "axis": "two_theta", "wavelength": 0.564162}
    content = {
        "pattern": {"file": str(path.resolve()), "axis": "q_inverse_angstrom", "wavelength": 0.56,
                    "sigma": f"counts / {noise:g}", "grid": {"start": 0.99, "step": 0.0028}},
        "phases": {"PbS": {"structure": "PbS.cif", "particle": {
            "shape": "sphere", "D": {"mean": 5.0, "sd": 1.0}, "centre": "Pb", "largest": 30,
            "whole_cells": whole_cells}}},
        "background": {"chebyshev": 1, "blanks": blanks},
        "refinement": {"stages": [["PbS.a", "PbS.D", "PbS.sd_D"], ["PbS.*.B_iso"]]},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        q = np.arange(0.98, 15.02, 0.01)
        np.savetxt(folder / "compton.xy", np.column_stack([q, compton(q, 0.56)]))
        (folder / "PbS.cif").write_text(ROCK_SALT)
        built = build(parse_document(content), folder)
    values, summary, seconds = refined(built)
    judged = spread >= 10 and mean >= 3
    shown = {
        "GoF": (summary.agreement.gof, 1.15 if judged and whole_cells else None),
        "size/%": (100 * (values["PbS.D"] / (expansion * mean) - 1), 1.5 if judged else None),
        "spread/points": (100 * values["PbS.sd_D"] / values["PbS.D"] - spread,
                          1.5 if judged else None),
        "lattice_scale": (values["PbS.a"] / (2**0.5 * PRIMITIVE_EDGE) - expansion,
                          0.0005 if judged else None),
        "s.u. size/%": (100 * (summary.parameters["PbS.D"].su or nan) / mean, None),
    }
    phase = built.model.phases[0]
    assert isinstance(phase, CrystalPhase)
    linear = {name: row.value for name, row in summary.linear.items()}
    particles = 4 * phase.family.mean_cells(
        phase.crystal.with_cell(a=values["PbS.a"]), {"D": values["PbS.D"], "sd_D": values["PbS.sd_D"]})
    shown["Compton/table"] = (linear["blank.compton"] / (linear["PbS.scale"] * particles), None)
    spheres = "" if whole_cells else ", all atoms within the radius"
    return Row(f"PbS {mean:g} nm {spread:g} % conc {conc:g} noise {noise:g}{spheres}", shown,
               seconds)


def rows() -> Iterator[Row]:
    for path, truth in cspbbr3_patterns():
        yield fit_cspbbr3(path, truth)
    for path in pbs_patterns():
        yield fit_pbs(path)
    for path in pbs_patterns():
        if float(path.name.split("Avg")[1].split("_")[0]) < SPHERES_OF_ATOMS_BELOW:
            yield fit_pbs(path, whole_cells=False)


if __name__ == "__main__":
    if not (cspbbr3_patterns() or pbs_patterns()):
        sys.exit(f"no patterns in {DATA}: set DSE_DATA to the folder that holds them")
    missed, pulls = [], []
    for row in rows():
        print(row, flush=True)
        missed += [row.name] if row.missed else []
        pulls += row.pulls.values()
    if pulls:
        within = 100 * np.mean(np.abs(pulls) <= 3)
        print(f"{len(pulls)} refined parameters of CsPbBr3: {within:.1f} % within 3 s.u. of the truth "
              f"(limit: {WITHIN_3_SU:g} %), {np.isnan(pulls).sum()} without an s.u.")
        missed += ["pulls of CsPbBr3"] if within < WITHIN_3_SU else []
    sys.exit(f"outside their limits: {', '.join(missed)}" if missed else 0)
