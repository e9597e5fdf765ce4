#!/usr/bin/env python3
"""Install dse-engine alone, in an environment of its own, on a computer without AiiDA.

    python3 setup_profiles/engine_only.py FOLDER          # make it, or bring it up to date
    python3 setup_profiles/engine_only.py FOLDER --undo   # remove it

Needs this project's files, Python 3.11 to 3.13 with venv, and a way to PyPI. Prints the lines for
the computer's file (computer-ssh.yaml, computer-slurm.yaml).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
#: Requirements of the package that only its AiiDA side imports.
FOR_AIIDA = {"aiida-core", "pandas", "pymatgen", "rich", "tabulate", "uncertainties"}
MARK = ".made-by-engine-only"


def requirements() -> list[str]:
    """What the engine needs: the package's requirements without those of its AiiDA side."""
    import tomllib  # Python 3.11: an older one is told so by main

    content = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = content["project"]["dependencies"]
    return [line for line in needed if re.split(r"[^A-Za-z0-9_.-]", line)[0] not in FOR_AIIDA]


def install(folder: Path) -> None:
    """Make the environment, install into it, compile and check the engine."""
    if (folder / MARK).exists():
        print(f"{folder} exists: kept and brought up to date")
    elif folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} holds other files: name a folder that is new or empty")
    else:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        (folder / MARK).touch()
    python = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet",
              "--disable-pip-version-check"]
    print("installing ...", flush=True)
    subprocess.run([*python, *requirements()], check=True)
    subprocess.run([*python, "--no-deps", "--force-reinstall", str(PROJECT)], check=True)
    engine, cache = folder / "bin" / "dse-engine", folder / "numba"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    subprocess.run([str(engine), "selftest"], env=environment, check=True)
    print(f"For the computer's file:\n  filepath_executable: {engine}\n"
          f"  prepend_text: export NUMBA_CACHE_DIR='{cache}'")


def remove(folder: Path) -> None:
    """Remove what install made."""
    if not folder.exists():
        print(f"{folder} does not exist: nothing to undo")
    elif not (folder / MARK).exists():
        sys.exit(f"{folder} was not made by this script (it holds no {MARK}): remove it by hand")
    else:
        shutil.rmtree(folder)
        print(f"{folder} removed")


def main() -> None:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"Python {sys.version.split()[0]} cannot run the engine: run this with 3.11 to "
                 "3.13, as in 'python3.12 engine_only.py FOLDER'")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the environment is made")
    parser.add_argument("--undo", action="store_true", help="remove it")
    arguments = parser.parse_args()
    folder = arguments.folder.expanduser().absolute()
    try:
        (remove if arguments.undo else install)(folder)
    except subprocess.CalledProcessError as problem:
        sys.exit(f"{problem.cmd[0]} ended with {problem.returncode}; its message stands above. "
                 "Mend that and run this again")


if __name__ == "__main__":
    main()
