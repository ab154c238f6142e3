"""What the shipped weights must be worth: their cards' own tables, and sizes, against the bars. Means over the people of a table."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from napari_mrsr.zoo import WEIGHTS
from napari_mrsr.zoo.cards import read_card

CARDS = {path.stem: read_card(path) for path in sorted(WEIGHTS.glob("*.json"))}
SAMPLES = WEIGHTS.parent / "samples"
MB = 1e6


@dataclass(frozen=True)
class Bar:
    """Gain in dB of a column, clean, over one method or the best one; and over cubic at 3 % noise."""

    column: str
    over: str
    gain: float


BARS = [
    Bar("cftn-x2", "cubic", 4.8),
    Bar("cftn-x2", "best", 1.0),
    Bar("cftn-x3", "cubic", 3.5),
    Bar("cftn-x3", "best", 1.5),
    Bar("fdvit-x2", "cubic", 2.0),
    Bar("fdvit-x2", "best", 0.5),
    Bar("fdvit-x4", "cubic", 1.5),
    Bar("fdvit-x4", "best", 0.7),
    Bar("dcamsr-x2 T1w", "zero-fill", 2.2),
    Bar("dcamsr-x4 T1w", "zero-fill", 2.8),
    Bar("dcamsr-x2 alone", "zero-fill", 1.0),
    Bar("dcamsr-x4 alone", "zero-fill", 1.2),
    Bar("cohft-x2 T1w", "zero-fill", 2.2),
    Bar("cohft-x3 T1w", "zero-fill", 2.5),
    Bar("cohft-x4 T1w", "zero-fill", 2.8),
    Bar("transmrsr-x4", "cubic", 2.0),
    Bar("transmrsr-x4", "best", 1.0),
    Bar("transmrsr-x8", "cubic", 1.2),
    Bar("transmrsr-x8", "best", 0.5),
]
NOISY = {"cftn-x2": 1.5, "cftn-x3": 1.5}
"""Gains over cubic at 3 % noise; all others must not lose."""
REFERENCE_GAIN = {"dcamsr-x2": 0.4, "dcamsr-x4": 1.0}
"""Of the reference over none."""
WRONG_REFERENCE = 0.5
"""What somebody else's reference must cost at least."""

MISSED = {
    "cftn-x2 over cubic": "+4.12 dB: +5.09 on nvn, +3.15 on arc2017, whose input's band kept perfectly gives +2.4",
    "cftn-x2 over best": "+0.995 dB: +1.08 on nvn, +0.91 on arc2017",
    "cftn-x2 with noise": "+1.26 dB: +1.39 on nvn, +1.12 on arc2017",
    "cftn-x3 over cubic": "+1.34 dB: +1.58 on nvn, +1.10 on arc2017",
    "cftn-x3 over best": "+0.54 dB: +0.56 on nvn, +0.51 on arc2017",
    "cftn-x3 with noise": "+0.47 dB: +0.54 on nvn, +0.41 on arc2017",
    "fdvit-x4 over cubic": "+1.45 dB: +1.63 on nvn, +1.26 on arc2017",
    "dcamsr-x2 T1w over zero-fill": "+1.87 dB: +2.00 on msl04, +1.74 on fg6692, whose T1 lies half a voxel off",
    "dcamsr-x2 alone over zero-fill": "+0.96 dB on msl04 and fg6692",
    "dcamsr-x4 T1w over zero-fill": "+2.47 dB: +2.88 on msl04, +2.06 on fg6692, whose T1 lies half a voxel off",
    "dcamsr-x4 alone over zero-fill": "+0.67 dB: +0.53 on msl04, +0.80 on fg6692",
    "cohft-x2 T1w over zero-fill": "+1.80 dB: +1.55 on msl04, +2.05 on fg6692, whose T1 lies half a voxel off",
    "cohft-x3 T1w over zero-fill": "+1.80 dB: +1.77 on msl04, +1.84 on fg6692, whose T1 lies half a voxel off",
    "cohft-x4 T1w over zero-fill": "+1.90 dB: +1.78 on msl04, +2.02 on fg6692, whose T1 lies half a voxel off",
    "transmrsr-x4 over cubic": "+1.52 dB: +1.25 on arc2017, +1.68 on nvn, +1.63 on arc2208 (T2)",
    "transmrsr-x4 over best": "+0.53 dB: +0.48 on arc2017, +0.50 on nvn, +0.60 on arc2208 (T2)",
    "transmrsr-x8 over cubic": "+0.56 dB: +0.51 on arc2017, +0.59 on nvn, +0.59 on arc2208 (T2)",
    "transmrsr-x8 over best": "-0.01 dB: -0.06 on arc2017, -0.02 on nvn, +0.06 on arc2208 (T2)",
}
"""Bars that are not reached, by test id, with what is."""


COLUMNS = list(dict.fromkeys(column for card in CARDS.values() for line in card.quality for column in line.own(card.name)))


def card_of(column):
    return CARDS[column.partition(" ")[0]]


def lines(column, noise):
    return [q for q in card_of(column).quality if q.noise == noise and column in q.psnr]


def gain(column, over, noise=0.0):
    """Mean difference in dB."""
    found = lines(column, noise)
    others = [max(q.others(card_of(column).name).values()) if over == "best" else q.psnr[over] for q in found]
    return sum(q.psnr[column] - o for q, o in zip(found, others, strict=True)) / len(found)


def known(name, *values):
    """A case, marked where the bar is known to be missed."""
    marks = [pytest.mark.xfail(strict=True, reason=MISSED[name])] if name in MISSED else []
    return pytest.param(*values, id=name, marks=marks)


@pytest.mark.parametrize("bar", [known(f"{b.column} over {b.over}", b) for b in BARS if b.column in COLUMNS])
def test_gain_without_noise(bar):
    assert gain(bar.column, bar.over) >= bar.gain


@pytest.mark.parametrize("column", [known(f"{c} with noise", c) for c in COLUMNS])
def test_gain_with_noise(column):
    assert gain(column, "cubic", 3) >= NOISY.get(column, 0.0)
    for line in lines(column, 5):
        assert line.psnr[column] >= line.psnr["cubic"] - 0.1


@pytest.mark.parametrize("column", [known(f"{c} SSIM", c) for c in COLUMNS])
def test_ssim_is_above_that_of_cubic(column):
    for line in (q for q in card_of(column).quality if column in q.ssim):
        assert line.ssim[column] > line.ssim["cubic"], (line.subject, line.noise)


@pytest.mark.parametrize("name", [known(f"{n} uses its reference", n) for n in REFERENCE_GAIN if n in CARDS])
def test_the_reference_is_really_used(name):
    assert gain(f"{name} T1w", f"{name} alone") >= REFERENCE_GAIN[name]


@pytest.mark.parametrize("name", [known(f"{n} heeds its reference", n) for n, card in CARDS.items() if card.reference != "none"])
def test_somebody_elses_reference_costs(name):
    assert gain(f"{name} T1w", f"{name} T1w of another") >= WRONG_REFERENCE


def test_weights_and_samples_are_small():
    assert all(card.size <= 6 * MB for card in CARDS.values())
    assert sum(card.size for card in CARDS.values()) <= 36 * MB
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) <= 12 * MB


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.json")), ids=lambda p: p.stem)
def test_a_page_lies_beside_every_card(path):
    from napari_mrsr.zoo import card_page

    assert path.with_suffix(".md").read_text(encoding="utf-8") == card_page(read_card(path))
