from __future__ import annotations

import json

import numpy as np
import pytest

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.evaluation.contrast import tell_contrast
from napari_mrsr.io import read_volume, write_volume
from napari_mrsr.samples import read_sample
from napari_mrsr.volume import Volume

REAL = {
    "t1_3d/test/sub-nvn/sub-nvn_T1w.nii.gz": "T1w",
    "t1_3d/test/sub-arc2017/sub-arc2017_T1w.nii.gz": "T1w",
    "multi_1mm/train/sub-msx07/sub-msx07_FLAIR.nii.gz": "FLAIR",
    "multi_thick/test/sub-msl04/sub-msl04_ses-1_FLAIR.nii.gz": "FLAIR",
    "multi_thick/test/sub-msl04/sub-msl04_ses-1_T2w.nii.gz": "T2w",
    "t2_3d/test/sub-arc2208/sub-arc2208_T2w.nii.gz": "T2w",
}


def nameless(volume: Volume, **changes) -> Volume:
    return Volume(volume.data, volume.affine, **{"name": "scan", **changes})


@pytest.fixture(scope="module", params=REAL)
def labelled(request, shared_data):
    return nameless(read_volume(shared_data(request.param))), REAL[request.param]


def test_intensities_tell_real_heads_apart(labelled):
    volume, expected = labelled
    found = tell_contrast(volume.replace(data=volume.data * np.float32(0.0037)))
    assert (found.name, found.measured, found.source) == (expected, expected, "from its intensities")
    assert any(character.isdigit() for character in found.detail)


@pytest.mark.parametrize(
    ("sample", "expected", "degradation"),
    [("arc2017_T1w", "T1w", Degradation(scale=3, noise=5)), ("arc2208_T2w", "T2w", Degradation(protocol="kspace", scale=4, noise=2))],
)
def test_low_resolution_and_noise_never_turn_one_into_another(sample, expected, degradation):
    found = tell_contrast(nameless(degrade(read_sample(sample), degradation)))
    assert found.name in (expected, "")


def test_upside_down_intensities_are_not_called_by_the_old_name():
    volume = read_sample("arc2017_T1w")
    data = volume.data.astype(np.float32)
    turned = np.where(data > 0.05 * data.max(), np.percentile(data, 99.9) - np.minimum(data, np.percentile(data, 99.9)), 0)
    assert tell_contrast(nameless(volume.replace(data=turned))).name != "T1w"


@pytest.mark.parametrize(
    ("shape", "voxel", "detail"),
    [((24, 24, 24), (2, 2, 2), "too little tissue"), ((40, 40, 20), (3, 3, 9), "too coarse"), ((8, 8, 8), (30, 1, 1), "too")],
)
def test_what_is_too_small_or_too_coarse_is_left_open(make_volume, shape, voxel, detail):
    found = tell_contrast(make_volume(shape, voxel, name="scan"))
    assert found.name == found.measured == ""
    assert detail in found.detail


def test_even_noise_and_empty_volumes_are_left_open():
    rng = np.random.default_rng(0)
    for data in (rng.rayleigh(5, (90, 90, 90)), np.zeros((90, 90, 90)), np.full((90, 90, 90), 7.0)):
        assert tell_contrast(Volume(data.astype(np.float32), np.diag([2, 2, 2, 1]), name="scan")).name == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01_ses-2_T1w", "T1w"),
        ("sub-01_acq-mprage_T1w gaussian x2", "T1w"),
        ("sub-01_T2w", "T2w"),
        ("sub-01_FLAIR", "FLAIR"),
        ("AX T2 FLAIR", "FLAIR"),
        ("t1_mprage_sag_p2_iso", "T1w"),
        ("sub-du7294_T1ce", "T1ce"),
        ("sub-01_PDw", "other"),
        ("T1 and T2", ""),
        ("sub-part2", ""),
        ("scan", ""),
    ],
)
def test_names_that_say_the_contrast(make_volume, name, expected):
    found = tell_contrast(make_volume((8, 8, 8), name=name))
    assert found.name == expected
    assert found.source == ("from its name" if expected else "from its intensities")


def test_the_file_name_comes_before_the_description_and_both_are_named(make_volume, tmp_path):
    for file, expected, source in (("scan", "FLAIR", "SeriesDescription"), ("sub-1_T2w", "T2w", "file name")):
        path = tmp_path / f"{file}.nii.gz"
        write_volume(make_volume((8, 8, 8)), path)
        path.with_name(f"{file}.json").write_text(json.dumps({"SeriesDescription": "SAG 3D FLAIR"}))
        found = tell_contrast(read_volume(path).replace(name="x"))
        assert found.name == expected
        assert source in found.source


def test_a_name_against_the_intensities_is_doubted():
    volume = read_sample("arc2208_T2w")
    assert tell_contrast(nameless(volume, name="sub-1_T1w")).doubtful
    assert not tell_contrast(nameless(volume, name="sub-1_T2w")).doubtful
    assert not tell_contrast(nameless(volume, name="sub-1_PDw"), measure=False).doubtful
