"""Listing, lookup and copying of the example and set-up files included in the package.

The folders `examples` and `setup_profiles` of the repository are linked into the package, so that
their location is the same in a wheel, an sdist and an editable installation.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

import aiida_dse

from .terminal import Refusal, echo

PACKAGE = Path(aiida_dse.__file__).parent
EXAMPLES, SETUP_FILES = PACKAGE / "examples", PACKAGE / "setup_profiles"
EXAMPLES_FOLDER = "aiida-dse-examples"


@click.command("examples")
@click.argument("folder", default=EXAMPLES_FOLDER,
                type=click.Path(file_okay=False, path_type=Path))
def examples(folder: Path) -> None:
    """Copy the examples (documents, CIF files, synthetic patterns) into FOLDER.

    FOLDER is a new folder, by default aiida-dse-examples. All patterns of the examples are
    synthetic: they were computed from known structures, not measured.
    """
    if folder.exists():
        raise Refusal(
            f"{folder} already exists, so nothing was copied. Specify a folder that does not exist")
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    echo(f"The examples were copied to {folder}. Their patterns are synthetic: they were "
               "computed from known structures, not measured.")
    for readme in sorted(folder.rglob("README.md")):
        echo(f"Start with {readme}")


def setup_files() -> dict[str, Path]:
    """The set-up files of the package by name; the names of YAML files lack the suffix."""
    found = sorted(path for path in SETUP_FILES.iterdir() if path.is_file())
    return {path.stem if path.suffix == ".yaml" else path.name: path for path in found}


def list_setup_files() -> None:
    """Print the name, the path and the purpose of each set-up file."""
    for name, path in setup_files().items():
        echo(f"{name:16} {_purpose(path)}\n{'':16} {path}")


def find_setup_file(name: str) -> Path:
    """The file at this path or, if there is none, the package's set-up file of this name."""
    if Path(name).is_file():
        return Path(name)
    shipped = setup_files()
    for known in (name, name.removesuffix(".yaml")):
        if known in shipped:
            return shipped[known]
    raise click.UsageError(
        f"'{name}' is neither a file nor one of the set-up files of the package: "
        f"{', '.join(shipped)}"
    )


def copy_setup_file(path: Path) -> None:
    """Copy a set-up file into the current folder, where it can be edited."""
    target = Path.cwd() / path.name
    if target.exists():
        raise Refusal(f"{target} already exists, so nothing was copied")
    shutil.copy(path, target)
    echo(f"Wrote {target}")


def _purpose(path: Path) -> str:
    """The purpose of a file: its first line of text without the comment character."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip('#" ')
        if text and not line.startswith("#!"):
            return text
    return ""
