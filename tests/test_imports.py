"""Imports run one way, and the engine runs where there is no AiiDA."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aiida_dse"
LAYERS = ["engine", "sections", "shapes", "documents", "io", "analysis", "tasks", "report", "api", "data",
          "calculations", "parsers", "workchains", "cli"]
#: The rooms of the engine, in the order in which they import each other.
ENGINE = ["crystal", "particles", "scattering", "measurement", "model", "fit", "maps"]
#: The command of the engine imports the report and what is below it.
WITHOUT_AIIDA = ["engine", "sections", "shapes", "documents", "io", "analysis", "tasks", "report", "api"]


def modules():
    # the work chains are reached through a link, which rglob does not follow
    found = {*PACKAGE.rglob("*.py"), *PACKAGE.glob("workchains/*.py")}
    return sorted(p for p in found if p.relative_to(PACKAGE).parts[0] in LAYERS)


def rooms(path):
    """('engine', 'fit') of aiida_dse/engine/fit/refine.py."""
    return path.relative_to(PACKAGE).parts[:-1]


def dotted(path):
    return ".".join(["aiida_dse", *rooms(path), *([path.stem] * (path.stem != "__init__"))])


def syntax(path):
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imported_from(path):
    """(module, names) of every import, those inside functions included; modules by full name."""
    package = ["aiida_dse", *rooms(path)]
    for node in syntax(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield stem, [alias.name for alias in node.names]


def imported(path):
    """Absolute names of all imports, those inside functions included."""
    for stem, names in imported_from(path):
        yield stem
        if stem == "aiida_dse":
            yield from (f"aiida_dse.{name}" for name in names)


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_a_module_imports_only_its_own_and_lower_layers(path):
    room = rooms(path)
    layer = LAYERS.index(room[0])
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "aiida_dse" and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS.index(parts[1]) <= layer, f"{path.name} imports {name}"
        if room[0] == "engine" and parts[:2] == ["aiida_dse", "engine"] and len(parts) > 2 \
                and parts[2] in ENGINE:
            assert len(room) > 1 and ENGINE.index(parts[2]) <= ENGINE.index(room[1]), (
                f"{path.name} imports {name}")
        assert parts[0] != "workchains"
        if room[0] in WITHOUT_AIIDA or (room[0], path.stem) == ("cli", "engine"):
            assert parts[0] not in ("aiida", "plumpy"), f"{path.name} imports {name}"


def test_no_modules_import_each_other_in_a_circle():
    """Taking away the modules that import none of the rest must leave nothing."""
    names = {dotted(path) for path in modules()}
    left = {
        dotted(path): {
            name for stem, members in imported_from(path)
            for name in (stem, *(f"{stem}.{member}" for member in members)) if name in names
        } - {dotted(path)}
        for path in modules()
    }
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in a circle, or importing from one: {sorted(left)}"


#: Public methods of a named tuple, whose names begin with an underscore.
NAMED_TUPLE = {"_asdict", "_replace", "_fields"}


def private(name):
    return name.startswith("_") and not name.startswith("__")


def foreign_private_names(path):
    """Private names that a module imports, or reads from an object whose code is elsewhere.

    A module may read the private attributes that it defines itself, on any object, and those of
    its base classes through self, cls, super() and their names.
    """
    nodes = list(syntax(path))
    own = {node.name for node in nodes
           if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {node.attr for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.id for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bases = {ast.unparse(base) for node in nodes if isinstance(node, ast.ClassDef)
             for base in node.bases}
    bound = {alias.asname or alias.name for node in nodes
             if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    for stem, members in imported_from(path):
        if stem.startswith("aiida_dse"):
            yield from filter(private, members)
    for node in nodes:
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in NAMED_TUPLE:
            owner = ast.unparse(node.value)
            inherited = owner in ("self", "cls", "super()", *bases)
            if (owner in bound and not inherited) or not (node.attr in own or inherited):
                yield node.attr


def test_private_names_are_used_in_their_own_module_only():
    found = {(dotted(path), name) for path in modules() for name in foreign_private_names(path)}
    assert not found, "make these public, or do not use them"


@pytest.mark.parametrize(("code", "found"), [
    ("from aiida_dse.io.tables import _rows", ["_rows"]),
    ("def f():\n    from ..io.tables import _rows", ["_rows"]),
    ("from ..io import tables\ntables._rows()", ["_rows"]),
    ("from ..io.tables import Table\nTable._rows()\ndef _rows(): ...", ["_rows"]),
    ("def f(table):\n    return table._rows", ["_rows"]),
    ("class Mine:\n    def _rows(self): ...\n    def other(self, mine): return mine._rows()", []),
    ("class Mine(Base):\n    def f(self): return self._rows + super()._columns()", []),
])
def test_what_counts_as_a_foreign_private_name(tmp_path, monkeypatch, code, found):
    """The check above finds what it should, and nothing else."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "io").mkdir()
    path = tmp_path / "io" / "reader.py"
    path.write_text(code)
    assert list(foreign_private_names(path)) == found


