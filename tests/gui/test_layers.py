from __future__ import annotations

import itertools

import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.gui.layers import SNAP_DEGREES, display_affine, face_axial, layer_to_volume, robust_limits, volume_to_layer
from napari_mrsr.inference import super_resolve
from napari_mrsr.volume import Volume


def oblique(affine: np.ndarray, degrees: float) -> np.ndarray:
    a = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    return turn @ affine


def as_layer(volume: Volume) -> Image:
    data, meta, _ = volume_to_layer(volume)
    return Image(data, **meta)


def edges(layer: Image) -> np.ndarray:
    """World positions of the outer voxel corners."""
    shape = np.array(layer.data.shape)
    return np.array([layer.data_to_world(np.where(c, shape - 0.5, -0.5)) for c in itertools.product((0, 1), repeat=3)])


@pytest.mark.parametrize("degrees", [0, 12])
def test_layers_of_all_resolutions_cover_the_same_millimetres(head, degrees):
    head = head.replace(affine=oblique(head.affine, degrees))
    low = degrade(head, Degradation())
    high = super_resolve(low, "cubic")
    truth = edges(as_layer(head))
    np.testing.assert_allclose(edges(as_layer(low)), truth, atol=1e-3)
    np.testing.assert_allclose(edges(as_layer(high)), truth, atol=1e-3)


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_every_stored_order_shows_the_same_place(viewer, head, permutation, flips):
    data = head.data.transpose(permutation)[tuple(slice(None, None, f) for f in flips)]
    to_new = np.zeros((4, 4))
    to_new[3, 3] = 1
    for new, old in enumerate(permutation):
        to_new[old, new] = flips[new]
        if flips[new] < 0:
            to_new[old, 3] = data.shape[new] - 1
    stored = Volume(data, head.affine @ to_new)
    layer = as_layer(stored)
    viewer.add_layer(layer)
    viewer.dims.order = (2, 1, 0)
    world = head.affine @ [30, 20, 10, 1]
    index = tuple(np.round(layer.world_to_data(world[:3])).astype(int))
    assert layer.data[index] == head.data[30, 20, 10]


def test_units_and_axes_are_set(head):
    layer = as_layer(head)
    assert [str(u) for u in layer.units] == ["millimeter"] * 3
    assert layer.axis_labels == ("R", "A", "S")


def test_our_layer_gives_back_its_volume(head):
    assert layer_to_volume(as_layer(head)) is head


def test_a_moved_layer_gives_the_moved_position(head):
    layer = as_layer(head)
    layer.affine = np.diag([1, 1, 1, 1]) @ head.affine + np.array([[0, 0, 0, 7], *np.zeros((3, 4))])
    moved = layer_to_volume(layer)
    assert moved.affine[0, 3] == pytest.approx(head.affine[0, 3] + 7)


def test_a_foreign_layer_is_read_with_scale_and_translate():
    layer = Image(np.arange(27.0).reshape(3, 3, 3), scale=(2, 3, 4), translate=(5, 6, 7))
    volume = layer_to_volume(layer)
    assert volume.voxel_size == pytest.approx((2, 3, 4))
    np.testing.assert_allclose(volume.affine[:3, 3], (5, 6, 7))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Image(np.zeros((4, 4))), "2 dimensions"),
        (Image(np.zeros((2, 4, 4, 4))), "4 dimensions"),
        (Image(np.zeros((4, 4, 4, 3)), rgb=True), "colour"),
        (Labels(np.zeros((4, 4, 4), int)), "not an image"),
        (Image(np.full((4, 4, 4), np.nan)), "NaN"),
    ],
)
def test_what_is_not_a_volume_is_refused_with_a_sentence(layer, words):
    with pytest.raises(InputError, match=words):
        layer_to_volume(layer)


def test_header_rounding_is_not_shown_as_a_rotation(head):
    shaken = head.replace(affine=oblique(head.affine, SNAP_DEGREES / 2))
    shown = display_affine(shaken)
    assert np.count_nonzero(shown[:3, :3] - np.diag(np.diag(shown[:3, :3]))) == 0
    centre = np.append((np.array(head.shape) - 1) / 2, 1)
    np.testing.assert_allclose(shown @ centre, shaken.affine @ centre, atol=1e-9)


def test_limits_are_never_degenerate():
    for value in (0.0, 5.0, -3.0):
        low, high = robust_limits(Volume(np.full((8, 8, 8), value), np.eye(4)))
        assert high > low


@pytest.mark.shown
def test_right_side_of_the_patient_is_on_the_left_of_the_screen(qtbot, viewer, head):
    from napari_mrsr.gui import _compat

    data, meta, _ = volume_to_layer(head)
    viewer.add_image(data, **meta)
    face_axial(viewer)
    viewer.dims.set_point(2, 30.0)
    viewer.reset_view()
    qtbot.wait(50)
    picture = viewer.screenshot(canvas_only=True, flash=False)[..., 0].astype(float)
    middle = picture.shape[1] // 2
    assert picture[:, :middle].mean() > 1.1 * picture[:, middle:].mean()
    assert tuple(str(o).split(".")[-1].lower() for o in _compat.camera(viewer).orientation2d) == ("up", "left")
