"""Atomic writing of files: after a crash or on a full disk, the previous file remains."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py


def hdf5_image(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of an HDF5 file, made in memory.

    HDF5 itself must not write to a full disk: it then aborts the whole process without an error
    when it closes the file (observed with h5py 3.16 and HDF5 2.0).
    """
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return bytes(file.id.get_file_image())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically; after an error, the previous file remains and no partial one."""
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
