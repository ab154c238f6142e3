from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from napari_mrsr.evaluation import compare
from napari_mrsr.evaluation.comparison import Dice
from napari_mrsr.evaluation.export import slices_to_csv, to_csv, to_latex
from napari_mrsr.evaluation.frame import prepare
from napari_mrsr.evaluation.measured import measure
from napari_mrsr.evaluation.metrics import METRICS
from napari_mrsr.evaluation.tissue import NOTE, with_dice


@pytest.fixture(scope="module")
def volumes(make_volume):
    truth = make_volume((16, 18, 14), name="hr")
    rng = np.random.default_rng(0)
    worse, better = (truth.replace(data=truth.data + rng.normal(0, s, truth.shape), name=n) for s, n in ((40, "cubic_x2 & co"), (20, "sr")))
    return truth, [worse, better]


@pytest.fixture(scope="module")
def comparison(volumes):
    return compare(*volumes, bootstrap=True)


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_says_all(volumes, comparison):
    plain, full = rows(to_csv(compare(*volumes))), rows(to_csv(with_dice(comparison, [Dice(csf=0.5, gm=0.6, wm=0.7, mean=0.6)] * 2)))
    assert list(plain[0]) == [
        "name", "psnr_db", "ssim", "nmse", "mae", "gradient_error", "hfen", "psnr_box_db",
        "resampled", "convention", "mask", "data_range", "region",
    ]  # fmt: skip
    for row, result in zip(full, comparison.results, strict=True):
        assert row["name"] == result.name
        assert float(row["psnr_db"]) == pytest.approx(result.psnr, rel=1e-5)
        assert float(row["hfen_low"]) == pytest.approx(result.intervals["hfen"].low, rel=1e-5)
        assert (row["convention"], row["mask"], row["region"]) == ("mrsr-1", comparison.mask, comparison.region.description)
        assert (row["dice_gm"], row["dice_mean"]) == ("0.6000", "0.6000")


def test_latex_is_a_booktabs_table_with_bold_winners(comparison):
    text = to_latex(with_dice(comparison, [Dice(csf=0.5, gm=0.6, wm=0.7, mean=0.6), Dice(csf=0.4, gm=0.7, wm=0.8, mean=0.633)]))
    lines = text.splitlines()
    comments = [line for line in lines if line.startswith("% ")]
    assert "convention mrsr-1 | mask: foreground" in comments[0]
    assert f"% {NOTE}" in comments
    assert lines[len(comments)] == r"\begin{tabular}{l" + "r" * 10 + "}"
    head, worse, better = (line for line in lines if line.endswith(r"\\"))
    assert r"PSNR [dB] $\uparrow$ & SSIM $\uparrow$ & NMSE $\downarrow$" in head
    assert worse.startswith(r"cubic\_x2 \& co & ")
    psnr = comparison.results[1].cell("psnr")
    assert better.startswith(rf"sr & \textbf{{{psnr}}} & \textbf{{")
    assert worse.endswith(r"\textbf{0.500} & 0.600 & 0.700 & 0.600 \\")
    assert better.endswith(r"0.400 & \textbf{0.700} & \textbf{0.800} & \textbf{0.633} \\")
    assert worse.count("textbf") == 1
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_identical_images_in_latex_and_csv(volumes):
    comparison = compare(volumes[0], [volumes[0], volumes[1][0]])
    assert r"hr & \textbf{$\infty$} & \textbf{1.0000}" in to_latex(comparison)
    assert rows(to_csv(comparison))[0]["psnr_db"] == "inf"


def test_slices(volumes):
    truth, candidates = volumes
    truth = truth.replace(data=np.where(np.arange(14) < 2, 0, truth.data))
    measured = measure(prepare(truth, candidates))
    table = rows(slices_to_csv(measured, 2))
    assert len(table) == 2 * 14
    assert {row["axis"] for row in table} == {"S"}
    assert table[0]["psnr_db"] == table[1]["ssim"] == ""  # no voxel of the mask
    assert table[0]["voxels_counted"] == "0"
    curve = measured.curve("psnr", 2)
    assert [row["voxel"] for row in table[:14]] == [str(i) for i in range(14)]
    assert [float(row["position_mm"]) for row in table[14:]] == pytest.approx(curve.positions, abs=1e-3)
    assert float(table[14 + 5]["psnr_db"]) == pytest.approx(curve.values[1, 5], rel=1e-5)
    assert set(METRICS) - {"psnr", "psnr_box"} < set(table[0])
