"""The slice of a training on the screen: the right way up, and where the user left the slider."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from napari_mrsr.gui import _compat
from napari_mrsr.gui.train_layers import PreviewLayers
from napari_mrsr.training.history import History, Scored

SHAPE = (12, 14, 1)


@pytest.fixture
def history(tmp_path):
    """A run of which validations are told one by one."""
    folder = tmp_path / "preview"
    folder.mkdir()
    truth = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    for name in ("truth", "cubic"):
        np.save(folder / f"{name}.npy", truth)
    run = SimpleNamespace(path=tmp_path, recipe=lambda: SimpleNamespace(name="mine"))
    found = History(run)
    found.started = {"preview": {"name": "head", "axis": 2, "affine": np.diag([1.0, 1.0, 3.0, 1.0]).tolist()}}

    def tell(step):
        np.save(folder / f"{step}.npy", truth + 0.01 * step)
        found.scores.append(Scored(step, 20.0 + step, True, f"{step}.npy"))

    found.tell = tell
    return found


def test_the_slider_follows_unless_somebody_looks_at_an_earlier_validation(viewer, history):
    preview = PreviewLayers(viewer)
    for step in (0, 1, 2):
        history.tell(step)
        preview.show(history)
        assert preview._index() == step
    viewer.dims.point = (1, *viewer.dims.point[1:])
    history.tell(3)
    preview.show(history)
    assert preview._index() == 1
    assert len(preview.layers["prediction"].data) == 4
    assert "validation 2 of 4" in preview.caption()
    viewer.dims.point = (3, *viewer.dims.point[1:])
    history.tell(4)
    preview.show(history)
    assert preview._index() == 4


@pytest.mark.parametrize("empty", [True, False])
def test_in_an_empty_viewer_the_slice_is_shown_the_radiological_way(viewer, history, empty):
    if not empty:
        viewer.add_image(np.zeros((5, 5, 5)))
    before = tuple(_compat.camera(viewer).orientation2d)
    history.tell(0)
    PreviewLayers(viewer).show(history)
    assert tuple(_compat.camera(viewer).orientation2d) == (("up", "left") if empty else before)
    assert before != ("up", "left")
    assert viewer.dims.order[-2:] == (2, 1)
