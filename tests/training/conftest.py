"""Fixtures that several files about training share."""

from __future__ import annotations

from functools import partial

import pytest
from tiny_stages import staged_recipe, write_people

from napari_mrsr.io import write_volume
from napari_mrsr.training.loop import train


@pytest.fixture
def put(tmp_path, make_volume):
    """Write volumes by file name; the seed tells the head."""

    def write(name, seed=0, shape=(40, 44, 38), voxel=(1.0, 1.0, 1.0), change=lambda v: v):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(change(make_volume(shape, voxel, sigma=1.2, seed=seed)), path)
        return path

    return write


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, make_volume):
    """Factory of recipes with stages, of some seconds; modules may have a recipe of their own."""
    return partial(staged_recipe, write_people(tmp_path_factory.mktemp("data"), make_volume))


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    """Folder and events of a whole run of each kind, made once."""
    kept = {}

    def run(kind):
        if kind not in kept:
            folder = tmp_path_factory.mktemp(kind)
            kept[kind] = folder, list(train(recipe(kind), folder / "state.pt", accelerator="cpu"))
        return kept[kind]

    return run
