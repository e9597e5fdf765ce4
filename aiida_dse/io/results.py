"""Result files: numbers as JSON and arrays as HDF5; after a crash, the previous files remain."""

from __future__ import annotations

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

from .storage import hdf5_image, replace_file

JSON_NAME = "result.json"
HDF5_NAME = "result.h5"

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
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise ValueError(f"{where} is not a result of aiida-dse: {problem}") from None


def write_result(result: Result[Summary], folder: Path) -> None:
    """Write result.h5 and result.json; after an error, the previous file remains."""

    def fill(file: h5py.File) -> None:
        file.attrs["schema"] = RESULT_SCHEMA
        for path, values in result.arrays.items():
            array = np.asarray(values)
            if array.dtype.kind == "U":
                file.create_dataset(path, data=np.char.encode(array, "utf-8"))
            elif array.size > 64:
                file.create_dataset(path, data=array, compression="gzip", shuffle=True)
            else:
                file.create_dataset(path, data=array)

    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / HDF5_NAME, hdf5_image(fill))
    text = json.dumps(content_of(result.summary), indent=1)
    replace_file(folder / JSON_NAME, text.encode())


def read_result(folder: Path) -> Result[Any]:
    """The result in a folder; ValueError where it is missing, damaged or of another kind."""
    path = folder / JSON_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} contains no {JSON_NAME}, because the task ended without a result.") from None
    except (OSError, json.JSONDecodeError) as problem:
        raise ValueError(f"{path} is damaged: {problem}") from None
    return Result(summary_of(content, str(path)), read_arrays(folder / HDF5_NAME))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All datasets of a result file by their current path.

    Raises ValueError where the file is missing or damaged.
    """
    arrays: dict[str, np.ndarray] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            values = item[()]
            arrays[name] = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values

    try:
        with h5py.File(path, "r") as file:
            schema = file.attrs.get("schema")
            file.visititems(take)
    except OSError as problem:
        raise ValueError(f"{path} is missing or damaged: {problem}") from None
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
