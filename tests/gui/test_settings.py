from __future__ import annotations

import pytest

from napari_mrsr.gui import settings


@pytest.fixture
def file():
    return settings.settings_file()


def test_values_come_back(file):
    assert settings.recall("side", True) is True
    settings.remember("side", False)
    settings.remember("names", ["a", "b"])
    assert settings.recall("side", True) is False
    assert settings.recall("names", []) == ["a", "b"]
    assert sorted(p.name for p in file.parent.iterdir()) == ["settings.json"]


def test_values_of_another_type_do_not_count(file):
    settings.remember("side", "left")
    assert settings.recall("side", True) is True
    assert settings.recall("side", None) == "left"


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"text"', "\x00\xff"])
def test_an_unreadable_file_counts_as_empty(file, text):
    file.write_text(text)
    assert settings.recall("side", 3) == 3
    settings.remember("side", 4)
    assert settings.recall("side", 3) == 4


def test_a_file_in_another_encoding_counts_as_empty(file):
    file.write_bytes(b'{"side": "\xff\xfe"}')
    assert settings.recall("side", "x") == "x"


def test_a_folder_that_cannot_be_written_is_logged(monkeypatch, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr("napari_mrsr.gui.settings.settings_file", lambda: blocked / "settings.json")
    settings.remember("side", 1)
    assert "Settings are not kept" in caplog.text
    assert settings.recall("side", 0) == 0
