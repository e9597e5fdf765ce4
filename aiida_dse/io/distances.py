"""Files of stored pair distances (HDF5), from which a phase can be read instead of a structure."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from aiida_dse.documents.migration import local_name
from aiida_dse.engine.model.fixed_geometry import PairDistances
from aiida_dse.engine.scattering.histograms import GRID_MARGIN
from aiida_dse.engine.scattering.pairs import site_channels

from .hdf5 import opened, own_datasets, values
from .results import plain
from .storage import hdf5_image, replace_file

if TYPE_CHECKING:
    from aiida_dse.engine.scattering.anisotropic import TensorFields

DISTANCES_SCHEMA = "aiida-dse/distances/1"
#: The schema of stores with displacement tensors, which engines of version 0.1 would ignore.
TENSORS_SCHEMA = "aiida-dse/distances/2"


def write_distances(stored: PairDistances, path: Path) -> None:
    """Write stored pair distances; after an error, the previous file remains.

    Datasets: r (n_bins,) Å; weights (n_channels, n_bins), sums of 1/r spread over r; channels
    (n_channels, 2) labels; atoms, occupancy, B (n_sites,), labels, ions. Attributes: schema, step
    (Å), sizes and about (JSON). With displacement tensors: tensor_channels (n,), tensor_fields
    (n, n_fields, n_bins), tensor_intervals (n, 2), tensor_traces (n,) and tensor_deltas (2,), see
    `TensorFields`. Equal content results in equal bytes.
    """
    n_bins = stored.histograms.shape[1]
    channels = [[stored.labels[s], stored.labels[t]]
                for s, t in site_channels(len(stored.labels))]

    def fill(file: h5py.File) -> None:
        file.attrs["schema"] = DISTANCES_SCHEMA if stored.tensors is None else TENSORS_SCHEMA
        file.attrs["step"] = stored.step
        for key in ("sizes", "about"):
            file.attrs[key] = json.dumps(plain(getattr(stored, key)), sort_keys=True)
        file.create_dataset("r", data=(np.arange(n_bins) - GRID_MARGIN) * stored.step,
                            compression="gzip", shuffle=True)
        file.create_dataset("weights", data=stored.histograms, compression="gzip", shuffle=True)
        file.create_dataset("channels", data=np.char.encode(np.array(channels), "utf-8"))
        for key, texts in (("labels", stored.labels), ("ions", stored.ions)):
            file.create_dataset(key, data=np.char.encode(np.array(texts), "utf-8"))
        for key, numbers in (("atoms", stored.atoms), ("occupancy", stored.occupancy),
                             ("B", stored.b_iso)):
            file.create_dataset(key, data=np.asarray(numbers, dtype=float))
        if (tensors := stored.tensors) is not None:
            file.create_dataset("tensor_channels", data=np.array(stored.tensor_channels, dtype=np.int64))
            file.create_dataset("tensor_fields", data=tensors.fields, compression="gzip", shuffle=True)
            for key, array in (("tensor_intervals", tensors.interval), ("tensor_traces", tensors.trace),
                                 ("tensor_deltas", np.array([tensors.delta_1, tensors.delta_2]))):
                file.create_dataset(key, data=array)

    replace_file(path, hdf5_image(fill))


def read_distances(path: Path) -> PairDistances:
    """The stored pair distances in a file; ValueError for a damaged file or one of another kind."""
    try:
        with opened(path, "stored pair distances") as file:
            if (schema := file.attrs.get("schema")) not in (DISTANCES_SCHEMA, TENSORS_SCHEMA):
                raise ValueError(
                    f"{path.name} does not contain stored pair distances (its schema is "
                    f"{schema!r}, not '{DISTANCES_SCHEMA}' or '{TENSORS_SCHEMA}'). Write the file with 'dse-engine "
                    "build'."
                )
            stored = {name: values(item) for name, item in own_datasets(file).items()}
            step = file.attrs["step"]
            sizes, about = (json.loads(file.attrs[key]) for key in ("sizes", "about"))
        if not isinstance(step, float | int) or any(
                stored[key].dtype.kind != "U" or stored[key].ndim != 1 for key in ("labels", "ions")):
            raise TypeError("the step must be a number, and labels and ions must be texts")
        labels, ions = (tuple(str(text) for text in stored[key]) for key in ("labels", "ions"))
        b_iso, occupancy = (tuple(stored[key].astype(float).tolist()) for key in ("B", "occupancy"))
        return PairDistances(
            labels, ions, b_iso, occupancy, stored["atoms"].astype(float),
            stored["weights"].astype(float), float(step), _numbers(sizes), _about(about),
            *(_tensors(stored) if schema == TENSORS_SCHEMA else ()),
        )
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as problem:
        raise ValueError(
            f"{path.name} cannot be read as stored pair distances: {problem}") from None


def _tensors(stored: dict[str, Any]) -> tuple[tuple[int, ...], TensorFields]:
    """The channels with displacement tensors and their pairs. Raises KeyError, TypeError and ValueError."""
    from aiida_dse.engine.scattering.anisotropic import TensorFields

    channels = stored["tensor_channels"]
    if channels.dtype.kind not in "iu" or channels.ndim != 1:
        raise TypeError("tensor_channels must be whole numbers")
    fields, interval, trace, deltas = (
        stored[f"tensor_{name}"].astype(float) for name in ("fields", "intervals", "traces", "deltas"))
    delta_1, delta_2 = deltas.ravel().tolist()
    return tuple(channels.tolist()), TensorFields(fields, interval, trace, delta_1, delta_2)


def _numbers(content: Any) -> dict[str, float]:
    """The size statistics. Raises TypeError for other content."""
    if not isinstance(content, dict) or not all(
            isinstance(value, int | float) and math.isfinite(value) for value in content.values()):
        raise TypeError("the attribute 'sizes' is not a mapping of finite numbers")
    return {str(name): float(value) for name, value in content.items()}


def _about(content: dict[str, Any]) -> dict[str, Any]:
    """The origin of stored distances, with parameter names of version 0.1 in their current form."""
    known = content.get("values", {})
    if not all(isinstance(value, int | float) and not isinstance(value, bool)
               for value in known.values()):
        raise TypeError("the values in the attribute 'about' are not numbers")
    return content | {"values": {local_name(name): float(value) for name, value in known.items()}}
