"""Atomic writing of files: after a crash or on a full disk, the previous file remains."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py


def hdf5_image(fill: Callable[[h5py.File], None]) -> bytes:
    """An HDF5 file as bytes, made in memory.

    HDF5 itself must not meet a full disk: it ends the whole process when it closes such a file
    (seen with h5py 3.16 and HDF5 2.0), and no error reports it.
    """
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return bytes(file.id.get_file_image())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file; it is complete or the previous one, and a part of it is not left behind."""
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
