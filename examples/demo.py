"""The demo: refine a 5 nm CsPbBr3 pattern and map its goodness of fit, all through the daemon.

The pattern is synthetic (DebUsSy 2.2); the values it was made with are printed beside the result.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
from aiida_dse.documents.results import RefinementSummary

HERE = Path(__file__).parent / "cspbbr3"
OUTPUT = Path(os.environ.get("DSE_DEMO_OUTPUT", ".dse/demo"))
DOCUMENT = HERE / "refine.yaml"
PHASE = "CsPbBr3"


def main() -> None:
    from aiida_dse.cli.setup import setup

    begin = time.monotonic()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    title("1. Profile (SQLite + ZeroMQ broker), computer, code, daemon")
    setup(["--profile", "dse-demo"], standalone_mode=False)

    from aiida_dse.cli.launching import launch_map, launch_refinement
    from aiida_dse.cli.showing import analysis_result, plot_analysis
    from aiida_dse.cli.submission import Settings

    settings = Settings("dse-engine@localhost", "standard", walltime=600, threads=None,
                        dry_run=False, wait=True)
    title("2. Import the synthetic 5 nm pattern")
    pattern = import_pattern()
    title("3. Refine 18 parameters from bulk-like starting values")
    refinement = launch_refinement(DOCUMENT, settings, pattern_node=pattern)
    _, result = analysis_result(str(refinement))
    compare(result.summary)

    values = {name: row.value for name, row in result.summary.parameters.items()}
    common = {"pattern_node": pattern, "start_from": str(refinement)}
    title("4. Map of the cell edges a x b")
    cell_map = launch_map(DOCUMENT, settings, axes=tuple(
        axis(f"{PHASE}.{edge}", round(values[f"{PHASE}.{edge}"], 2), 0.05, 0.01)
        for edge in "ab"
    ), **common)
    title("5. Map of Br_eq x, y and B_iso")
    bromine_map = launch_map(DOCUMENT, settings, axes=(
        axis(f"{PHASE}.Br_eq.x", round(values[f"{PHASE}.Br_eq.x"], 3), 0.02, 0.002),
        axis(f"{PHASE}.Br_eq.y", round(values[f"{PHASE}.Br_eq.y"], 3), 0.02, 0.002),
        axis(f"{PHASE}.Br_eq.B_iso", 2.0, 1.0, 0.2),
    ), **common)
    title("6. Figures")
    for pk, name in ((refinement, "fit"), (cell_map, "map_ab"), (bromine_map, "map_br")):
        plot_analysis(str(pk), OUTPUT / f"{name}.png")
    title(f"Done in {time.monotonic() - begin:.0f} s. Try next (in the demo's own AiiDA folder)")
    prefix = f"AIIDA_PATH={os.environ.get('AIIDA_PATH', '')} {Path(sys.executable).parent}"
    print(f"{prefix}/aiida-dse -p dse-demo list")
    print(f"{prefix}/aiida-dse -p dse-demo show {refinement}")
    print(f"{prefix}/verdi -p dse-demo process status {bromine_map}")


def import_pattern() -> str:
    """Store the pattern; the identifier of its node."""
    from aiida_dse.data.jobs import nodes_of_document
    from aiida_dse.data.same_content import stored_node_of_same_content
    from aiida_dse.documents import load_document

    node = nodes_of_document(load_document(DOCUMENT), HERE).pattern
    node = stored_node_of_same_content(node).store()
    facts = node.base.attributes
    print(f"PatternData<{node.pk}>: {facts.get('n_points')} points, q = {facts.get('q_min'):.3f} "
          f"... {facts.get('q_max'):.2f} 1/Å, {facts.get('tags')}")
    return str(node.pk)


def axis(name: str, centre: float, half_width: float, step: float) -> str:
    return f"{name}={centre - half_width:.4f}:{centre + half_width:.4f}:{step}"


def compare(summary: RefinementSummary) -> None:
    """Print the refined values next to those from which the synthetic pattern was computed."""
    from aiida_dse.engine.formatting import with_su

    truth = json.loads((HERE / "truth_05nm.json").read_text())
    given = {f"{PHASE}.{edge}": value for edge, value in zip("abc", truth["cell"], strict=True)}
    for label in ("Cs", "Br_ax", "Br_eq"):
        given |= {f"{PHASE}.{label}.{x}": v for x, v in zip("xyz", truth[label], strict=True)}
    given |= {f"{PHASE}.{label}.B_iso": value for label, value in truth["B"].items()}
    given |= {f"{PHASE}.{name}": truth[name] for name in ("L_ab", "sd_ab", "L_c", "sd_c")}
    a, b, c = truth["cell"]
    edge = 2**0.5 * (a * b * c / 4) ** (1 / 3)
    derived = {
        "volume": a * b * c, "zeta": (a - b) / (2 * edge),
        "d(Pb-Br_eq)_1": truth["d2"], "d(Pb-Br_eq)_2": truth["d1"], "d(Pb-Br_ax)_1": truth["d_ax"],
        "angle(Pb-Br_eq-Pb)_1": truth["angle_eq"], "angle(Pb-Br_ax-Pb)_1": truth["angle_ax"],
    }
    rows = [(name, row, given[name]) for name, row in summary.free.items() if name in given]
    quantities = summary.derived[PHASE].quantities
    rows += [(name, quantities[name], value) for name, value in derived.items()]
    print(f"\n{'':28} {'refined (s.u.)':>16} {'published/truth':>16} {'difference / s.u.':>18}")
    for name, row, value in rows:
        su = summary.scaled(row.su)
        difference = "" if su is None else f"{(row.value - value) / su:.1f}"
        print(f"{name:28} {with_su(row.value, su):>16} {value:16.5g} {difference:>18}")


def title(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    main()
