from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt, QThreadPool

from napari_mrsr.evaluation.align import align
from napari_mrsr.evaluation.maps import DIFFERENCES
from napari_mrsr.evaluation.metrics import ssim_map
from napari_mrsr.gui.compare import gallery as gallery_module
from napari_mrsr.gui.compare.view import Content
from napari_mrsr.gui.session import Role
from napari_mrsr.intensity import intensity_range
from napari_mrsr.planes import PLANES


@pytest.fixture
def painted(monkeypatch):
    """Values and windows of the slices that were coloured, last one last."""
    seen = []
    real = gallery_module.paint

    def paint(data, limits, colours, *more):
        seen.append((np.array(data), limits, colours))
        return real(data, limits, colours, *more)

    monkeypatch.setattr(gallery_module, "paint", paint)
    return seen


@pytest.fixture
def drawn(qtbot):
    """The slice of a layer that is on view, once all that it takes has been computed in the background."""

    def ready(dock, layer, plane="axial"):
        def done():
            images = [dock.board.gallery.drawn(x, PLANES[plane]).image for x in dock.view.shown() if x is not dock.view.against]
            return None not in images and QThreadPool.globalInstance().activeThreadCount() == 0

        qtbot.waitUntil(done, timeout=20000)
        qtbot.wait(20)
        return dock.board.gallery.drawn(layer, PLANES[plane])

    return ready


def in_plane(kind, truth, image, plane, volume):
    """Difference of two slices, written out with numpy alone."""
    spacing = volume.voxel_size[plane.across], volume.voxel_size[plane.up]
    if kind == "signed":
        return image - truth
    if kind == "absolute":
        return np.abs(image - truth)
    if kind == "squared":
        return (image - truth) ** 2
    if kind == "ssim":
        return ssim_map(truth, image, intensity_range(volume.data))
    slopes = [np.sqrt(sum(g**2 for g in np.gradient(x, *spacing))) for x in (image, truth)]
    return slopes[0] - slopes[1]


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("kind", DIFFERENCES)
def test_differences_are_exact(trio, compare, painted, drawn, head, kind, plane):
    dock = compare()
    dock.view.set(content=Content.DIFFERENCE, difference=kind, planes=(plane,))
    axis = PLANES[plane].slice_axis
    index = head.shape[axis] // 2 + 2
    point = list(trio.position)
    point[axis] = head.affine[axis, 3] + index * head.voxel_size[axis]
    trio.position = point
    layer = dock.viewer.layers["blurred"]
    drawn(dock, layer, plane)
    dock.board.gallery.forget()
    painted.clear()
    assert dock.board.gallery.drawn(layer, PLANES[plane]).index == index
    truth, image = (np.take(np.asarray(x, np.float32), index, axis) for x in (head.data, layer.data))
    expected = in_plane(kind, truth, image, PLANES[plane], head)
    values, limits, colours = painted[-1]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=2e-3)
    assert (limits[0] == -limits[1]) is DIFFERENCES[kind].signed
    assert colours is dock.board.gallery.colours()
    assert not DIFFERENCES[kind].signed or np.allclose(colours.map([0.5])[0, :3], 0, atol=0.01)


def test_the_range_is_shared_and_does_not_change_from_slice_to_slice(trio, compare, painted, drawn):
    dock = compare()
    dock.view.set(content=Content.DIFFERENCE, difference="signed")
    drawn(dock, dock.viewer.layers["blurred"])
    painted.clear()
    for _ in range(6):
        dock.board.step(1)
        dock.board.grab()
    limits = {limits for _, limits, _ in painted}
    assert len(painted) >= 12
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high
    assert high >= 50


