from __future__ import annotations

import numpy as np
import pytest

from napari_mrsr.errors import Cancelled, InputError
from napari_mrsr.evaluation import compare
from napari_mrsr.evaluation.frame import prepare
from napari_mrsr.evaluation.measured import measure
from napari_mrsr.evaluation.metrics import METRICS, laplacian_of_gaussian, psnr, ssim_map
from napari_mrsr.intensity import foreground_mask, intensity_range
from napari_mrsr.volume import Box, Volume

SHAPE = (90, 34, 30)  # longer than a slab


@pytest.fixture(scope="module")
def head(make_affine, smooth_array):
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    ball = np.linalg.norm((index - (np.array(SHAPE) - 1) / 2) / np.array([42, 15, 13]), axis=-1) < 1
    return Volume(np.where(ball, 300 + smooth_array(SHAPE, 1.2), 0).astype(np.float32), make_affine((1.0, 1.1, 0.9)), name="hr")


@pytest.fixture(scope="module")
def noisy(head):
    """More noise the further to the right; slice R 70 is the worst."""
    sigma = np.linspace(5, 30, SHAPE[0])
    sigma[70] = 90
    error = np.random.default_rng(3).normal(0, 1, SHAPE) * sigma[:, None, None]
    return head.replace(data=(head.data + error).astype(np.float32), name="sr")


@pytest.fixture(scope="module")
def better(head, noisy):
    return head.replace(data=(head.data + noisy.data) / 2, name="better")


def box_of(volume, *ranges):
    """Box in mm that holds the voxels of index ranges."""
    ends = np.array(ranges, float).T + np.array([[-0.4], [-0.6]])
    corners = ends @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return Box(tuple(corners[0]), tuple(corners[1]))


def by_hand(head, image, counted, data_range, mask):
    """Scores of the voxels that count, from whole maps."""
    gradients = [np.sqrt(sum(np.square(g) for g in np.gradient(v.data, *head.voxel_size))) for v in (head, image)]
    logs = [laplacian_of_gaussian(v.data) for v in (head, image)]
    return {
        "psnr": psnr(head.data, image.data, data_range, counted & mask),
        "ssim": ssim_map(head.data, image.data, data_range)[counted & mask].mean(),
        "nmse": np.square(head.data - image.data)[counted & mask].sum() / np.square(head.data)[counted & mask].sum(),
        "mae": np.abs(head.data - image.data)[counted & mask].mean(),
        "gradient_error": np.sqrt(np.square(gradients[1] - gradients[0])[counted & mask].sum() / np.square(gradients[0])[counted & mask].sum()),
        "hfen": np.sqrt(np.square(logs[1] - logs[0])[counted & mask].sum() / np.square(logs[0])[counted & mask].sum()),
        "psnr_box": psnr(head.data, image.data, data_range, counted),
    }


@pytest.mark.parametrize("ranges", [((0, 90), (0, 34), (0, 30)), ((50, 80), (8, 20), (9, 25)), ((62, 66), (10, 12), (14, 15))])
def test_regions_score_their_voxels_of_the_whole_maps(head, noisy, ranges):
    """Filters see what lies around a region; mask and range are those of the whole reference."""
    mask = foreground_mask(head.data)
    counted = np.zeros(SHAPE, bool)
    counted[tuple(slice(*r) for r in ranges)] = True
    roi = None if counted.all() else box_of(head, *ranges)
    comparison = compare(head, [noisy], roi=roi)
    assert (comparison.region.lower, comparison.region.upper) == ([r[0] for r in ranges], [r[1] for r in ranges])
    assert comparison.data_range == intensity_range(head.data)
    expected = by_hand(head, noisy, counted, comparison.data_range, mask)
    for name in METRICS:
        assert comparison.results[0].value(name) == pytest.approx(expected[name], rel=2e-4), name
    if roi:
        assert comparison.region.description.startswith("box (")
        assert comparison.region.fraction == pytest.approx(counted.mean())


def test_a_mask_and_a_box_count_together(head, noisy):
    given = np.zeros(SHAPE, np.uint8)
    given[40:70] = 3
    counted = np.zeros(SHAPE, bool)
    counted[60:80, 8:20, 9:25] = True
    comparison = compare(
        head, [noisy], convention="volume-max", mask=head.replace(data=given, name="labels"), roi=box_of(head, (60, 80), (8, 20), (9, 25))
    )
    assert comparison.mask == "given mask labels"
    expected = by_hand(head, noisy, counted, float(head.data.max()), given > 0)
    for name in METRICS:
        assert comparison.results[0].value(name) == pytest.approx(expected[name], rel=2e-4), name


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_the_curve_is_the_slice_by_itself(head, noisy, better, axis):
    measured = measure(prepare(head, [noisy, better]))
    index = SHAPE[axis] // 2
    centre = head.affine @ [*[index if a == axis else (SHAPE[a] - 1) / 2 for a in range(3)], 1]
    comparison = compare(head, [noisy, better], plane=(axis, centre[axis] + 0.3))
    counted = np.zeros(SHAPE, bool)
    counted[(slice(None),) * axis + (index,)] = True
    expected = by_hand(head, better, counted, comparison.data_range, foreground_mask(head.data))
    for name in METRICS:
        curve = measured.curve(name, axis)
        assert curve.values.shape == (2, SHAPE[axis])
        assert curve.values[1, index] == comparison.results[1].value(name) == pytest.approx(expected[name], rel=2e-4), name
    assert curve.positions[index] == pytest.approx(centre[axis])
    assert comparison.region.description.startswith(f"slice {'RAS'[axis]} = {centre[axis]:.1f} mm (voxel {index})")
    for shift in (-0.4, 0.4):
        assert measured.slice_at(axis, centre[:3] + shift * head.affine[:3, axis]) == index
    assert measured.slice_at(axis, centre[:3] + 1000) is None
    assert measured.point_in(axis, index, measured.point_in(axis, 3, centre[:3])) == pytest.approx(centre[:3])