#: Folders of the package without modules of its own: what users copy.
SHIPPED = {"examples", "setup_profiles"}


def test_every_folder_has_its_layer():
    found = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert found == {*LAYERS, *SHIPPED}


@pytest.mark.parametrize("name", ["workchains", *sorted(SHIPPED)])
def test_a_folder_at_the_root_is_linked_into_the_package(name):
    link = PACKAGE / name
    assert link.is_symlink() and str(link.readlink()) == f"../{name}"
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("path", [
    *ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("setup_profiles/*.py")],
    ids=lambda path: path.name)
def test_scripts_import_names_that_exist(path):
    """Nothing else notices that a function was renamed before somebody runs the script."""
    for node in syntax(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiida_dse"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_the_engine_needs_no_aiida():
    names = [dotted(p) for p in modules() if rooms(p)[0] in WITHOUT_AIIDA]
    names.append("aiida_dse.cli.engine")
    code = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        "assert not {'aiida', 'plumpy'} & set(sys.modules), 'aiida was imported'\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_package_itself_imports_nothing_heavy():
    code = (
        "import sys, aiida_dse\n"
        "assert {'simulate', '__version__'} <= set(dir(aiida_dse))\n"
        "heavy = {'numpy', 'scipy', 'numba', 'aiida', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_package_has_the_names_of_the_api():
    """For users at run time, and for type checkers, which do not follow __getattr__."""
    import aiida_dse
    from aiida_dse import api
    from aiida_dse.shapes import SHAPES

    shapes = [shape.__name__ for shape in SHAPES.values()]
    assert [*aiida_dse.__all__, *shapes] == api.__all__ and aiida_dse.__all__ == sorted(aiida_dse.__all__)
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = [node.names[0].asname for node in ast.walk(tree)
             if isinstance(node, ast.ImportFrom) and node.module == "aiida_dse.api"]
    assert typed == aiida_dse.__all__
    for name in api.__all__:
        assert getattr(aiida_dse, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'refne'"):
        aiida_dse.refne  # noqa: B018


def test_the_api_loads_neither_aiida_nor_figures_nor_other_packages_of_structures():
    code = (
        "import sys\nfrom aiida_dse import Model, refine\n"
        "late = {'aiida', 'plumpy', 'matplotlib', 'pymatgen', 'ase', 'spglib', 'emcee'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_pattern_is_computed_without_the_libraries_that_load_slowly(tmp_path):
    """They take up to a second of the start of every job; functions that need them import them."""
    arguments = ["dse-engine", "simulate", str(ROOT / "examples" / "cspbbr3" / "refine.yaml"), "-o", str(tmp_path)]
    code = (
        f"import sys\nsys.argv = {arguments}\n"
        "from aiida_dse.cli.engine import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "late = {'scipy.stats', 'scipy.optimize', 'scipy.interpolate', 'scipy.spatial', 'scipy.ndimage', 'xraydb',\n"
        "        'sqlalchemy', 'pymatgen', 'ase', 'spglib', 'matplotlib', 'aiida', 'lmfit', 'emcee', 'iminuit'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