def test_a_candidate_on_another_grid_is_resampled_in_the_background(trio, compare, painted, drawn, head):
    dock = compare()
    dock.view.set(content=Content.DIFFERENCE)
    low = trio.layer(Role.LOW_RESOLUTION)
    plane = PLANES["axial"]
    first = dock.board.gallery.drawn(low, plane)
    assert first.image is None
    assert first.message == "Putting LR on the grid of HR..."
    drawn(dock, low)
    painted.clear()
    trio.position = (*trio.position[:2], head.affine[2, 3] + 14 * head.voxel_size[2])
    dock.board.gallery.drawn(low, plane)
    aligned = align(head, [trio.volume(low)])
    expected = aligned.candidates[0].data[:, :, 14] - head.data[:, :, 14]
    np.testing.assert_allclose(painted[-1][0], expected, atol=1e-2)


def test_against_another_candidate(qtbot, trio, compare, painted, drawn):
    dock = compare()
    dock.view.set(content=Content.DIFFERENCE)
    compare.settle(dock)
    box = dock.toolbar.against
    assert box.currentText() == "Ground truth"
    box.setFocus()
    while box.currentText() != "blurred":
        qtbot.keyClick(box, Qt.Key.Key_Down)
    assert dock.view.against is dock.viewer.layers["blurred"]
    truth = trio.layer(Role.GROUND_TRUTH)
    drawn(dock, truth)
    dock.board.gallery.forget()
    painted.clear()
    index = dock.board.gallery.drawn(truth, PLANES["axial"]).index
    np.testing.assert_allclose(painted[-1][0], (truth.data - dock.viewer.layers["blurred"].data)[:, :, index], atol=1e-3)
    assert "against this image" in dock.board.gallery.drawn(dock.viewer.layers["blurred"], PLANES["axial"]).message


@pytest.mark.parametrize("which", ["HR", "blurred"])
def test_a_moved_image_is_compared_anew(trio, compare, painted, drawn, which):
    dock = compare()
    dock.view.set(content=Content.DIFFERENCE)
    layer = dock.viewer.layers["blurred"]
    drawn(dock, layer)
    moved = dock.viewer.layers[which]
    affine = moved.affine.affine_matrix.copy()
    affine[0, 3] += 2.0
    moved.affine = affine
    drawn(dock, layer)
    dock.board.gallery.forget()
    painted.clear()
    index = dock.board.gallery.drawn(layer, PLANES["axial"]).index
    values = painted[-1][0]
    assert values.shape[0] == moved.data.shape[0] - 2
    truth, image = dock.viewer.layers["HR"].data[..., index], layer.data[..., index]
    expected = image[2:] - truth[:-2] if which == "HR" else image[:-2] - truth[2:]
    np.testing.assert_allclose(values, expected, atol=1e-3)


def test_without_a_ground_truth_an_image_is_chosen_for_differences(trio, compare):
    dock = compare()
    trio.assign(Role.GROUND_TRUTH, None)
    compare.settle(dock)
    dock.toolbar.buttons["content Difference"].click()
    compare.settle(dock)
    assert dock.view.look.content is Content.DIFFERENCE
    against = dock.toolbar.against
    assert against.isVisible()
    blurred, brighter = (dock.viewer.layers[name] for name in ("blurred", "brighter"))
    assert "choose an image under Against" in dock.board.gallery.drawn(blurred, PLANES["axial"]).message
    against.setCurrentIndex(against.findText("brighter"))
    against.activated.emit(against.currentIndex())
    assert dock.view.against is brighter


def test_one_image_has_no_difference(viewer, add, head, compare):
    add(head, Role.GROUND_TRUTH)
    button = compare().toolbar.buttons["content Difference"]
    assert not button.isEnabled()
    assert "Two images" in button.toolTip()


def test_gradient_maps_share_one_window(trio, compare, painted, head):
    dock = compare()
    painted.clear()
    dock.view.set(content=Content.GRADIENT)
    painted.clear()
    dock.board.grab()
    assert len(painted) == 4
    assert len({limits for _, limits, _ in painted}) == 1
    truth = trio.layer(Role.GROUND_TRUTH)
    painted.clear()
    trio.position = (*trio.position[:2], head.affine[2, 3] + 10 * head.voxel_size[2])
    dock.board.gallery.drawn(truth, PLANES["axial"])
    slopes = np.gradient(head.data[:, :, 10], *head.voxel_size[:2])
    np.testing.assert_allclose(painted[-1][0], np.hypot(*slopes), rtol=1e-4, atol=1e-3)


