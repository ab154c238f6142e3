from __future__ import annotations

import struct
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from napari_mrsr.errors import OutputError
from napari_mrsr.figures import save_figure


@pytest.fixture
def figure():
    figure = Figure(figsize=(2, 1))
    figure.text(0.5, 0.5, "words")
    return figure


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("c.PDF", b"%PDF")])
def test_formats(figure, tmp_path, name, start):
    path = save_figure(figure, tmp_path / name)
    assert path.read_bytes().startswith(start)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_png_has_200_dots_per_inch_whatever_the_user_set(figure, tmp_path):
    with mpl.rc_context({"savefig.bbox": "tight", "savefig.dpi": 50, "savefig.transparent": True}):
        path = save_figure(figure, tmp_path / "a.png")
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (400, 200)


def test_existing_file_is_kept_unless_told(figure, tmp_path):
    path = tmp_path / "a.png"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        save_figure(figure, path)
    assert path.read_text() == "precious"
    save_figure(figure, path, overwrite=True)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt"])
def test_unknown_type_is_one_sentence(figure, tmp_path, name):
    with pytest.raises(OutputError, match=r"unknown figure type; end the name in \.png, \.svg, \.pdf\."):
        save_figure(figure, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [None, "precious"])
def test_failed_write_leaves_nothing_behind(figure, tmp_path, monkeypatch, kept):
    path = tmp_path / "a.png"
    if kept:
        path.write_text(kept)

    def full(target, _content):
        with open(target, "wb") as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        save_figure(figure, path, overwrite=True)
    assert [p.read_text() for p in tmp_path.iterdir()] == ([kept] if kept else [])


def test_missing_folder(figure, tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        save_figure(figure, tmp_path / "nowhere" / "a.png")
