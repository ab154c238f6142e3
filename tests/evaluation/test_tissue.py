from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import ndimage

from napari_mrsr.errors import Cancelled, InputError
from napari_mrsr.evaluation import compare
from napari_mrsr.evaluation.frame import prepare
from napari_mrsr.evaluation.tissue import NOTE, dice, tissue_classes, tissue_dice, with_dice
from napari_mrsr.volume import Volume


@pytest.fixture(scope="module")
def tissues():
    """Shells of white matter, grey matter and fluid."""
    z, y, x = np.mgrid[-1:1:32j, -1:1:30j, -1:1:28j]
    radius = np.sqrt(x**2 + y**2 + z**2)
    return np.select([radius < 0.5, radius < 0.72, radius < 0.9], [3, 2, 1], 0).astype(np.uint8)


@pytest.fixture(scope="module")
def t1(tissues, make_affine):
    """Its T1-weighted image, with noise, and bright scalp beyond the brain."""
    clean = np.array([900.0, 150.0, 400.0, 650.0])[tissues]
    return Volume((clean + np.random.default_rng(0).normal(0, 30, clean.shape)).astype(np.float32), make_affine(), name="hr")


def test_classes_are_found(t1, tissues):
    found = tissue_classes(t1.data, tissues > 0)
    assert not found[tissues == 0].any()
    assert (found == tissues)[tissues > 0].mean() > 0.97
    # Any scale, and values below zero.
    assert (tissue_classes(t1.data / 4000 - 1, tissues > 0) == tissues)[tissues > 0].mean() > 0.97


def test_dice_by_hand():
    a = np.array([0, 1, 1, 2, 2, 3, 3, 3], np.uint8)
    b = np.array([0, 1, 2, 2, 2, 3, 0, 1], np.uint8)
    values = dice(a, b)
    assert (values.csf, values.gm, values.wm) == (2 * 1 / 4, 2 * 2 / 5, 2 * 1 / 4)
    assert values.mean == pytest.approx((0.5 + 0.8 + 0.5) / 3)
    assert dice(a[:3], a[:3]).wm == 1


def test_dice_falls_with_blur(t1, tissues):
    blurred = [t1.replace(data=ndimage.gaussian_filter(t1.data, s), name=f"blur {s}") for s in (0.7, 1.6)]
    part = t1.crop([slice(2, 30), slice(None), slice(None)]).replace(name="part")
    frame = prepare(t1, [part, *blurred])
    brain = t1.replace(data=(tissues > 0).astype(np.uint8), name="brain")
    found = tissue_dice(frame, brain)
    assert found[0].mean == 1
    assert 1 > found[1].mean > found[2].mean > 0.3
    comparison = with_dice(compare(t1, [part, *blurred]), found)
    assert [r.dice for r in comparison.results] == found
    assert comparison.notes == [NOTE]
    assert type(comparison).model_validate_json(comparison.model_dump_json()) == comparison


def test_bad_input_is_one_sentence(t1, tissues, monkeypatch):
    frame = prepare(t1, [t1.crop([slice(0, 12), slice(None), slice(None)])])
    high = np.zeros(t1.shape, np.uint8)
    high[25:] = 1
    with pytest.raises(InputError, match="brain: the mask holds no voxel that all candidates cover"):
        tissue_dice(frame, t1.replace(data=high, name="brain"))
    with pytest.raises(InputError, match="holds no image to tell tissues in"):
        tissue_classes(np.ones(t1.shape), tissues > 0)
    with pytest.raises(Cancelled):
        tissue_dice(frame, t1.replace(data=tissues, name="brain"), stopped=lambda: True)
    monkeypatch.setitem(sys.modules, "dipy.segment.tissue", None)
    with pytest.raises(InputError, match=r'pip install "napari-mrsr\[tissue\]"'):
        tissue_classes(t1.data, tissues > 0)
