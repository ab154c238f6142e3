from __future__ import annotations

import itertools

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QRectF, Qt
from qtpy.QtGui import QImage, QKeyEvent, QPainter

from napari_mrsr.gui.compare.captions import NARROW, captions
from napari_mrsr.gui.compare.overlays import figures, title
from napari_mrsr.gui.compare.view import MAX_IMAGES, View
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.planes import PLANES
from napari_mrsr.volume import Volume

ALL = tuple(PLANES)


def names(dock):
    return [pane.layers[0].name for pane in dock.board.panes()]


def drawn_box(picture, area: QRectF):
    """Left, top, right and bottom of what is not black within a part of a picture, px."""
    top, left = int(area.top()), int(area.left())
    part = picture[top : int(area.bottom()), left : int(area.right())].max(-1) > 0
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    return left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1


@pytest.fixture
def bare(monkeypatch):
    """Nothing is written or drawn over the images."""
    for name in ("title", "letters", "scale_bar", "crosshair"):
        monkeypatch.setattr(f"napari_mrsr.gui.compare.overlays.{name}", lambda *_, **__: 0)


def test_every_image_has_a_pane_in_order(trio, compare):
    assert names(compare()) == ["LR", "blurred", "brighter", "HR"]


def test_captions_give_name_and_the_images_own_slice(trio, compare):
    dock = compare()
    low, high = trio.layer(Role.LOW_RESOLUTION), trio.layer(Role.GROUND_TRUTH)
    trio.position = (0.0, 0.0, 5 + 1.5 * 21)
    texts = {pane.layers[0]: captions(dock.view, dock.board.gallery, pane) for pane in dock.board.panes()}
    assert texts[high][0] == ["HR", "slice 22/36"]
    step = trio.volume(low).voxel_size[2]
    own = round((5 + 1.5 * 21 - trio.volume(low).affine[2, 3]) / step) + 1
    assert texts[low][0] == ["LR", f"slice {own}/{low.data.shape[2]}"]
    assert texts[low][0][1] != texts[high][0][1]
    trio.set_captions({low: "PSNR 30.1"})
    assert captions(dock.view, dock.board.gallery, dock.board.panes()[0])[0][-1] == "PSNR 30.1"
    trio.position = (0.0, 0.0, 500.0)
    assert captions(dock.view, dock.board.gallery, dock.board.panes()[0])[0][1] == "no slice here"


def test_only_lines_beside_other_text_have_half_of_the_width(trio, compare, monkeypatch):
    dock, widths = compare(), {}
    low = trio.layer(Role.LOW_RESOLUTION)
    trio.set_captions({low: "PSNR 23.39 dB"})
    monkeypatch.setattr("napari_mrsr.gui.compare.overlays.write", lambda _p, at, _f, text, *_, **__: widths.update({text: at.width()}))
    for narrow, size in ((False, 1000), (True, 400)):
        widths.clear()
        dock.resize(size, 760)
        dock.board.grab()
        width = dock.board.panes()[0].frame.pane.width()
        assert (width < NARROW) is narrow
        assert widths["PSNR 23.39 dB"] == width - 10
        assert widths["LR"] == (width - 10 if narrow else width / 2 - 15)


def test_numbers_are_whole_or_left_out_and_names_are_cut_at_their_ends(trio, compare, monkeypatch):
    dock, drawn = compare(), []
    low = trio.layer(Role.LOW_RESOLUTION)
    low.name = "a low resolution of a very long name"
    trio.set_captions({low: "PSNR 23.39 dB  SSIM 0.777 (ROI)"})
    monkeypatch.setattr("qtpy.QtGui.QPainter.drawText", lambda _, *parts: drawn.append(parts[-1]))

    def texts(width):
        drawn.clear()
        pane = dock.board.panes()[0]
        painter = QPainter(picture)
        rows = title(painter, QRectF(0, 0, width, 300), captions(dock.view, dock.board.gallery, pane)[0], 0)
        painter.end()
        assert rows == len(dict.fromkeys(drawn))
        return list(dict.fromkeys(drawn))

    picture = QImage(10, 10, QImage.Format.Format_RGB32)
    name, number, *rest = texts(600)
    assert (name, rest) == (low.name, ["PSNR 23.39 dB  SSIM 0.777 (ROI)"])
    name, *lines = texts(140)
    assert name.endswith("…")
    assert low.name.startswith(name[:-1])
    assert lines == [number, "PSNR 23.39 dB", "SSIM 0.777 (ROI)"]
    assert texts(40)[1:] == []


