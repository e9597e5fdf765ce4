"""Imports run one way, and the engine runs where there is no AiiDA."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aiida_dse"
LAYERS = ["engine", "documents", "io", "analysis", "tasks", "report", "api", "data",
          "calculations", "parsers", "workchains", "cli"]
#: The rooms of the engine, in the order in which they import each other.
ENGINE = ["crystal", "particles", "scattering", "model", "fit", "maps"]
#: The command of the engine stands above the report only.
WITHOUT_AIIDA = ["engine", "documents", "io", "analysis", "tasks", "report", "api"]


def modules():
    # the work chains are reached through a link, which rglob does not follow
    found = {*PACKAGE.rglob("*.py"), *PACKAGE.glob("workchains/*.py")}
    return sorted(p for p in found if p.parent != PACKAGE)


def rooms(path):
    """('engine', 'fit') of aiida_dse/engine/fit/refine.py."""
    return path.relative_to(PACKAGE).parts[:-1]


def dotted(path):
    return ".".join(["aiida_dse", *rooms(path), *([path.stem] * (path.stem != "__init__"))])


def imported(path):
    """Absolute names of all imports, those inside functions included."""
    package = ["aiida_dse", *rooms(path)]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield stem
            if stem == "aiida_dse":
                yield from (f"aiida_dse.{alias.name}" for alias in node.names)


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


def test_every_folder_has_its_layer():
    found = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert found == set(LAYERS)


def test_workchains_is_a_link_to_the_folder_at_the_root():
    link = PACKAGE / "workchains"
    assert link.is_symlink() and str(link.readlink()) == "../workchains"
    assert link.resolve() == ROOT / "workchains"


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

    assert aiida_dse.__all__ == api.__all__ == sorted(api.__all__)
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = [node.names[0].asname for node in ast.walk(tree)
             if isinstance(node, ast.ImportFrom) and node.module == "aiida_dse.api"]
    assert typed == api.__all__
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
