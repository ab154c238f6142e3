"""The Line profile dock: real widgets; the line in the viewer, in the fields and in the session are one."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtTest import QTest
from scipy.special import erf

from napari_mrsr.gui import _compat
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.line_layer import LineLayer
from napari_mrsr.gui.profile_dock import NO_LINE, ProfileDock
from napari_mrsr.gui.session import Role, Session
from napari_mrsr.volume import Volume

LEFT = Qt.MouseButton.LeftButton
WAIT = 20_000
LINE = ((5.0, 15.0, 12.0), (25.0, 15.0, 12.0))


def edge_volume(sigma, name, voxel=1.0, shape=(32, 30, 24)):
    """Edge at x = 15 mm from 100 to 300."""
    x = np.arange(shape[0]) * voxel
    data = np.broadcast_to((100 + 100 * (1 + erf((x - 15) / (np.sqrt(2) * sigma))))[:, None, None], shape)
    return Volume(data.astype(np.float32), np.diag([voxel, 1, 1, 1]), name=name)


@pytest.fixture
def edges(viewer):
    """Two candidates with edges of known width."""
    for volume in (edge_volume(1.5, "sharp"), edge_volume(3.0, "soft")):
        data, meta, _ = volume_to_layer(volume, metadata={"role": Role.CANDIDATE})
        viewer.add_image(data, **meta)
    viewer.dims.order = (2, 1, 0)
    viewer.dims.set_point(2, 12.0)
    return viewer


@pytest.fixture
def dock(edges, said):
    widget = ProfileDock(edges)
    edges.window.add_dock_widget(widget, name="Line profile")
    return widget


def draw(qtbot, dock, line=LINE):
    dock.session.line = line
    qtbot.waitUntil(lambda: dock.reading is not None and not dock._busy and not dock._soon.isActive(), timeout=WAIT)


def shape_of(viewer):
    return viewer.layers[LineLayer.LAYER].data


def test_without_a_line_it_says_what_to_do(qtbot, dock):
    qtbot.waitUntil(lambda: dock.status.text() == NO_LINE, timeout=WAIT)
    assert not dock.copy_button.isEnabled()
    assert dock.copy_button.toolTip() == NO_LINE
    assert not dock.clear_button.isEnabled()
    assert dock.table.rowCount() == 0


def test_widths_of_known_edges(qtbot, dock):
    draw(qtbot, dock)
    rows = [[float(dock.table.item(row, column).text()) for column in range(3)] for row in range(2)]
    assert rows[0] == pytest.approx([2.563 * 1.5, 10, 0], rel=0.05, abs=0.05)
    assert rows[1] == pytest.approx([2.563 * 3.0, 10, 0], rel=0.05, abs=0.5)
    assert [dock.table.verticalHeaderItem(row).text() for row in range(2)] == ["sharp", "soft"]
    curves = dock.plot.getPlotItem().listDataItems()
    assert len(curves) == 2
    assert curves[0].opts["pen"].color() != curves[1].opts["pen"].color()
    assert curves[0].opts["pen"].style() != curves[1].opts["pen"].style()
    x, y = curves[0].getData()
    assert (x[0], x[-1]) == (0, 20)
    assert y[0] == pytest.approx(100, abs=1)


def test_the_band_follows_the_row(qtbot, dock):
    draw(qtbot, dock)
    for row in range(2):
        dock.table.setCurrentCell(row, 0)
        edge = dock.reading.edges[row]
        assert dock.plot._band.isVisible()
        assert dock.plot._band.getRegion() == pytest.approx((edge.position - edge.width / 2, edge.position + edge.width / 2))


def test_each_from_0_to_1(qtbot, dock):
    draw(qtbot, dock)
    dock.normalise.click()
    for curve in dock.plot.getPlotItem().listDataItems():
        values = curve.getData()[1]
        assert (values.min(), values.max()) == (0, 1)
    assert dock.plot.getAxis("left").labelText == "share of own range"


def test_ends_can_be_typed(qtbot, dock, edges):
    draw(qtbot, dock)
    assert [dock.fields[e, a].value() for e in range(2) for a in range(3)] == [5, 15, 12, 25, 15, 12]
    field = dock.fields[1, 0]
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, "28")
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert dock.session.line == ((5, 15, 12), (28, 15, 12))
    qtbot.waitUntil(lambda: dock.reading.profiles[0].distance[-1] == 23, timeout=WAIT)


def test_typing_rounds_nothing_that_was_drawn(qtbot, dock):
    draw(qtbot, dock, ((5.123, 15.456, 12.0), (25.0, 15.0, 12.0)))
    dock.fields[1, 1].setValue(16.0)
    assert dock.session.line == ((5.123, 15.456, 12.0), (25.0, 16.0, 12.0))


def test_the_line_lies_on_its_plane_in_the_viewer(qtbot, dock, edges):
    draw(qtbot, dock)
    qtbot.waitUntil(lambda: LineLayer.LAYER in edges.layers and len(shape_of(edges)) == 1, timeout=WAIT)
    np.testing.assert_allclose(shape_of(edges)[0], LINE)
    edges.dims.set_point(2, 18.0)
    qtbot.waitUntil(lambda: len(shape_of(edges)) == 0, timeout=WAIT)
    assert dock.session.line == LINE
    edges.dims.set_point(2, 12.0)
    qtbot.waitUntil(lambda: len(shape_of(edges)) == 1, timeout=WAIT)
    edges.layers.remove(LineLayer.LAYER)
    assert dock.session.line is None


def test_clear_takes_line_and_layer(qtbot, dock, edges):
    draw(qtbot, dock)
    qtbot.mouseClick(dock.clear_button, LEFT)
    assert dock.session.line is None
    qtbot.waitUntil(lambda: LineLayer.LAYER not in edges.layers and dock.status.text() == NO_LINE, timeout=WAIT)
    assert dock.table.rowCount() == 0


def test_a_moved_shape_moves_the_line(qtbot, dock, edges):
    tilted = ((5.0, 15.0, 11.5), (25.0, 15.0, 12.5))
    draw(qtbot, dock, tilted)
    qtbot.waitUntil(lambda: LineLayer.LAYER in edges.layers and len(shape_of(edges)) == 1, timeout=WAIT)
    layer = edges.layers[LineLayer.LAYER]
    moved = layer.data[0] + np.array([1, 2, 0])
    layer._data_view.edit(0, moved)
    layer.events.data(value=layer.data, action="changed", data_indices=(0,), vertex_indices=((),))
    assert np.allclose(dock.session.line, np.array(tilted) + np.array([1, 2, 0]))


@pytest.mark.shown
def test_a_line_dragged_in_the_canvas(qtbot, dock, edges, said):
    edges.reset_view()
    qtbot.wait(100)
    qtbot.mouseClick(dock.draw_button, LEFT)
    layer = edges.layers[LineLayer.LAYER]
    assert edges.layers.selection.active is layer
    assert layer.mode == "add_line"
    canvas = _compat.unwrap(edges).window._qt_viewer.canvas

    def pixel(x, y):
        transform = canvas.view.transform * canvas.view.scene.transform
        px, py = transform.map((x, y))[:2]
        return QPoint(round(px), round(py))

    # Displayed axes are (A, R): vispy's x is R.
    start, stop = pixel(6.0, 14.0), pixel(24.0, 16.0)
    native = canvas.native
    none = Qt.KeyboardModifier.NoModifier
    QTest.mousePress(native, LEFT, none, start)
    for share in np.linspace(0.1, 1, 10):
        QTest.mouseMove(native, start + (stop - start) * float(share))
        qtbot.wait(5)
    QTest.mouseRelease(native, LEFT, none, stop)
    qtbot.waitUntil(lambda: dock.session.line is not None, timeout=WAIT)
    np.testing.assert_allclose(sorted(dock.session.line), [(6, 14, 12), (24, 16, 12)], atol=0.7)
    qtbot.waitUntil(lambda: dock.reading is not None, timeout=WAIT)
    assert dock.table.rowCount() == 2
    assert said == []


def test_images_come_and_go(qtbot, dock, edges):
    draw(qtbot, dock)
    dock.session.drop_candidate(edges.layers["sharp"])
    qtbot.waitUntil(lambda: dock.table.rowCount() == 1, timeout=WAIT)
    edges.layers["soft"].name = "softer"
    qtbot.waitUntil(lambda: dock.table.verticalHeaderItem(0).text() == "softer", timeout=WAIT)
    edges.layers.remove("softer")
    qtbot.waitUntil(lambda: "no image" in dock.status.text(), timeout=WAIT)


def test_no_edge_is_told_in_its_row(qtbot, dock, edges):
    flat = Volume(np.full((32, 30, 24), 7, np.float32) + np.arange(24, dtype=np.float32), np.eye(4), name="flat")
    data, meta, _ = volume_to_layer(flat, metadata={"role": Role.CANDIDATE})
    edges.add_image(data, **meta)
    draw(qtbot, dock)
    qtbot.waitUntil(lambda: dock.table.rowCount() == 3, timeout=WAIT)
    assert [dock.table.item(2, column).text() for column in range(3)] == ["–"] * 3
    assert "no clear edge" in dock.table.item(2, 0).toolTip()
    dock.table.setCurrentCell(2, 0)
    assert not dock.plot._band.isVisible()


def test_width_and_interpolation_reach_the_reading(qtbot, dock):
    draw(qtbot, dock, ((5.0, 15.0, 12.0), (20.0, 25.0, 12.0)))
    plain = dock.reading.profiles[0].values.copy()
    dock.width_box.setValue(6.0)
    qtbot.waitUntil(lambda: not np.array_equal(dock.reading.profiles[0].values, plain), timeout=WAIT)
    wide = dock.reading.profiles[0].values.copy()
    dock.interpolation.setCurrentText("cubic")
    qtbot.waitUntil(lambda: not np.array_equal(dock.reading.profiles[0].values, wide), timeout=WAIT)


def test_copy_csv(qtbot, dock):
    draw(qtbot, dock)
    qtbot.mouseClick(dock.copy_button, LEFT)
    rows = list(csv.reader(io.StringIO(QGuiApplication.clipboard().text())))
    assert rows[0][:2] == ["image", "width_10_90_mm"]
    assert [row[0] for row in rows[1:3]] == ["sharp", "soft"]
    assert float(rows[1][1]) == pytest.approx(dock.reading.edges[0].width, abs=1e-3)
    start = rows.index(["distance_mm", "sharp", "soft"])
    values = np.array(rows[start + 1 :], float)
    np.testing.assert_allclose(values[:, 0], dock.reading.profiles[0].distance, atol=1e-3)
    np.testing.assert_allclose(values[:, 2], dock.reading.profiles[1].values, rtol=1e-4)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_plot_follows_the_theme(dock, edges, theme):
    edges.theme = theme
    background = dock.plot.backgroundBrush().color()
    ink = dock.plot.getAxis("left").textPen().color()
    assert (background.lightness() < 128) == (theme == "dark")
    assert abs(background.lightness() - ink.lightness()) > 100


def test_a_dock_that_is_gone_hears_nothing(qtbot, edges, said):
    session = Session.of(edges)
    signals = (session.roles_changed, session.layers_changed, session.line_changed, session.position_changed)
    before = [len(s) for s in signals]
    widget = ProfileDock(edges)
    docked = edges.window.add_dock_widget(widget, name="Line profile")
    session.line = LINE
    qtbot.waitUntil(lambda: widget.reading is not None, timeout=WAIT)
    edges.window.remove_dock_widget(docked)
    with qtbot.waitSignal(widget.destroyed):
        widget.deleteLater()
    assert [len(s) for s in signals] == before
    session.line = None
    edges.theme = "light"
    edges.dims.set_point(2, 5.0)
