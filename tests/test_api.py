"""The API for notebooks yields the same results as documents, from any kind of input."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from aiida_dse import (
    Background,
    Model,
    Parallelepiped,
    Pattern,
    Phase,
    QuasiCube,
    Site,
    Sphere,
    as_crystal,
    crystal_from_sites,
    evaluate,
    refine,
    scan,
    simulate,
    to_document,
)
from aiida_dse.documents import load_document, parse_document
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine, run_scan
from aiida_dse.tasks.simulation import run_simulate

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "cspbbr3"
CIF = EXAMPLE / "CsPbBr3.cif"
SMALL = Parallelepiped(cells=(3, 3, 2))
WAVELENGTH = 0.56456
Q = np.linspace(0.8, 9.0, 120) + 0.01 * np.sin(np.arange(120))  # not equally spaced
STAGES = [["CsPbBr3.[abc]"], ["CsPbBr3.*.B_iso"]]


def qd(source=CIF, particle=SMALL, **options):
    return Phase("CsPbBr3", source, particle, **options)


def noisy(model, *, seed=5, scale=2e5, q=Q):
    """A Pattern of a model with Poisson noise and a constant background."""
    intensity = simulate(q, model, wavelength=WAVELENGTH)
    counts = np.random.default_rng(seed).poisson(scale * intensity / intensity.max() + 1000)
    return Pattern(q, counts, "counts", wavelength=WAVELENGTH)


@pytest.fixture(scope="module")
def measured():
    return noisy(qd())


@pytest.fixture(scope="module")
def shifted():
    """A model that does not start at the minimum."""
    return Model(qd(), background=1, parameters={"CsPbBr3.a": 8.19, "CsPbBr3.Pb.B_iso": 1.3})


@pytest.fixture(scope="module")
def fit(measured, shifted):
    return refine(measured, shifted, STAGES)


# --- the same as the documents -------------------------------------------------------------------


def test_a_refinement_equals_that_of_the_document_exactly():
    """Both read the files of the example."""
    content = yaml.safe_load((EXAMPLE / "refine.yaml").read_text())
    content["pattern"]["range"] = [4, 25]
    content["refinement"]["stages"] = content["refinement"]["stages"][:1]
    del content["derived"]
    document = run_refine(build(parse_document(content), EXAMPLE)).summary
    pattern = Pattern.read(EXAMPLE / "size_05nm.xye", axis="two_theta", wavelength=WAVELENGTH,
                           sigma="column", range=(4, 25))
    dots = qd(particle=Parallelepiped(L_ab=(7, 1), L_c=(7, 1)), termination=(0, 0.5, 0.5))
    found = refine(pattern, Model(dots, background=8), content["refinement"]["stages"])
    assert found.values == {name: row.value for name, row in document.parameters.items()}
    assert found.su == {name: row.su for name, row in
                        (document.parameters | document.linear).items() if row.su is not None}
    assert found.gof == document.agreement.gof and found.converged


def test_a_written_document_reproduces_the_result(tmp_path, measured, fit):
    """The document of to_document repeats refinement and map, and SHA-256 of document and files."""
    path = fit.to_document(tmp_path / "refine")
    again = run_refine(build(load_document(path), path.parent)).summary
    assert fit.values == {name: row.value for name, row in again.parameters.items()}
    assert fit.result.summary.document_sha256 == again.document_sha256
    assert fit.result.summary.data == again.data
    found = scan(measured, fit.model, {"CsPbBr3.a": [8.19, 8.2, 8.21]})
    path = found.to_document(tmp_path / "scan")
    built = build(load_document(path), path.parent)
    assert_array_equal(run_scan(built).arrays["scan/chi2"], found.chi2)
    with pytest.raises(ValueError, match=r"contains pattern.xye, .*nothing was written.*another"):
        found.to_document(tmp_path / "scan")


def test_a_simulation_equals_that_of_its_document(tmp_path):
    atoms = Phase("dimer", (["Pb", "Br"], [[0, 0, 0], [0, 0, 10 / 3]]), ions={"Br": "Br1-"},
                  B_iso={"Pb": 1.0, "Br": 2.0})
    model = Model([qd(particle=QuasiCube(L=(3.0, 0.3)), B_iso={"Br": 2.5}), atoms],
                  scales={"dimer": 300.0})
    angles = np.arange(3.0, 20.0, 0.25)
    options = {"wavelength": WAVELENGTH, "axis": "two_theta", "polarisation": "unpolarised"}
    path = to_document(tmp_path, angles, model, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["CsPbBr3.cif", "dimer.xyz", "model.yaml"]
    document = run_simulate(build(load_document(path), tmp_path)).arrays["pattern/calculated"]
    assert_allclose(simulate(angles, model, **options), document, rtol=1e-10)


def test_the_command_reads_a_written_document(tmp_path, measured, shifted):
    path = to_document(tmp_path, measured, shifted, stages=STAGES)
    done = subprocess.run([sys.executable, "-m", "aiida_dse.cli.engine", "validate", str(path)],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "The document is valid." in done.stdout, done.stderr


def test_blanks_and_backgrounds_agree_with_documents(tmp_path, measured):
    air = Pattern(np.linspace(0.5, 9.5, 50), np.linspace(90, 60, 50), "counts",
                  wavelength=WAVELENGTH)
    model = Model(qd(), background=Background(chebyshev=2, inverse_q=[4], blanks={"air": air}),
                  constraints={"CsPbBr3.Br_ax.B_iso": "CsPbBr3.Br_eq.B_iso"},
                  restraints=[{"distance": ("Pb", "Br_eq"), "target": 2.96, "sigma": 0.02}])
    found = refine(measured, model, ["CsPbBr3.a", "CsPbBr3.Br_*"])
    names = ["background.chebyshev_0", "background.chebyshev_1", "background.inverse_q4",
             "blank.air", "CsPbBr3.scale"]
    assert list(found.linear) == names
    assert found.values["CsPbBr3.Br_ax.B_iso"] == found.values["CsPbBr3.Br_eq.B_iso"]
    assert "restraint" in str(found) and found.result.summary.restraints
    assert_allclose(sum(found.components.values()), found.calculated, rtol=1e-9)
    assert (tmp_path / "b" / "blank_air.xye") in found.to_document(tmp_path / "b").parent.iterdir()


# --- structures ----------------------------------------------------------------------------------


def sites():
    return [Site("Cs", "Cs", (0.992, 0.535, 0.75), 1.0, 2.0),
            Site("Pb", "Pb", (0, 0, 0.5), 1.0, 1.0),
            Site("Br_ax", "Br", (0.05, -0.005, 0.75), 1.0, 2.0),
            Site("Br_eq", "Br", (0.2908, 0.2120, 0.486), 1.0, 2.0)]


def ase_atoms():
    ase = pytest.importorskip("ase")
    crystal = as_crystal(CIF)
    of = [crystal.sites[k] for k in crystal.site_of_atom]
    atoms = ase.Atoms([site.ion for site in of], scaled_positions=crystal.positions(),
                      cell=[8.20, 8.30, 11.74], pbc=True)
    atoms.new_array("label", np.array([site.label for site in of]))
    return atoms


def pymatgen_structure():
    return pytest.importorskip("pymatgen.core").Structure.from_file(CIF)


SOURCES = {
    "text": CIF.read_text,
    "string path": lambda: str(CIF),
    "pymatgen": pymatgen_structure,
    "ase": ase_atoms,
    "gemmi": lambda: gemmi.read_small_structure(str(CIF)),
    "sites": lambda: crystal_from_sites((8.20, 8.30, 11.74), sites(), space_group="P b n m"),
    "operations": lambda: crystal_from_sites((8.20, 8.30, 11.74, 90, 90, 90), sites(),
                                             space_group=as_crystal(CIF).operations),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_of_a_crystal_yields_the_same_pattern(name):
    b = {"Cs": 2.0, "Pb": 1.0, "Br_ax": 2.0, "Br_eq": 2.0}
    phase = qd(SOURCES[name](), B_iso=b)
    assert {site.label for site in phase.structure.sites} == set(b)
    expected = simulate(Q, qd(), wavelength=WAVELENGTH)
    assert_allclose(simulate(Q, phase, wavelength=WAVELENGTH), expected, rtol=1e-9)


def test_every_source_of_a_list_of_atoms_yields_the_same_pattern(tmp_path):
    positions = np.random.default_rng(3).normal(size=(12, 3)) * 4
    labels = ["Pb", "Br"] * 6
    text = "12\n\n" + "\n".join(f"{label} {x!r} {y!r} {z!r}" for label, (x, y, z)
                                in zip(labels, positions.tolist(), strict=True))
    (tmp_path / "a.xyz").write_text(text)
    sources = [(labels, positions), text, tmp_path / "a.xyz",
               pytest.importorskip("pymatgen.core").Molecule(labels, positions)]
    if "ase" in sys.modules:
        sources.append(sys.modules["ase"].Atoms(labels, positions))
    found = [simulate(Q, Phase("X", source, B_iso={"Pb": 1, "Br": 2}), wavelength=WAVELENGTH)
             for source in sources]
    for other in found[1:]:
        assert_allclose(other, found[0], rtol=1e-12)


def test_stored_pair_distances_yield_the_same_pattern(tmp_path):
    from aiida_dse.tasks.distances import run_build

    path = to_document(tmp_path, np.linspace(0.8, 9.0, 50), qd(), wavelength=WAVELENGTH)
    run_build(build(load_document(path), tmp_path), tmp_path)
    stored = qd(next(tmp_path.glob("*.h5")), None)
    q = np.linspace(0.8, 9.0, 50)
    assert_allclose(simulate(q, stored, wavelength=WAVELENGTH),
                    simulate(q, qd(), wavelength=WAVELENGTH), rtol=1e-5)
    again = to_document(tmp_path / "new", q, stored, wavelength=WAVELENGTH)
    assert build(load_document(again), again.parent).model.phases[0].name == "CsPbBr3"


def test_the_centre_of_a_sphere_is_a_site_or_a_point():
    label, point = (
        simulate(Q, qd(particle=Sphere(D=(3.2, 0.4), centre=centre)), wavelength=WAVELENGTH)
        for centre in ("Pb", (0, 0, 0.5)))
    assert_array_equal(label, point)


# --- results -------------------------------------------------------------------------------------


def test_parts_add_up_and_axes_in_all_units_agree():
    model = Model([qd(), Phase("bulk", CIF, Parallelepiped(cells=(4, 4, 3)))], scales={"bulk": 0.5})
    whole = simulate(Q, model, wavelength=WAVELENGTH)
    assert whole.shape == Q.shape
    for parts in ("phases", "sites"):
        found = simulate(Q, model, wavelength=WAVELENGTH, parts=parts)
        assert_allclose(sum(found.values()), whole, rtol=1e-12)
    assert "bulk.Pb-Br_eq" in found and len(found) == 20
    nm = simulate(10 * Q, model, wavelength=WAVELENGTH, axis="q_inverse_nm")
    two_theta = np.degrees(2 * np.arcsin(Q * WAVELENGTH / (4 * np.pi)))
    angle = simulate(two_theta, model, wavelength=WAVELENGTH, axis="two_theta")
    assert_allclose(nm, whole, rtol=1e-9)
    assert_allclose(angle, whole, rtol=1e-9)


def test_a_partial_pattern_is_the_debye_sum_over_its_pairs():
    """For two atoms: f_Pb f_Br exp(-...) 2 sin(qr)/(qr), and the self-scattering."""
    atoms = Phase("X", (["Pb", "Br"], [[0, 0, 0], [0, 0, 3.0]]), B_iso={"Pb": 1.0, "Br": 2.0})
    parts = simulate(Q, atoms, wavelength=WAVELENGTH, parts="sites")
    cross = np.sqrt(parts["X.Pb-Pb"] * parts["X.Br-Br"])
    expected = 2 * np.sinc(3 * Q / np.pi) * np.exp(-3.0 * Q**2 / (16 * np.pi**2))
    assert_allclose(parts["X.Pb-Br"] / cross, expected, atol=2e-3)  # f'' differs by a phase


def test_a_refinement_has_numbers_arrays_and_a_table(fit, measured):
    assert fit.converged and fit.gof == pytest.approx(1, abs=0.2) and fit.warnings == []
    assert fit.values["CsPbBr3.a"] == pytest.approx(8.2, abs=5 * fit.su_scaled["CsPbBr3.a"])
    assert fit.su_scaled["CsPbBr3.a"] == max(1, fit.gof) * fit.su["CsPbBr3.a"]
    assert_array_equal(fit.q, measured.measured.q)
    assert_allclose(np.sum(fit.residual**2), fit.agreement.chi2)
    names, matrix = fit.covariance
    k = names.index("CsPbBr3.a")
    assert matrix[k, k] == pytest.approx(fit.su["CsPbBr3.a"] ** 2)
    assert fit.derived["CsPbBr3.volume"].value == pytest.approx(np.prod(
        [fit.values[f"CsPbBr3.{edge}"] for edge in "abc"]))
    assert fit.crystals["CsPbBr3"].cell.a == pytest.approx(fit.values["CsPbBr3.a"])
    for text in (str(fit), repr(fit)):
        assert "refine: converged" in text and "CsPbBr3.a  " in text and "GoF" in text
    assert fit.plot()._repr_png_()[:4] == b"\x89PNG"


def test_further_analyses_start_at_the_refined_values(fit, measured):
    again = evaluate(measured, fit.model)
    assert again.values == fit.values
    # compare chi2, since an evaluation has more degrees of freedom than the refinement
    assert again.agreement.chi2 == pytest.approx(fit.agreement.chi2)
    found = scan(measured, fit.model, {"CsPbBr3.a": np.linspace(8.196, 8.204, 5),
                                       "CsPbBr3.Pb.B_iso": [0.8, 1.0, 1.2]}, refine=["CsPbBr3.b"])
    assert found.gof.shape == (5, 3) == found.refined["CsPbBr3.b"].shape
    assert list(found.axes) == ["CsPbBr3.a", "CsPbBr3.Pb.B_iso"]
    assert found.minimum["gof"] == np.nanmin(found.gof)
    assert found.quantities["CsPbBr3.volume"].shape == (5, 3)
    assert found.model.parameters["CsPbBr3.a"]["value"] == found.minimum["CsPbBr3.a"]
    assert "grid 5 x 3" in repr(found) and found.plot()._repr_png_()


def test_weights_are_those_of_the_document(measured, shifted):
    observed, calculated = (refine(measured, shifted, ["*.a"], weights=weights)
                            for weights in ("observed", "calculated"))
    assert calculated.result.summary.document["refinement"]["weights"] == "calculated"
    assert not np.array_equal(calculated.sigma, observed.sigma)
    with pytest.raises(ValueError, match="weights"):
        refine(measured, shifted, ["*.a"], weights="equal")


def test_an_angle_can_be_the_axis_of_a_map():
    phase = qd(angles=[("Pb", "Br_eq", "Pb")], distances=[("Pb", "Br_eq")])
    pattern = noisy(phase)
    axis = {"quantity": "CsPbBr3.angle(Pb-Br_eq-Pb)_1",
            "vary": ["CsPbBr3.Br_eq.x", "CsPbBr3.Br_eq.y"],
            "hold": ["CsPbBr3.d(Pb-Br_eq)_1"], "values": np.array([160.0, 161.0, 162.0])}
    found = scan(pattern, Model(phase, background=1), [axis])
    assert np.isfinite(found.gof).all() and found.gof.shape == (3,)
    assert found.quantities["CsPbBr3.angle(Pb-Br_eq-Pb)_1"] == pytest.approx([160, 161, 162])


def test_results_are_saved_as_by_the_command(fit, tmp_path):
    from aiida_dse.io.results import read_result

    read = read_result(fit.save(tmp_path / "out"))
    assert read.summary == fit.result.summary
    assert_array_equal(read.arrays["pattern/calculated"], fit.calculated)


def test_the_api_requires_no_aiida():
    code = (
        "import sys, numpy as np\n"
        "from aiida_dse import Parallelepiped, Phase, simulate\n"
        f"dot = Phase('P', {str(CIF)!r}, Parallelepiped(cells=(2, 2, 2)))\n"
        "assert simulate(np.linspace(1, 5, 9), dot, wavelength=0.6).min() > 0\n"
        "assert not {'aiida', 'plumpy', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- wrong inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("make, message", [
    (lambda: Parallelepiped(), "needs either 'cells"),
    (lambda: Parallelepiped(cells=(2, 2, 2), L_ab=(5, 1)), "needs either 'cells"),
    (lambda: Parallelepiped(L_ab=5.0, L_c=(5, 1)),
     r"L_ab = 5.0 is not a size distribution; .*L_ab=\(5.0, 0.7\)"),
    (lambda: QuasiCube(L=(5, -1)), "L.sd = -1.0: .*greater than 0"),
    (lambda: Sphere(D=-3.0), "D"),
    (lambda: Phase("X", "nowhere.cif", SMALL), "phase X: nowhere.cif cannot be read"),
    (lambda: Phase("X", CIF), "phase X: .*a 'structure' needs a 'particle'|needs a 'particle'"),
    (lambda: Phase("X", 3, SMALL), "phase X: X: int is no crystal; a crystal is a CIF"),
    (lambda: Phase("X", ["Pb", "Br"]), "is no list of atoms"),
    (lambda: Phase("X", (["Pb", "Br"], [[0, 0, 0]])), r"2 labels and positions of shape \(1, 3\)"),
    (lambda: crystal_from_sites((4, 4, 5), [Site("A", "Pb", (0, 0, 0))], space_group="P m -3 m"),
     "symmetry operations require it to equal a"),
    (lambda: crystal_from_sites((4, 4, 4), [Site("A", "Pb", (0, 0, 0))], space_group="Pmmmm"),
     "space group 'Pmmmm' is unknown"),
    (lambda: crystal_from_sites((4, 4), []), "the cell has 2 numbers"),
    (lambda: crystal_from_sites((4, 4, 4), [Site("A.1", "Pb", (0, 0, 0))]), "Rename the site"),
    (lambda: Model([qd(), qd()]), "two phases are called 'CsPbBr3'"),
    (lambda: Pattern(Q, Q[:-1], "counts", wavelength=1.0), "arrays have the shapes"),
    (lambda: Pattern(Q, Q, Q * 0, wavelength=1.0),
     "the arrays: sigma contains no standard uncertainties"),
    (lambda: Pattern(Q[::-1], Q, Q, wavelength=1.0), "the arrays, index 1: the axis is not increasing"),
    (lambda: Pattern(Q, Q, "roughly", wavelength=1.0), "sigma: 'roughly' is unknown"),
    (lambda: Pattern(Q * 10, Q, Q, wavelength=1.0), "If q is in 1/nm"),
    (lambda: Pattern(Q, Q, Q, wavelength=1.0, axis="d"), "the axis 'd' is unknown; use one of"),
    (lambda: simulate(Q, qd(), wavelength=30.0), "backscattering"),
    (lambda: simulate([Q], qd(), wavelength=1.0), r"the axis has the shape \(1, 120\)"),
    (lambda: simulate(Q[::-1], qd(), wavelength=1.0), "increase from point to point"),
    (lambda: simulate(Q, qd(), wavelength=1.0, parts="atoms"), "parts is 'atoms'"),
    (lambda: simulate(Q, Model(qd(), parameters={"CsPbBr3.aa": 8}), wavelength=1.0),
     "no parameter 'CsPbBr3.aa'.*did you mean CsPbBr3.a"),
    (lambda: simulate(Q, Model(qd(), scales={"CsPb": 2}), wavelength=1.0),
     "names the phase 'CsPb'"),
    (lambda: simulate(Q, qd(B_iso={"I": 2}), wavelength=1.0),
     "'I' is neither a site nor an element"),
    (lambda: to_document("x", Q, qd(), wavelength=1.0), "not equally spaced. Use np.linspace"),
    (lambda: to_document("x", Q, qd()), "needs the wavelength"),
])
def test_invalid_inputs_are_refused_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


@pytest.mark.parametrize("stages, message", [
    (["CsPbBr3.Pb.x"], "special position"),
    (["CsPbBr3.z"], "no parameter 'CsPbBr3.z'"),
    (["CsPbBr3.a", ["CsPbBr3.b"]], "mixes names and lists"),
    ([], "stages is empty"),
])
def test_invalid_stages_are_refused(measured, stages, message):
    with pytest.raises(ValueError, match=message):
        refine(measured, qd(), stages)


def test_a_wrong_wavelength_is_refused_unless_confirmed():
    right = noisy(qd(particle=Parallelepiped(cells=(6, 6, 4))), q=np.linspace(0.8, 9, 800))
    wrong = Pattern(right.measured.q * 1.1, right.intensity, "counts", wavelength=WAVELENGTH)
    with pytest.raises(ValueError, match="the observed Bragg peaks match CsPbBr3 only if"):
        refine(wrong, Model(qd(), background=1), ["CsPbBr3.a"])


def test_models_of_equal_input_are_memoised():
    from aiida_dse.api.analyses import _points
    from aiida_dse.api.model import as_model, simulated_inputs

    section = {"file": "pattern.xye", "axis": "q_inverse_angstrom", "wavelength": WAVELENGTH}
    first, second = (
        simulated_inputs(as_model(qd()), section, _points(Q, "q_inverse_angstrom", WAVELENGTH))
        for _ in range(2))
    assert first.built() is second.built()


# --- the documentation ---------------------------------------------------------------------------


def blocks(path, heading=None):
    """The python code blocks of a Markdown file, or of one of its sections."""
    text = path.read_text(encoding="utf-8")
    if heading is not None:
        text = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize("path, heading", [
    ("docs/api.md", None), ("README.md", "In a notebook, without AiiDA")])
def test_the_code_of_the_documentation_runs(path, heading, tmp_path, monkeypatch, capsys):
    for file in (CIF, EXAMPLE / "size_05nm.xye"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / path, heading)
    assert found
    names: dict = {}
    for number, block in enumerate(found):
        exec(compile(block, f"{path}, block {number + 1}", "exec"), names)
    assert names["fit"].converged and (tmp_path / "qd5" / "model.yaml").is_file()
