"""``napari-mrsr run --attention``."""

from __future__ import annotations

import numpy as np
import pytest

from napari_mrsr.io import read_volume, write_volume


@pytest.fixture
def low(make_volume, tmp_path):
    path = tmp_path / "low.nii.gz"
    write_volume(make_volume((30, 12, 11), (2, 2, 2), sigma=0.7), path)
    return path


def test_global_attention_gives_another_result_and_says_so(console, low, tmp_path):
    images = {}
    for attention in ("window", "global"):
        out = tmp_path / f"{attention}.nii.gz"
        done = console("run", low, "-o", out, "--attention", attention, "--device", "cpu")
        assert done.code == 0
        assert ("attention over the whole volume" in done.out + done.err) == (attention == "global")
        found = read_volume(out)
        images[attention] = found.data
        assert found.record["run"]["options"]["attention"] == attention
    difference = np.abs(images["window"] - images["global"]).max()
    assert 0 < difference < 0.05 * images["window"].max()


@pytest.mark.parametrize(
    ("more", "words"), [(("--model", "cubic", "--attention", "global"), "no attention"), (("--attention", "local"), "attention")]
)
def test_attention_that_cannot_be_had_gets_a_sentence(console, low, tmp_path, more, words):
    out = tmp_path / "out.nii.gz"
    done = console("run", low, "-o", out, *more)
    assert done.code != 0
    assert words in done.err
    assert "Traceback" not in done.err
    assert not out.exists()
