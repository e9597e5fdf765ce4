"""Safe reading of HDF5 files: only what the file itself contains, and within limits of memory.

HDF5 can refer to other files (external links, external storage, virtual datasets) and can describe
far more data than it contains. A file from somebody else must do neither.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .storage import is_damaged

#: Limits for a file: bytes of all datasets in memory, number of datasets and groups, nesting.
MOST_BYTES, MOST_ITEMS, MOST_LEVELS = 600_000_000, 20_000, 16
#: Kinds of numpy types that results and stored distances contain: numbers and fixed-length texts.
KINDS = "fiubS"


@contextmanager
def opened(path: Path, what: str) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading. Raises ValueError, with the reason, for unusable files."""
    try:
        if is_damaged(path):
            raise ValueError(f"{path.name} is damaged: it was changed after it was written.")
        with h5py.File(path, "r") as file:
            yield file
    except MemoryError:
        raise ValueError(f"{path.name} does not fit into memory.") from None
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, UnicodeError) as problem:
        if isinstance(problem, OSError) and problem.errno in (errno.EAGAIN, errno.EACCES):
            raise ValueError(f"{path.name} is locked or not readable. Close the program that uses it "
                             "and check the permissions.") from None
        raise ValueError(f"{path.name} is missing or damaged, so it cannot be read as {what}: "
                         f"{problem}") from None


def own_datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """The datasets of a file by their paths.

    Raises ValueError for links, for data in other files, for types other than KINDS, and above the
    limits.
    """
    found: dict[str, h5py.Dataset] = {}
    total = 0
    for path, item in _items(file, "", 0, set()):
        if isinstance(item, h5py.Group):
            continue
        require_own(item, path)
        if item.dtype.kind not in KINDS or item.shape is None:
            raise ValueError(f"{_name(file)}: the dataset '{path}' has the type {item.dtype}, which is "
                             "neither a number nor a text.")
        found[path] = item
        total += item.size * item.dtype.itemsize
        if total > MOST_BYTES:
            raise ValueError(f"{_name(file)} describes more than {MOST_BYTES / 1e6:.0f} MB of data, "
                             "which is the limit.")
    return found


def require_own(item: h5py.Dataset, path: str) -> None:
    """Raise ValueError for a dataset whose data lie in another file."""
    if item.is_virtual or item.id.get_create_plist().get_external_count():
        raise ValueError(f"{_name(item.file)}: the data of '{path}' lie in another file, which is not "
                         "read. Copy them into the file.")


def own(group: h5py.Group, name: str) -> Any:
    """The member of a group. Raises ValueError if it lies in another file, or is too large."""
    item = group[name]
    if item.file.filename != group.file.filename:
        raise ValueError(f"{_name(group.file)}: '{group.name}/{name}' links to another file, which is not "
                         "read. Copy the data into the file.")
    if isinstance(item, h5py.Dataset):
        require_own(item, str(item.name))
        if item.shape is None or item.size * max(1, item.dtype.itemsize) > MOST_BYTES:
            raise ValueError(f"{_name(group.file)}: the dataset '{item.name}' is empty or larger than "
                             f"{MOST_BYTES / 1e6:.0f} MB, which is the limit.")
    return item


def _items(
    group: h5py.Group, prefix: str, level: int, seen: set[int]
) -> Iterator[tuple[str, h5py.Dataset | h5py.Group]]:
    if level > MOST_LEVELS:
        raise ValueError(f"{_name(group.file)} has more than {MOST_LEVELS} levels of groups.")
    for name in group:
        path = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{_name(group.file)}: '{path}' is a link, which is not followed. Copy "
                             "the data into the file.")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen or len(seen) > MOST_ITEMS:
            raise ValueError(f"{_name(group.file)}: the groups refer to each other, or there are more "
                             f"than {MOST_ITEMS:,} datasets.")
        seen.add(address)
        yield path, item
        if isinstance(item, h5py.Group):
            yield from _items(item, f"{path}/", level + 1, seen)


def _name(file: h5py.File) -> str:
    return Path(str(file.filename)).name


def values(dataset: h5py.Dataset) -> np.ndarray:
    """The values of a dataset; texts are decoded."""
    found = np.asarray(dataset[()])
    return np.char.decode(found, "utf-8") if found.dtype.kind == "S" else found
