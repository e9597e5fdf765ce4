"""Result files: numbers as JSON and arrays as HDF5, signed together.

The signature consists of SHA-256 digests of the numbers and of the file of arrays. It shows whether
either of them was changed or damaged, or belongs to another result; it does not prove who wrote
them. After a crash, the previous files remain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import h5py
import numpy as np
from pydantic import ValidationError

from aiida_dse.documents.records import RESULT_SCHEMA, Summary
from aiida_dse.documents.result_migration import OLD_SCHEMA, current_arrays, current_result
from aiida_dse.documents.results import SUMMARIES
from aiida_dse.documents.status import Status, Task

from .hdf5 import opened, own_datasets, values
from .storage import hdf5_image, replace_file

JSON_NAME = "result.json"
HDF5_NAME = "result.h5"

#: The key of the signature in result.json.
SIGNATURE = "signature"
#: Largest size of result.json (bytes).
MOST_BYTES = 64_000_000

SummaryType = TypeVar("SummaryType", bound=Summary, covariant=True)


@dataclass(frozen=True)
class Result(Generic[SummaryType]):
    """The result of a task: numbers in `summary`, and `arrays` by their HDF5 path ('pattern/q')."""

    summary: SummaryType
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        return self.summary.task

    @property
    def status(self) -> Status:
        return self.summary.status

    def changed(self, **changes: Any) -> Result[SummaryType]:
        """A copy of the result with other fields of its summary."""
        return replace(self, summary=self.summary.model_copy(update=changes))


def content_of(summary: Summary) -> dict[str, Any]:
    """The JSON values of a summary, without those at their defaults."""
    content: dict[str, Any] = plain(
        summary.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    return {"schema": RESULT_SCHEMA, "task": summary.task.value, **content}


def summary_of(content: Any, where: str = "the result") -> Summary:
    """The typed summary from JSON values of this schema or an earlier one.

    Raises ValueError, with `where` as the subject, for other schemas and damaged content.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema not in (RESULT_SCHEMA, OLD_SCHEMA):
        what = "it has no schema" if schema is None else f"its schema is '{schema}'"
        raise ValueError(
            f"{where} is not a result of aiida-dse with the schema {RESULT_SCHEMA}: {what}. Read a "
            "result of a later version with that version.")
    try:
        content = current_result(content)
        return SUMMARIES[Task(content["task"])].model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(key) for key in first["loc"])
        raise ValueError(f"{where} is damaged: {place}: {first['msg']}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as problem:
        raise ValueError(f"{where} is not a result of aiida-dse: {problem}") from None


def write_result(result: Result[Summary], folder: Path) -> None:
    """Write result.h5 and result.json; after an error, the previous file remains."""

    def fill(file: h5py.File) -> None:
        file.attrs["schema"] = RESULT_SCHEMA
        for path, stored in result.arrays.items():
            array = np.asarray(stored)
            if array.dtype.kind == "U":
                file.create_dataset(path, data=np.char.encode(array, "utf-8"))
            elif array.size > 64:
                file.create_dataset(path, data=array, compression="gzip", shuffle=True)
            else:
                file.create_dataset(path, data=array)

    folder.mkdir(parents=True, exist_ok=True)
    image = hdf5_image(fill)
    replace_file(folder / HDF5_NAME, image)
    replace_file(folder / JSON_NAME, signed_text(result.summary, image).encode())


def signed_text(summary: Summary, arrays: bytes) -> str:
    """The content of result.json beside a file of arrays with these bytes."""
    content = content_of(summary)
    digest = hashlib.sha256(arrays).hexdigest()
    return json.dumps(content | {SIGNATURE: _signature(content, digest)}, indent=1)


def _signature(content: Mapping[str, Any], arrays: str) -> dict[str, str]:
    text = json.dumps(content, sort_keys=True)
    return {"numbers": hashlib.sha256(text.encode()).hexdigest(), "arrays": arrays}


def read_result(folder: Path) -> Result[Any]:
    """The result in a folder.

    Raises ValueError where it is missing, damaged, changed or of another kind. Results of version
    0.1 have no signature.
    """
    path = folder / JSON_NAME
    content = _json_of(path)
    signature = content.pop(SIGNATURE, None) if isinstance(content, dict) else None
    summary = summary_of(content, str(path))
    if content.get("schema") != OLD_SCHEMA:
        arrays = _digest_of(folder / HDF5_NAME)
        if signature is None or signature != _signature(content, arrays):
            changed = JSON_NAME if not isinstance(signature, dict) or (
                signature.get("arrays") == arrays) else HDF5_NAME
            raise ValueError(f"{folder / changed} was changed or damaged after it was written, or belongs "
                             "to another result: it does not agree with the signature. Compute the "
                             "result again.")
    return Result(summary, read_arrays(folder / HDF5_NAME))


def _json_of(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} is larger than {MOST_BYTES / 1e6:.0f} MB, the limit of results.")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        json.dumps(content, ensure_ascii=False).encode()  # raises for lone surrogates
    except FileNotFoundError:
        raise ValueError(f"{path.parent} contains no {JSON_NAME}, because the task ended without a "
                         "result.") from None
    except (OSError, UnicodeError, json.JSONDecodeError, RecursionError) as problem:
        raise ValueError(f"{path} is damaged: {problem}") from None
    return content


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise ValueError(f"{path} is missing or damaged: {problem}") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All datasets of a result file by their current path.

    Raises ValueError where the file is missing or damaged.
    """
    with opened(path, "arrays of a result") as file:
        schema = file.attrs.get("schema")
        arrays = {name: values(item) for name, item in own_datasets(file).items()}
    return current_arrays(arrays) if schema == OLD_SCHEMA else arrays


def plain(value: Any) -> Any:
    """The value as plain JSON values: numpy scalars as numbers, nan and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
