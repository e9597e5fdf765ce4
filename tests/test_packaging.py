"""What is installed with the package, and what it requires."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import aiida_dse

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aiida_dse"
#: Folders of the repository that links bring into the package.
LINKED = ("workchains", "examples", "setup_profiles")
#: Required, but imported by a requirement only: name and reason.
FOR_OTHERS = {"pycifrw": "AiiDA's CifData reads CIFs with it"}
ENGINE_ROOMS = ("engine", "documents", "io", "analysis", "tasks", "report")


def normalised(name):
    """The form of a distribution's name that indexes compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names_of(requirements):
    return {normalised(re.split(r"[^A-Za-z0-9_.-]", line)[0]) for line in requirements}


def imported(paths):
    """Distributions outside the standard library that modules import."""
    known = importlib.metadata.packages_distributions()
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                     [node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])
            found |= {name.split(".")[0] for name in names}
    found -= {*sys.stdlib_module_names, "aiida_dse"}
    # of several distributions with one import name the others add to the first
    return {normalised(min(known[name], key=len)) for name in found}


def modules(*rooms):
    """All modules of the package, or of some of its rooms; also those behind links."""
    linked = [] if rooms else [PACKAGE / "workchains"]
    return [path for folder in [*(PACKAGE / room for room in rooms or (".",)), *linked]
            for path in folder.rglob("*.py")]


@pytest.fixture(scope="module")
def requirements():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return content["project"]["dependencies"]


@pytest.fixture(scope="module")
def engine_only():
    """The script that installs the engine alone, as a module."""
    path = ROOT / "setup_profiles" / "engine_only.py"
    spec = importlib.util.spec_from_file_location("engine_only", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_package_requires_what_it_imports_and_nothing_else(requirements):
    assert imported(modules()) == names_of(requirements) - FOR_OTHERS.keys()


def test_the_engine_requires_what_it_imports_and_nothing_else(requirements, engine_only):
    needed = imported([*modules(*ENGINE_ROOMS), PACKAGE / "cli" / "engine.py"])
    # structures of pymatgen exist on the AiiDA side only
    needed -= {"pymatgen", "pymatgen-core", "spglib"}
    assert names_of(engine_only.engine_requirements(requirements)) == needed


def test_the_engine_is_installed_from_the_project_of_the_script(engine_only, monkeypatch, tmp_path):
    assert engine_only.default_source() == str(ROOT)
    monkeypatch.setattr(engine_only, "__file__", str(tmp_path / "bin" / "engine_only.py"))
    assert engine_only.default_source() == "aiida-dse"


# --- wheel and sdist --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def files_of_the_package():
    """Everything that a user needs, by its path inside the distribution."""
    found = {path.relative_to(PACKAGE) for path in (*PACKAGE.rglob("*.py"), PACKAGE / "py.typed")}
    for name in LINKED:
        found |= {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.is_file()}
    return {f"aiida_dse/{path.as_posix()}" for path in found if "__pycache__" not in path.parts}


def test_wheel_and_sdist_are_complete(distributions):
    sdist, wheel = distributions
    needed = files_of_the_package()
    assert "aiida_dse/examples/cspbbr3/size_05nm.xye" in needed
    with zipfile.ZipFile(wheel) as content:
        in_wheel = {name for name in content.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as content:
        in_sdist = {name.split("/", 1)[1] for name in content.getnames() if "/" in name}
    assert in_wheel == needed
    assert needed <= in_sdist
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= in_sdist


def test_the_engine_gets_the_requirements_of_the_wheel(distributions, requirements, engine_only):
    """The same as those of the project's file, and none of an extra."""
    found = engine_only.engine_requirements(engine_only.requirements_of(distributions[1]))
    assert names_of(found) == names_of(engine_only.engine_requirements(requirements))
    assert "pytest" not in names_of(found)


def test_the_metadata_are_those_of_a_release(distributions):
    with zipfile.ZipFile(distributions[1]) as content:
        (name,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(content.read(name).decode())
    assert metadata["Version"] == aiida_dse.__version__
    assert metadata["Author"] == "aiida-dse developers"
    assert metadata["License-Expression"] == "MIT"
    classifiers = metadata.get_all("Classifier")
    assert {"Framework :: AiiDA", "Operating System :: POSIX"} <= set(classifiers)
    assert any(each.startswith("Development Status :: ") for each in classifiers)


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """A function: run a command of an environment into which the wheel was installed.

    Its requirements are those of the environment of the tests, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    subprocess.run([folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet",
                    "--no-index", "--no-deps", "--disable-pip-version-check", distributions[1]],
                   check=True)
    (site,) = folder.glob("venv/lib/python*/site-packages")
    # modules of this folder are found, but not the editable installation that it points to
    (site / "requirements.pth").write_text(str(Path(pytest.__file__).parents[1]))

    def run(*command):
        environment = os.environ | {"AIIDA_PATH": str(folder)}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run([folder / "venv" / "bin" / command[0], *command[1:]], cwd=folder,
                              env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return folder, run


def test_the_installed_package_is_the_one_of_the_wheel(installed):
    folder, run = installed
    found = run("python", "-c", "import aiida_dse; print(aiida_dse.__file__)")
    assert Path(found.strip()).is_relative_to(folder)


def test_an_installed_package_copies_its_examples(installed):
    folder, run = installed
    assert "synthetic" in run("aiida-dse", "examples", "mine")
    assert {path.relative_to(folder / "mine") for path in (folder / "mine").rglob("*.*")} == {
        path.relative_to(ROOT / "examples") for path in (ROOT / "examples").rglob("*.*")
        if "__pycache__" not in path.parts}
    assert "valid" in run("dse-engine", "validate", "mine/cspbbr3/refine.yaml")


def test_an_installed_package_finds_its_set_up_files(installed):
    folder, run = installed
    listed = run("aiida-dse", "setup", "--list")
    for path in (ROOT / "setup_profiles").iterdir():
        assert path.name == "__pycache__" or path.name.removesuffix(".yaml") in listed
    assert "A cluster with Slurm" in listed
    run("aiida-dse", "setup", "computer-ssh", "--copy")
    assert (folder / "computer-ssh.yaml").read_text() == (
        ROOT / "setup_profiles" / "computer-ssh.yaml").read_text()
    # a file of one's own is found by its path, one of the package by its name
    assert "nothing to undo" in run("aiida-dse", "setup", "production", "--undo")
