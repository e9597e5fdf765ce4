"""Files of stored pair distances (HDF5), from which a phase can be read instead of a structure."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aiida_dse.documents.migration import local_name
from aiida_dse.engine.model.fixed_geometry import PairDistances
from aiida_dse.engine.scattering.histograms import GRID_MARGIN
from aiida_dse.engine.scattering.pairs import site_channels

from .hdf5 import opened, own_datasets, values
from .results import plain
from .storage import hdf5_image, replace_file

DISTANCES_SCHEMA = "aiida-dse/distances/1"


def write_distances(stored: PairDistances, path: Path) -> None:
    """Write stored pair distances; after an error, the previous file remains.

    Datasets: r (n_bins,) Å; weights (n_channels, n_bins), sums of 1/r spread over r; channels
    (n_channels, 2) labels; atoms, occupancy, B (n_sites,), labels, ions. Attributes: schema, step
    (Å), sizes and about (JSON). Equal content results in equal bytes.
    """
    n_bins = stored.histograms.shape[1]
    channels = [[stored.labels[s], stored.labels[t]]
                for s, t in site_channels(len(stored.labels))]

    def fill(file: h5py.File) -> None:
        file.attrs["schema"] = DISTANCES_SCHEMA
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

    replace_file(path, hdf5_image(fill))


def read_distances(path: Path) -> PairDistances:
    """The stored pair distances in a file; ValueError for a damaged file or one of another kind."""
    try:
        with opened(path, "stored pair distances") as file:
            if (schema := file.attrs.get("schema")) != DISTANCES_SCHEMA:
                raise ValueError(
                    f"{path.name} does not contain stored pair distances (its schema is "
                    f"{schema!r}, not '{DISTANCES_SCHEMA}'). Write the file with 'dse-engine "
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
        )
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as problem:
        raise ValueError(
            f"{path.name} cannot be read as stored pair distances: {problem}") from None


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