def test_worst_slices(head, noisy, better):
    curve = measure(prepare(head, [noisy, better])).curve("psnr", 0)
    assert curve.worst(0) == curve.worst(1) == 70
    assert np.isnan(curve.values[0, 0])  # air
    first = int(np.flatnonzero(np.isfinite(curve.values[0]))[0])
    curve.values[0, first] = -50  # a few voxels at the rim
    assert curve.worst(0) == 70
    error = measure(prepare(head, [noisy])).curve("mae", 0)
    assert error.worst(0) == 70
    error.values[:] = np.nan
    assert error.worst(0) is None


def test_thread_slabs_and_known_sums_change_nothing(head, noisy, better, monkeypatch):
    whole, unmasked = measure(prepare(head, [noisy, better])), measure(prepare(head, [noisy], "volume-max"))
    monkeypatch.setattr("napari_mrsr.evaluation.tally.SLAB", 7)
    again = measure(prepare(head, [noisy, better]))
    for old, new in zip(whole.sums, again.sums, strict=True):
        for a, b in zip(old, new, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)
    measured = []
    monkeypatch.setattr("napari_mrsr.evaluation.measured.tally", lambda _f, _b, which, _s: measured.extend(which) or [again.sums[0] for _ in which])
    third = head.replace(data=head.data + 1, name="third")
    known = measure(prepare(head, [better, third, noisy]), known=whole)
    assert measured == [1]
    assert known.sums[0] is whole.sums[1]
    assert known.sums[2] is whole.sums[0]
    changes = (
        lambda: measure(prepare(head, [noisy], "volume-max"), known=whole),
        lambda: measure(prepare(head, [noisy]), box_of(head, (50, 80), (8, 20), (9, 25)), known=whole),
        lambda: measure(prepare(head, [noisy], "volume-max", head.replace(data=head.data > 600)), known=unmasked),
        lambda: measure(prepare(head.replace(data=head.data + 0), [noisy]), known=whole),
    )
    for number, other in enumerate(changes):
        measured.clear()
        other()
        assert measured == [0], number


def test_stopping(head, noisy):
    asked = []
    with pytest.raises(Cancelled):
        measure(prepare(head, [noisy]), stopped=lambda: bool(asked.append(1)) or len(asked) > 1)
    assert len(asked) == 2


def test_intervals(head, noisy, better):
    comparison = compare(head, [noisy, better], bootstrap=True)
    assert comparison == compare(head, [noisy, better], bootstrap=True)  # seeded
    for result in comparison.results:
        for name in METRICS:
            interval = result.intervals[name]
            assert interval.low < result.value(name) < interval.high, name
    worse, best = (r.intervals["psnr"] for r in comparison.results)
    # Half the error in every slice: 6 dB apart whatever is drawn, which only paired draws can tell.
    assert worse.behind_low == pytest.approx(-20 * np.log10(2), abs=1e-3)
    assert worse.behind_high == pytest.approx(-20 * np.log10(2), abs=1e-3)
    assert best.behind_low is None
    assert "95 % bootstrap interval over slices across A (2000 resamples" in comparison.notes[0]
    assert comparison.results[0].cell("psnr") == f"{comparison.results[0].psnr:.2f} [{worse.low:.2f}, {worse.high:.2f}]"


def test_intervals_cover_the_mean_of_independent_slices(make_affine):
    """Slices whose mean absolute errors are drawn from one law: 95 of 100 intervals must hold its mean, give or take."""
    rng = np.random.default_rng(0)
    truth = Volume(rng.uniform(100, 200, (12, 12, 40)), make_affine((1, 1, 2)), name="hr")
    held = 0
    for _ in range(100):
        image = truth.replace(data=truth.data + rng.uniform(1, 3, 40), name="sr")
        interval = compare(truth, [image], convention="volume-max", bootstrap=True).results[0].intervals["mae"]
        held += interval.low < 2 < interval.high
    assert 88 <= held <= 99


def test_no_intervals_for_slices(head, noisy):
    assert compare(head, [noisy], plane=(2, 7.125 + 13), bootstrap=True).results[0].intervals == {}
    thin = [v.crop([slice(None), slice(14, 16), slice(None)]) for v in (head, noisy)]
    assert compare(thin[0], [thin[1]], bootstrap=True).notes == []


def test_identical_images_have_intervals_that_json_can_say(head):
    comparison = compare(head, [head], bootstrap=True)
    assert comparison.results[0].intervals["psnr"].low == np.inf
    assert comparison == type(comparison).model_validate_json(comparison.model_dump_json())


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({"roi": Box((900, 900, 900), (950, 950, 950))}, "lies outside hr"),
        ({"plane": (0, 999.0)}, r"There is no slice at R = 999 mm: the measured region reaches from -31\.5 to 57\.5 mm"),
        ({"plane": (0, -31.5)}, "The slice with hr holds no voxel of the mask"),
        ({"roi": Box((-32, 12, 7), (-29, 15, 10))}, "The region with hr holds no voxel of the mask"),
        ({"roi": Box((-32, 12, 7), (-29, 15, 10)), "convention": "volume-max"}, "hr is zero throughout the region"),
        ({"roi": Box((10, 15, 7), (20, 20, 9)), "convention": "fastmri"}, "no whole window of SSIM"),
    ],
)
def test_bad_regions_are_one_sentence(head, noisy, where, sentence):
    lit = head.replace(data=head.data + 1) if where.get("convention") == "fastmri" else head
    with pytest.raises(InputError, match=sentence):
        compare(lit, [noisy], **where)