def test_a_mask_painted_in_place_is_drawn_at_once(trio, compare, pixels, head):
    dock = compare()
    labels = dock.viewer.add_labels(np.zeros(head.shape, np.uint8), affine=head.affine, name="mask")
    compare.settle(dock)
    box = dock.toolbar.overlay
    box.setCurrentIndex(box.findText("mask"))
    box.activated.emit(box.currentIndex())
    assert dock.view.overlay is labels
    before = pixels(dock.board)
    index = dock.board.gallery.drawn(trio.layer(Role.GROUND_TRUTH), PLANES["axial"]).index
    labels.data[10:20, 10:20, index] = 1
    labels.refresh()
    after = pixels(dock.board)
    changed = (before != after).any(-1)
    for pane in dock.board.panes():
        place = pane.frame.point(*(head.affine[:2, 3] + 14.5 * np.array(head.voxel_size[:2])))
        assert changed[round(place.y()), round(place.x())]
        assert after[round(place.y()), round(place.x()), 1] > before[round(place.y()), round(place.x()), 1]
    outside = dock.board.panes()[0].frame.pane.topLeft()
    assert not changed[int(outside.y()) + 40, int(outside.x()) + 2]
    dock.view.set(opacity=0.0)
    dock.view.set(crosshair=True)
    assert np.array_equal(pixels(dock.board), before)
    dock.viewer.layers.remove("mask")
    compare.settle(dock)
    assert dock.view.overlay is None
    assert box.findText("mask") == -1


def test_painting_with_the_brush_redraws(qtbot, trio, compare, head):
    dock = compare()
    labels = dock.viewer.add_labels(np.zeros(head.shape, np.uint8), affine=head.affine, name="mask")
    dock.session.overlay = labels
    compare.settle(dock)
    drawn = []
    dock.board.gallery.overlay = lambda *_: drawn.append(1) or gallery_module.Drawn()
    qtbot.wait(20)
    drawn.clear()
    labels.paint((15, 15, 15), 1)
    qtbot.waitUntil(lambda: bool(drawn))


def test_a_map_is_laid_over_every_image(trio, compare, add, pixels, head):
    x = np.linspace(0, 1, head.shape[0], dtype=np.float32)[:, None, None] * np.ones(head.shape, np.float32)
    layer = add(head.replace(data=x, name="uncertainty"), colormap="inferno", contrast_limits=(0, 1))
    dock = compare()
    assert dock.toolbar.overlay.findText("uncertainty") > 0
    dock.session.overlay = layer
    dock.view.set(opacity=0.0)
    compare.settle(dock)
    before = pixels(dock.board)
    assert dock.toolbar.opacity.isVisible()
    dock.toolbar.opacity.setValue(60)
    changed = (pixels(dock.board) != before).any(-1)
    for pane in dock.board.panes():
        area = pane.frame.pane.toRect()
        assert changed[area.top() : area.bottom(), area.left() : area.right()].mean() > 0.2


def test_a_slice_too_small_for_ssim_says_so(qtbot, viewer, add, compare, head):
    tiny = head.replace(data=head.data[18:22, 20:24, 16:20])
    add(tiny, Role.GROUND_TRUTH)
    candidate = add(tiny.replace(data=tiny.data * 2, name="SR"), Role.CANDIDATE)
    dock = compare()
    dock.view.set(content=Content.DIFFERENCE, difference="ssim")
    qtbot.waitUntil(lambda: "SSIM" in dock.board.gallery.drawn(candidate, PLANES["axial"]).message)
    dock.board.grab()
