"""Results on disk: scalars as JSON, arrays as HDF5, written so that a crash leaves the old file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

RESULT_SCHEMA = "aiida-dse/result/1"
JSON_NAME = "result.json"
HDF5_NAME = "result.h5"


@dataclass(frozen=True)
class Result:
    """What a task found: `summary` plain JSON values, `arrays` by HDF5 path ('pattern/q')."""

    summary: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return str(self.summary["task"])

    @property
    def status(self) -> str:
        return str(self.summary["status"])


def write_result(result: Result, folder: Path) -> None:
    """Write result.h5 and result.json; each is complete or the previous one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{HDF5_NAME}.part"
    with h5py.File(partial, "w") as file:
        file.attrs["schema"] = RESULT_SCHEMA
        for path, values in result.arrays.items():
            array = np.asarray(values)
            if array.dtype.kind == "U":
                file.create_dataset(path, data=np.char.encode(array, "utf-8"))
            elif array.size > 64:
                file.create_dataset(path, data=array, compression="gzip", shuffle=True)
            else:
                file.create_dataset(path, data=array)
    os.replace(partial, folder / HDF5_NAME)
    partial = folder / f".{JSON_NAME}.part"
    partial.write_text(json.dumps(plain(result.summary), indent=1), encoding="utf-8")
    os.replace(partial, folder / JSON_NAME)


def read_result(folder: Path) -> Result:
    """The result in a folder. Raises ValueError where it is missing, damaged or of another kind."""
    try:
        summary = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {JSON_NAME}: the task ended before its result.") \
            from None
    except (OSError, json.JSONDecodeError) as problem:
        raise ValueError(f"{folder / JSON_NAME} is damaged: {problem}") from None
    if not isinstance(summary, dict) or summary.get("schema") != RESULT_SCHEMA:
        raise ValueError(f"{folder / JSON_NAME} is no {RESULT_SCHEMA}.")
    return Result(summary, read_arrays(folder / HDF5_NAME))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All datasets of a result file by path. Raises ValueError where it is damaged or missing."""
    arrays: dict[str, np.ndarray] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            values = item[()]
            arrays[name] = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values

    try:
        with h5py.File(path, "r") as file:
            file.visititems(take)
    except OSError as problem:
        raise ValueError(f"{path} is missing or damaged: {problem}") from None
    return arrays


def plain(value: Any) -> Any:
    """JSON values only: numpy scalars become numbers, nan and infinities null."""
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
