"""Speed of the engine beside the bare loop and, where installed, DebyeCalculator.

Everything is measured in one run on this machine; a row shows what was computed, how long it took
(median of the repeats after one warm-up) and the ratio to the bare sqrt loop over the same
distances, or to the peer. `make benchmark`.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import disorder
import gemmi
import numpy as np
from numba import njit

from aiida_dse.documents import load_document, parse_document
from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.engine.fit.posterior import sample_posterior
from aiida_dse.engine.fit.refine import default_stages, refine
from aiida_dse.engine.maps.axes import Axis
from aiida_dse.engine.maps.scan import scan
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.particles.cell_spheres import CellSpherePopulation
from aiida_dse.engine.particles.parallelepipeds import ParallelepipedPopulation, SingleParallelepiped
from aiida_dse.engine.particles.spheres import SpherePopulation
from aiida_dse.engine.resources import Resources
from aiida_dse.engine.scattering import debye
from aiida_dse.io.results import write_result
from aiida_dse.io.structures import read_cif
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine, run_scan

EXAMPLE = Path(__file__).parent.parent / "examples" / "cspbbr3"
SERIES = Path(__file__).parent.parent.parent / "shared" / "data" / "cspbbr3_debussy" / "size"
Q = np.linspace(0.5, 20, 4000)


@njit(cache=True, fastmath=True)
def bare_loop(cells, positions, edges):
    """sqrt over the distances of all difference vectors of a parallelepiped: the least one could do."""
    total = 0.0
    for i in range(len(positions)):
        for j in range(i, len(positions)):
            dx, dy, dz = positions[j] - positions[i]
            for u in range(1 - cells[0], cells[0]):
                for v in range(1 - cells[1], cells[1]):
                    base = ((u + dx) * edges[0]) ** 2 + ((v + dy) * edges[1]) ** 2
                    for w in range(1 - cells[2], cells[2]):
                        total += np.sqrt(base + ((w + dz) * edges[2]) ** 2)
    return total


def timed(work: Callable[[], object], repeats: int = 5) -> float:
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def row(what: str, seconds: float, limit: str = "", other: str = "") -> None:
    print(f"{what:58} {seconds * 1e3:11.1f} ms   {limit:12} {other}", flush=True)


def single(cells: tuple[int, int, int]) -> tuple[CrystalPhase, Sampling, dict[str, float]]:
    phase = CrystalPhase("p", read_cif(EXAMPLE / "CsPbBr3.cif"), SingleParallelepiped(cells), {})
    return phase, Sampling(Q, 0.56456, resources=Resources.from_environment()), phase.start


def single_particles() -> None:
    for cells in ((6, 6, 4), (11, 11, 8), (24, 24, 17)):
        phase, sampling, values = single(cells)
        factors = phase.pair_factors(sampling)

        def pattern(phase=phase, sampling=sampling, values=values, factors=factors):
            state = phase.state(values, sampling)
            occupancy, b_iso = phase.occupancy_and_b(values)
            return debye.debye_intensity(
                state.sums, factors, state.atoms, occupancy, b_iso, sampling.q
            )

        engine = timed(pattern)
        cell = phase.crystal.cell
        places, edges = phase.crystal.positions(), np.array([cell.a, cell.b, cell.c])
        bare = timed(lambda c=cells, x=places, e=edges: bare_loop(np.array(c), x, e))
        atoms = 20 * cells[0] * cells[1] * cells[2]
        limit = "limit 200 ms" if atoms > 1e5 else ""
        row(f"pattern of {atoms:,} atoms at 4000 q", engine, limit,
            f"bare loop (1 thread) {bare * 1e3:.1f} ms: {engine / bare:.2f} times that")
        debye_calculator(phase.crystal, cells, engine)


def debye_calculator(crystal, cells, engine: float) -> None:
    if 20 * cells[0] * cells[1] * cells[2] > 30_000:
        return
    try:
        from debyecalculator import DebyeCalculator
    except ImportError:
        print("  (DebyeCalculator or its torch is not installed: no comparison)")
        return
    from aiida_dse.engine.scattering.form_factors import element_of

    grid = np.stack(np.meshgrid(*[np.arange(n) for n in cells], indexing="ij"), -1).reshape(-1, 3)
    places = (grid[:, None] + crystal.positions()).reshape(-1, 3) @ crystal.cell.matrix.T
    elements = [element_of(crystal.sites[s].ion) for s in crystal.site_of_atom] * len(grid)
    with tempfile.NamedTemporaryFile("w", suffix=".xyz", delete=False) as file:
        file.write(f"{len(places)}\n\n")
        for element, place in zip(elements, places, strict=True):
            file.write(f"{element} {place[0]:.6f} {place[1]:.6f} {place[2]:.6f}\n")
    calculator = DebyeCalculator(
        qmin=0.5, qmax=20, qstep=19.5 / 4000, biso=1.0, device="cpu", rthres=0.0
    )
    peer = timed(lambda: calculator.iq(file.name), repeats=1)
    row("  DebyeCalculator, same atoms", peer, "", f"{peer / engine:.0f} times the engine's time")


def population() -> None:
    crystal = read_cif(EXAMPLE / "CsPbBr3.cif")
    sampling = Sampling(Q, 0.56456, resources=Resources.from_environment())
    phase = CrystalPhase("p", crystal, ParallelepipedPopulation(),
                         {"L_ab": 5.0, "sd_ab": 0.7, "L_c": 5.1, "sd_c": 0.8, "size_axes_rotation": 0.0})
    values = phase.start
    row("population at 5 nm, one evaluation", timed(lambda: phase.state(values, sampling), 9),
        "limit 20 ms")


def refinement() -> None:
    for size, limit in (("05", ""), ("09", "limit 15 s"), ("11", "")):
        file = SERIES / f"size_{size}nm.xye"
        if not file.exists():
            print(f"  (no {file.name} here: refinement not timed)")
            continue
        content = load_document(EXAMPLE / "refine.yaml").canonical()
        content["pattern"]["file"] = str(file.resolve())
        built = build(parse_document(content), EXAMPLE)
        begin = time.perf_counter()
        result = run_refine(built)
        fit = result.summary.agreement
        row(f"18-parameter refinement, {size} nm, from bulk-like start",
            time.perf_counter() - begin, limit,
            f"GoF {fit.gof:.4f}, {result.summary.n_evaluations} evaluations")


def map_content() -> dict:
    content = load_document(EXAMPLE / "refine.yaml").canonical()
    content["phases"]["CsPbBr3"]["particle"] = {
        "shape": "parallelepiped", "L_ab": {"mean": 5.0, "sd": 0.7}, "L_c": {"mean": 5.1, "sd": 0.8}}
    content["parameters"] = {"CsPbBr3.a": 8.207, "CsPbBr3.b": 8.407, "CsPbBr3.c": 11.756}
    return content


def map_axes() -> list[Axis]:
    return [Axis("CsPbBr3.Br_eq.x", np.linspace(0.27, 0.31, 100)),
            Axis("CsPbBr3.Br_eq.y", np.linspace(0.19, 0.23, 100)),
            Axis("CsPbBr3.Br_eq.B_iso", np.linspace(1.0, 3.0, 11))]


def compared_maps() -> float:
    """Interpolated maps against the same maps point by point; seconds of the first one."""
    first = compared_map("10 000-point Br_eq map x 11 B, 5 nm", map_content(), map_axes(), "limit 1.5 s")
    file = SERIES / "size_09nm.xye"
    if not file.exists():
        print(f"  (no {file.name} here: the map of a and b is not timed)")
        return first
    content = map_content()
    content["pattern"]["file"] = str(file)
    content["phases"]["CsPbBr3"]["particle"] = {
        "shape": "parallelepiped", "L_ab": {"mean": 9.0, "sd": 0.7}, "L_c": {"mean": 9.1, "sd": 0.8}}
    compared_map("100 x 100 map of a x b, 9 nm", content, [
        Axis("CsPbBr3.a", 8.207 + np.linspace(-0.05, 0.05, 100)),
        Axis("CsPbBr3.b", 8.407 + np.linspace(-0.05, 0.05, 100))], "")
    return first


def compared_map(what: str, content: dict, axes: list[Axis], limit: str) -> float:
    model = build(parse_document(content), EXAMPLE).model
    resources = Resources.from_environment()
    scan(model, [replace(axis, values=axis.values[::9]) for axis in axes], resources=resources)
    found = scan(model, axes, resources=resources)
    exact = scan(model, axes, resources=resources, direct=True)
    row(what, found.seconds, limit, f"point by point {exact.seconds:.1f} s: "
        f"{exact.seconds / found.seconds:.0f} times that (at least 20); largest difference of GoF "
        f"{np.abs(found.gof / exact.gof - 1).max():.0e} (limit 1e-6)")
    return found.seconds


def four_axes() -> None:
    """1.27 million points of Br_eq x, y, z and B in a process of its own, with its peak memory."""
    run = subprocess.run([sys.executable, __file__, "--four-axes"], check=True, capture_output=True,
                         text=True)
    seconds, megabytes, stored, error = map(float, run.stdout.split())
    row("61 x 61 x 31 x 11 map of Br_eq x, y, z, B", seconds, "limit 60 s",
        f"{megabytes:.0f} MB of memory (limit 2000), {stored:.1f} MB stored (limit 30), largest "
        f"difference of GoF at the checked points {error:.0e} (limit 1e-6)")


def largest_map() -> None:
    axes = [("x", 0.27, 0.31, 61), ("y", 0.19, 0.23, 61), ("z", 0.46, 0.51, 31), ("B_iso", 1.0, 3.0, 11)]
    content = map_content()
    content["scan"] = {"axes": [
        {"parameter": f"CsPbBr3.Br_eq.{name}", "values": np.linspace(low, high, n).tolist()}
        for name, low, high, n in axes]}
    begin = time.perf_counter()
    result = run_scan(build(parse_document(content), EXAMPLE), resources=Resources.from_environment())
    seconds = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        write_result(result, Path(folder))
        stored = sum(file.stat().st_size for file in Path(folder).iterdir())
    print(seconds, peak_memory(), stored / 1e6, result.summary.interpolation.error)


def all_nodes() -> list[int]:
    from aiida.orm import Node, QueryBuilder

    return QueryBuilder().append(Node, project="id").all(flat=True)


def added_since(before: list[int]) -> tuple[int, int]:
    """The number of new nodes, and the bytes of their attributes and files."""
    from aiida.orm import Node, QueryBuilder

    added = QueryBuilder().append(Node, filters={"id": {"!in": before}}).all(flat=True)
    held = sum(len(json.dumps(one.base.attributes.all)) for one in added)
    return len(added), held + sum(
        one.base.repository.get_object_size(name) for one in added
        for name in one.base.repository.list_object_names())


def grid_through_aiida(engine_seconds: float) -> None:
    """The same map through the daemon, in a profile of its own below AIIDA_PATH."""
    if "AIIDA_PATH" not in os.environ:
        print("  (AIIDA_PATH is not set: the map is not run through the daemon. 'make benchmark')")
        return
    from aiida_dse.cli.setup import setup

    setup(["--profile", "dse-benchmark"], standalone_mode=False)
    from aiida.engine.daemon.client import get_daemon_client

    from aiida_dse.cli.launching import launch_map
    from aiida_dse.cli.submission import Settings

    document = Path(tempfile.mkdtemp(prefix="dse-benchmark-")) / "map.yaml"
    content = map_content()
    for section, key in ((content["pattern"], "file"),
                         (content["phases"]["CsPbBr3"], "structure")):
        section[key] = str((EXAMPLE / section[key]).resolve())
    # a start of its own, so that no earlier benchmark's tiles are found in the cache
    content["parameters"]["CsPbBr3.c"] += 1e-12 * (time.time_ns() % 1_000_000)
    document.write_text(json.dumps(content))
    try:
        before = all_nodes()
        begin = time.perf_counter()
        launch_map(document, axes=[f"{a.parameter}={a.values[0]}:{a.values[-1]}:"
                                   f"{a.values[1] - a.values[0]:.12g}" for a in map_axes()],
                   settings=Settings("dse-engine@localhost", "standard", walltime=3600,
                                     threads=1, dry_run=False, wait=True))
        seconds = time.perf_counter() - begin
        nodes, stored = added_since(before)
    finally:
        get_daemon_client("dse-benchmark").stop_daemon(wait=True)
    row("the same map through the daemon", seconds,
        f"limit {engine_seconds + 12:.0f} s", f"{nodes} nodes (limit 15), {stored / 1e6:.1f} MB (limit 5)")


def posterior() -> None:
    """Steps of the posterior of the 18-parameter fit, approximated and with exact patterns."""
    content = load_document(EXAMPLE / "refine.yaml").canonical()
    model = build(parse_document(content), EXAMPLE).model
    best, resources = refine(model, default_stages(model)), Resources.from_environment()
    found = sample_posterior(model, best, 300, resources=resources)
    exact = sample_posterior(model, best, 60, resources=resources, direct=True)
    ratio = exact.seconds / 60 * 300 / found.seconds
    row("posterior of 18 parameters, 300 steps", found.seconds, "", f"exact patterns take {ratio:.0f} times "
        f"that (at least 5); error of log p at {found.approximation.n_checked} samples "
        f"{found.approximation.error:.3f} (limit 0.05)")


def spheres() -> None:
    """PbS spheres with a mean of 10 nm and an SD of 2 nm: a pattern after the first one."""
    operations = tuple(op.triplet() for op in gemmi.SpaceGroup("F m -3 m").operations())
    crystal = Crystal(Cell(5.936, 5.936, 5.936), operations, (
        Site("Pb", "Pb2+", (0, 0, 0), 1.0, 1.3), Site("S", "S", (0.5, 0.5, 0.5), 1.0, 0.9)), "PbS")
    sampling = Sampling(Q, 0.56456, resources=Resources.from_environment())
    for what, family in (("atoms", SpherePopulation()), ("whole cells", CellSpherePopulation())):
        phase = CrystalPhase("p", crystal, family, {"D": 10.0, "sd_D": 2.0})
        sizes = iter(10.0 + 1e-3 * np.arange(9))

        def pattern(phase=phase, sizes=sizes):
            phase.state(phase.start | {"D": next(sizes)}, sampling)

        row(f"population of spheres at 10 nm, SD 2 nm, {what}", timed(pattern), "limit 100 ms")


def jobs() -> None:
    """A whole job, with the compiler's cache empty and filled."""
    with tempfile.TemporaryDirectory() as cache:
        for what in ("first job ever (compiles)", "every later job"):
            begin = time.perf_counter()
            command = ["-m", "aiida_dse.cli.engine", "simulate", str(EXAMPLE / "refine.yaml"),
                       "-o", str(Path(cache) / "out")]
            subprocess.run([sys.executable, *command], check=True, capture_output=True,
                           env=os.environ | {"NUMBA_CACHE_DIR": str(Path(cache) / "numba")})
            row(f"dse-engine simulate, {what}", time.perf_counter() - begin)


def memory() -> None:
    """Peak memory of a process that computes the largest pattern and nothing else."""
    if not Path("/proc/self/status").exists():
        return
    run = subprocess.run([sys.executable, __file__, "--memory"], check=True, capture_output=True,
                         text=True)
    print(f"{'peak memory, 195,840 atoms at 4000 q, libraries included':58} "
          f"{float(run.stdout):11.0f} MB   limit 500 MB")


def largest_pattern() -> None:
    phase, sampling, values = single((24, 24, 17))
    phase.state(values, sampling)
    print(peak_memory())


def peak_memory() -> float:
    """Peak memory of this process in MB, nan where the system does not report it."""
    # getrusage would count the memory of the parent that started this process
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else float("nan")


if __name__ == "__main__":
    if "--memory" in sys.argv:
        largest_pattern()
        sys.exit()
    if "--four-axes" in sys.argv:
        largest_map()
        sys.exit()
    threads = Resources.from_environment().threads
    print(f"{threads} threads, numpy {np.__version__}, Python {sys.version.split()[0]}")
    single_particles()
    memory()
    population()
    refinement()
    grid_through_aiida(compared_maps())
    four_axes()
    posterior()
    spheres()
    disorder.main()
    jobs()
