from __future__ import annotations

import pytest

from napari_mrsr.io import write_volume
from napari_mrsr.training.domain import trained_domain
from napari_mrsr.training.recipe import Recipe


def recipe(protocol, scale, **data):
    return Recipe(
        name="n", network={"name": "cftn", "scale": scale}, degradation={"protocol": protocol, "scale": scale},
        data={"train": ("*",), "contrasts": ("T2w guided by T1w or FLAIR", "T2w"), **data}, augmentation={"noise": 4},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "scale", "data", "finer", "other"),
    [
        ("gaussian", 2, {}, (1.0, 8.0), None),
        ("kspace", 4, {"in_plane": 0.9}, (3.6, 4.8), (3.0, 4.0)),
        ("slice-profile", 4, {}, (12.0, 16.0), (0.5, 1.2)),
    ],
)
def test_edges_that_get_finer_and_others_are_told_apart(make_volume, tmp_path, protocol, scale, data, finer, other):
    paths = []
    for number, voxel in enumerate([(0.5, 0.5, 3), (1.2, 1.2, 4)]):
        paths += [p for p in write_volume(make_volume((9, 9, 9), voxel), tmp_path / f"{number}.nii.gz") if p.suffix == ".gz"]
    found = trained_domain(recipe(protocol, scale, **data), paths)
    assert found.voxel_size == pytest.approx(finer)
    assert found.other_voxel_size == (pytest.approx(other) if other else None)
    assert found.noise == (0, 4)
    assert found.targets == ("T2w",)
    assert found.guides == ("T1w", "FLAIR")
