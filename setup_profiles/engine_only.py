#!/usr/bin/env python3
"""Install dse-engine alone, in an environment of its own, on a computer without AiiDA.

    python3 engine_only.py FOLDER          # create it, or update it
    python3 engine_only.py FOLDER --undo   # remove it

This needs Python 3.11 to 3.13 with the venv module, and access to PyPI. It installs the project
that the script belongs to or, where the script was copied alone, the package aiida-dse from PyPI;
--source names another one: a folder, a wheel, or 'aiida-dse==VERSION'. The version should be that
of the plugin. The script prints the lines for the computer's file (computer-ssh.yaml or
computer-slurm.yaml).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

#: Requirements of the package that only its AiiDA side imports.
FOR_AIIDA = {"aio-pika", "aiida-core", "kiwipy", "pandas", "plumpy", "psutil", "psycopg", "pycifrw", "pymatgen",
             "rich", "spglib", "sqlalchemy", "tabulate"}
MARK = ".made-by-engine-only"


def default_source() -> str:
    """The project that this script belongs to, or the name of the package on PyPI."""
    for folder in Path(__file__).resolve().parents[1:3]:  # a repository; an unpacked sdist
        if (folder / "pyproject.toml").is_file():
            return str(folder)
    return "aiida-dse"


def requirements_of(wheel: Path) -> list[str]:
    """Requirements of a wheel from its metadata."""
    with zipfile.ZipFile(wheel) as content:
        (name,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(content.read(name).decode("utf-8"))
    return metadata.get_all("Requires-Dist") or []


def engine_requirements(requirements: list[str]) -> list[str]:
    """Those requirements of the package that the engine needs: without AiiDA's and the extras."""
    return [line for line in requirements if "extra ==" not in line
            and re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() not in FOR_AIIDA]


def install(folder: Path, source: str) -> None:
    """Create the environment, install the package into it, compile and check the engine."""
    if (folder / MARK).exists():
        print(f"{folder} exists: it is kept and updated")
    elif folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} contains other files: choose a folder that is new or empty")
    else:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        (folder / MARK).touch()
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    # twice quiet: warnings about package indexes that cannot be reached are hidden, errors are not
    quiet = ["--quiet", "--quiet", "--disable-pip-version-check"]
    print("installing ...", flush=True)
    with tempfile.TemporaryDirectory() as built:
        subprocess.run([*pip, "wheel", *quiet, "--no-deps", "--wheel-dir", built, source],
                       check=True)
        (wheel,) = Path(built).glob("*.whl")
        subprocess.run([*pip, "install", *quiet, *engine_requirements(requirements_of(wheel))],
                       check=True)
        subprocess.run([*pip, "install", *quiet, "--no-deps", "--force-reinstall", str(wheel)],
                       check=True)
    engine, cache = folder / "bin" / "dse-engine", folder / "numba"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    subprocess.run([str(engine), "selftest"], env=environment, check=True)
    print(f"For the computer's file:\n  filepath_executable: {engine}\n"
          f"  prepend_text: export NUMBA_CACHE_DIR='{cache}'")


def remove(folder: Path) -> None:
    """Remove what install created."""
    if not folder.exists():
        print(f"{folder} does not exist: there is nothing to undo")
    elif not (folder / MARK).exists():
        sys.exit(f"{folder} was not created by this script (it contains no {MARK}): remove it "
                 "by hand")
    else:
        shutil.rmtree(folder)
        print(f"{folder} was removed")


def main() -> None:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"Python {sys.version.split()[0]} cannot run the engine. Use Python 3.11 to 3.13, "
                 "for example 'python3.12 engine_only.py FOLDER'")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the environment")
    parser.add_argument("--source", default=default_source(),
                        help="what to install (default: %(default)s)")
    parser.add_argument("--undo", action="store_true", help="remove the environment")
    arguments = parser.parse_args()
    folder = arguments.folder.expanduser().absolute()
    try:
        if arguments.undo:
            remove(folder)
        else:
            install(folder, arguments.source)
    except subprocess.CalledProcessError as problem:
        sys.exit(f"{problem.cmd[0]} ended with status {problem.returncode}; its message is printed "
                 "above. Correct the cause and run this command again")


if __name__ == "__main__":
    main()
