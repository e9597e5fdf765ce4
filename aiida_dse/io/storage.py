"""Atomic writing of files: after a crash or on a full disk, the previous file remains.

HDF5 files begin with a block that contains the SHA-256 of the rest. A damaged file is recognised
before it is opened, because the HDF5 library may not return from reading one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import h5py

#: The beginning and the size of the block in front of HDF5 files; HDF5 looks for its data at 512.
SEAL, BLOCK = b"aiida-dse sha256 ", 512


def hdf5_image(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of an HDF5 file, made in memory.

    HDF5 itself must not write to a full disk: it then aborts the whole process without an error
    when it closes the file (observed with h5py 3.16 and HDF5 2.0).
    """
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return sealed(bytes(file.id.get_file_image()))


def sealed(image: bytes) -> bytes:
    """The bytes of an HDF5 file with a block in front that contains their digest."""
    return (SEAL + hashlib.sha256(image).hexdigest().encode() + b"\n").ljust(BLOCK) + image


def is_damaged(path: Path) -> bool:
    """Whether a file differs from its seal. Files without a seal are not checked."""
    with path.open("rb") as file:
        block = file.read(BLOCK)
        if not block.startswith(SEAL):
            return False
        return block.rstrip() != SEAL + hashlib.file_digest(file, "sha256").hexdigest().encode()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically; after an error, the previous file remains and no partial one."""
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
