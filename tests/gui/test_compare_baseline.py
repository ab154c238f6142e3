"""Pictures of the board's main states against stored ones; ``MRSR_REWRITE_BASELINE=1`` stores them anew."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import QThreadPool
from skimage.transform import resize

from napari_mrsr.gui.compare.view import Content, Mode, Tool
from napari_mrsr.planes import PLANES
from napari_mrsr.volume import Box, Volume

FOLDER = Path(__file__).parent / "baseline"
SIZE = (160, 120)
"""Of the stored pictures: letters of any font blur to grey there."""
MEAN, EXTREME = 1.5, 35.0
"""Grey levels by which a picture may differ from the stored one: on average, and at the 99th percentile."""

STATES = {
    "panes": {},
    "three-planes": {"planes": tuple(PLANES)},
    "swipe": {"mode": Mode.SWIPE, "divider": 0.4},
    "checkerboard": {"mode": Mode.CHECKERBOARD, "tile": 10.0},
    "blend": {"mode": Mode.BLEND, "blend": 0.3, "planes": ("coronal",)},
    "difference": {"content": Content.DIFFERENCE, "difference": "signed"},
    "gradient": {"content": Content.GRADIENT},
    "region": {"tool": Tool.BOX},
    "oblique": {"planes": ("coronal",)},
}


def small(picture):
    return np.round(resize(picture.astype(float), (SIZE[1], SIZE[0], 3), anti_aliasing=True)).astype(np.uint8)


def differs(picture, stored) -> bool:
    gaps = np.abs(picture.astype(int) - stored.astype(int))
    return bool(gaps.mean() > MEAN or np.percentile(gaps, 99) > EXTREME)


def stored(name):
    return np.asarray(Image.open(FOLDER / f"{name}.png").convert("RGB"))


@pytest.fixture
def board(qtbot, trio, compare, head, make_affine):
    """Draw a state: the board's picture at a fixed size."""

    def draw(name, pixels):
        if name == "oblique":
            tilted = Volume(head.data, make_affine((1.0, 1.2, 1.5), (18, 0, 12), (-20, -30, 5)), name="tilted")
            trio.add_candidate(trio.viewer.add_image(tilted.data, affine=tilted.affine, name="tilted"))
        trio.position = (5.0, -2.4, 32.0)
        if name == "region":
            trio.roi = Box((-3.0, -8.0, 26.0), (9.0, 4.0, 38.0))
            trio.line = (-12.0, 8.0, 32.0), (6.0, 18.0, 32.0)
        dock = compare()
        dock.view.set(**STATES[name])
        dock.board.setFixedSize(800, 600)
        dock.board.grab()
        # Difference maps are made ready in the background.
        images = [x for x in dock.view.shown() if x is not dock.view.against]
        drawn = partial(dock.board.gallery.drawn, plane=dock.view.planes[0])
        qtbot.waitUntil(lambda: all(drawn(x).image is not None for x in images) and QThreadPool.globalInstance().activeThreadCount() == 0)
        qtbot.wait(50)
        return small(pixels(dock.board))

    return draw


@pytest.mark.parametrize("name", STATES)
def test_the_board_looks_as_it_did(board, pixels, name):
    picture = board(name, pixels)
    if os.environ.get("MRSR_REWRITE_BASELINE"):
        FOLDER.mkdir(exist_ok=True)
        Image.fromarray(picture).save(FOLDER / f"{name}.png", optimize=True)
    assert not differs(picture, stored(name))


@pytest.mark.parametrize("name", STATES)
def test_a_wrong_picture_is_noticed(name):
    """What the tolerance must not forgive: sides exchanged, upside down, shifted by 8 of 800 px, darker, in other colours, another state."""
    good = stored(name)
    wrong = {
        "mirrored": good[:, ::-1],
        "upside down": good[::-1],
        "shifted across": np.roll(good, 2, 1),
        "shifted up": np.roll(good, 2, 0),
        "darker": (good * 0.8).astype(np.uint8),
        "red and blue exchanged": good[..., ::-1],
    }
    coloured = np.abs(good[..., 0].astype(int) - good[..., 2]).mean() > 2 * MEAN
    unnoticed = [how for how, picture in wrong.items() if not differs(picture, good) and (coloured or "exchanged" not in how)]
    unnoticed += [other for other in STATES if other != name and not differs(stored(other), good)]
    assert unnoticed == []