@pytest.mark.parametrize(
    ("value", "text"), [(1984.4, "1984"), (-19840.0, "-19840"), (99.96, "100"), (0.01234, "0.0123"), (2.5e5, "2.5e+05"), (0.0, "0")]
)
def test_figures_of_the_colour_bar(value, text):
    assert figures(value) == text


def test_the_menu_hides_and_shows_images(trio, compare):
    dock = compare()
    menu = dock.toolbar.shown.menu()
    menu.aboutToShow.emit()
    entries = {entry.text(): entry for entry in menu.actions()}
    assert [entry.isChecked() for entry in entries.values()] == [True] * 4
    entries["blurred"].trigger()
    assert names(dock) == ["LR", "brighter", "HR"]
    menu.aboutToShow.emit()
    entry = next(e for e in menu.actions() if e.text() == "blurred")
    assert not entry.isChecked()
    entry.trigger()
    assert names(dock) == ["LR", "blurred", "brighter", "HR"]
    assert all(layer.visible for layer in dock.viewer.layers)


def test_nine_images_at_most(trio, compare, add, head):
    for n in range(8):
        trio.add_candidate(add(head.replace(data=head.data, name=f"more {n}")))
    dock = compare()
    assert len(dock.view.images()) == 12
    assert len(dock.board.panes()) == MAX_IMAGES == 9
    dock.view.show(trio.layer(Role.LOW_RESOLUTION), False)
    assert len(dock.board.panes()) == 9
    assert "LR" not in names(dock)


@pytest.mark.parametrize("size", [(340, 700), (1000, 760), (1500, 420)])
@pytest.mark.parametrize("planes", [("coronal",), ALL], ids=["one", "three"])
def test_panes_fill_the_board_without_overlap_at_one_zoom(trio, compare, size, planes):
    dock = compare(*size)
    dock.view.set(planes=planes)
    panes = dock.board.panes()
    assert len(panes) == 4 * len(planes)
    assert {(p.layers[0].name, p.plane.name) for p in panes} == set(itertools.product(["LR", "blurred", "brighter", "HR"], planes))
    assert len({p.frame.zoom for p in panes}) == 1
    areas = [p.frame.pane for p in panes]
    for one, other in itertools.combinations(areas, 2):
        assert one.intersected(other).isEmpty()
    board = QRectF(dock.board.rect())
    assert all(board.adjusted(-0.1, -0.1, 0.1, 0.1).contains(area) for area in areas)
    # Four panes in a grid leave no room but the gaps.
    assert sum(a.width() * a.height() for a in areas) > 0.9 * board.width() * board.height()
    for pane in panes:
        extent = dock.view.space.extent(trio.volume(pane.layers[0]))
        for corner in extent:
            at = pane.frame.point(corner[pane.plane.across], corner[pane.plane.up])
            assert pane.frame.pane.adjusted(-0.1, -0.1, 0.1, 0.1).contains(at)


def test_each_plane_shows_its_own_slice_at_its_own_place(viewer, add, compare, pixels, bare):
    """A bright block off the centre: where it is drawn in each plane follows from its millimetres alone."""
    data = np.zeros((40, 48, 36), np.float32)
    data[25:31, 8:20, 22:26] = 100
    volume = Volume(data, np.diag((1.0, 1.2, 1.5, 1.0)), name="block")
    add(volume, Role.GROUND_TRUTH)
    session = Session.of(viewer)
    session.position = (27.0, 13 * 1.2, 23 * 1.5)
    dock = compare()
    dock.view.set(planes=ALL)
    picture = pixels(dock.board)
    low, high = np.array((25, 8, 22)) - 0.5, np.array((31, 20, 26)) - 0.5
    size = np.array((1.0, 1.2, 1.5))
    for pane in dock.board.panes():
        zoom, plane, area = pane.frame.zoom, pane.plane, pane.frame.pane
        left, top, right, bottom = drawn_box(picture, area)
        ends = low * size, high * size
        assert right - left == pytest.approx(zoom * (ends[1] - ends[0])[plane.across], abs=2)
        assert bottom - top == pytest.approx(zoom * (ends[1] - ends[0])[plane.up], abs=2)
        middle = (np.array(data.shape) / 2 - 0.5) * size
        # Radiological: right, or front, on the left; up is up.
        assert (left + right) / 2 == pytest.approx(area.center().x() - zoom * ((ends[0] + ends[1]) / 2 - middle)[plane.across], abs=2)
        assert (top + bottom) / 2 == pytest.approx(area.center().y() - zoom * ((ends[0] + ends[1]) / 2 - middle)[plane.up], abs=2)


