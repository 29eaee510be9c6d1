"""How every process names a run's folder, data and models: URIs as they are, local paths absolute."""

from __future__ import annotations

from pathlib import Path

from taft_ray.data import datasets, open_source, place_of, with_split
from taft_ray.models.names import FOLDER
from taft_ray.storage import digest_json


def run_address(run: str) -> str:
    """A run's folder: a URI as it is, a local path absolute."""
    return run if "://" in run else str(Path(run).expanduser().resolve())


def data_address(data: str) -> str:
    """The same for data: a published data set keeps its name before the place, a chosen split its name behind it."""
    if datasets.is_named(data):
        return datasets.absolute(data, run_address)
    place = place_of(data)
    return with_split(run_address(place.uri), place.split)


def model_address(model: str) -> str:
    """The same for a model: one that lies in a folder has the folder's address."""
    folder = model.removeprefix(FOLDER)
    return f"{FOLDER}{run_address(folder)}" if folder != model else model


def data_stamp(data: str) -> str:
    """Changes when files of the data are added, removed or resized."""
    return digest_json([[file.relative, file.size] for file in open_source(data).files])