@pytest.mark.parametrize("radiological", [True, False])
def test_side_of_the_patient(qtbot, trio, compare, pixels, bare, radiological):
    dock = compare()
    if not radiological:
        dock.toolbar.buttons["radiological"].click()
    assert dock.view.look.radiological is radiological
    compare.settle(dock)
    assert dock.toolbar.buttons["radiological"].text() == ("R left" if radiological else "L left")
    picture = pixels(dock.board).mean(-1)
    for pane in dock.board.panes():
        area = pane.frame.pane.toRect()
        part = picture[area.top() : area.bottom(), area.left() : area.right()]
        left, right = part[:, : part.shape[1] // 2].mean(), part[:, part.shape[1] // 2 :].mean()
        assert bool(left > right) is radiological


def test_letters_are_drawn_where_the_sides_are(trio, compare, monkeypatch):
    dock = compare()
    places = {}
    monkeypatch.setattr("napari_mrsr.gui.compare.overlays.write", lambda _painter, _at, flags, text, *_, **__: places.setdefault(text, flags))
    align = Qt.AlignmentFlag
    for radiological, left, right in ((True, "R", "L"), (False, "L", "R")):
        places.clear()
        dock.view.set(radiological=radiological)
        dock.board.grab()
        assert places[left] == align.AlignLeft | align.AlignVCenter
        assert places[right] == align.AlignRight | align.AlignVCenter
        assert places["A"] == align.AlignHCenter | align.AlignTop
        assert places["P"] == align.AlignHCenter | align.AlignBottom


def test_choices_are_remembered(trio, compare):
    dock = compare()
    dock.view.set(radiological=False, smooth=True, crosshair=False, linked=False, tile=7.0)
    again = View(trio)
    assert (again.look.radiological, again.look.smooth, again.look.crosshair, again.look.linked) == (False, True, False, False)
    assert again.look.tile == type(again.look).tile
    again.close()


def test_an_image_is_drawn_smooth_or_in_voxels(trio, compare, pixels, bare):
    dock = compare()
    dock.view.show(trio.layer(Role.GROUND_TRUTH), False)
    dock.view.set(zoom=30.0)
    colours = []
    for smooth in (False, True):
        dock.view.set(smooth=smooth)
        area = dock.board.panes()[0].frame.pane.toRect()
        colours.append(len(np.unique(pixels(dock.board)[area.top() : area.bottom(), area.left() : area.right()])))
    assert colours[1] > 2 * colours[0]


def test_gamma_and_colours_of_the_layer_are_drawn(trio, compare, pixels, bare):
    dock = compare()
    plain = pixels(dock.board)
    trio.layer(Role.GROUND_TRUTH).gamma = 0.5
    lighter = pixels(dock.board)
    assert lighter.mean() > plain.mean() + 2
    trio.layer(Role.GROUND_TRUTH).colormap = "magenta"
    area = dock.board.panes()[3].frame.pane.toRect()
    part = pixels(dock.board)[area.top() : area.bottom(), area.left() : area.right()].reshape(-1, 3)
    assert part[:, 0].max() > 200
    assert part[:, 1].max() < 30


def test_of_many_images_the_low_resolution_the_truth_and_the_latest_are_shown(trio, compare, add, head):
    for number in range(10):
        trio.add_candidate(add(head.replace(data=head.data + number, name=f"more {number}")))
    names = [layer.name for layer in compare().view.shown()]
    assert len(names) == 9
    assert names[0] == "LR"
    assert names[-1] == "HR"
    assert names[1:-1] == [f"more {number}" for number in range(3, 10)]


def test_the_plane_looked_at_is_that_of_compare_while_it_fills_the_window(trio, compare, qtbot):
    dock, heard = compare(), []
    trio.axis_changed.connect(lambda: heard.append(trio.axis))
    napari = int(trio.viewer.dims.order[0])
    dock.view.set(planes=("coronal",))
    compare.settle(dock)
    assert trio.axis == napari
    dock.toggle_fill()
    assert trio.axis == 1
    dock.view.set(planes=("sagittal",))
    compare.settle(dock)
    assert trio.axis == 0
    dock.toggle_fill()
    assert trio.axis == napari
    assert heard[:2] == [1, 0]


@pytest.mark.parametrize(("key", "text", "keys", "kept"), [("7", "7", "No", True), ("E", "e", "No", True), ("S", "\x13", "Control", False)])
def test_keys_that_are_not_its_own_do_not_reach_napari(trio, compare, key, text, keys, kept):
    event = QKeyEvent(QEvent.Type.KeyPress, getattr(Qt.Key, f"Key_{key}"), getattr(Qt.KeyboardModifier, f"{keys}Modifier"), text)
    compare().keyPressEvent(event)
    assert event.isAccepted() == kept
