"""Variations: what they do, that they are seeded, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest

from napari_mrsr.degradation import get_protocol
from napari_mrsr.errors import InputError
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.training.augment import blur_width, noise_level, require_variations, vary
from napari_mrsr.training.recipe import AugmentationPart, Recipe

VARIATIONS = [
    {"contrast_probability": 1.0},
    {"curve_probability": 1.0},
    {"inversion_probability": 1.0},
    {"bias_probability": 1.0, "bias_strength": 0.4},
    {"intensity": 0.3},
]


@pytest.fixture
def image(smooth_array):
    return (smooth_array((16, 18, 14)) / 1000).astype(np.float32)


@pytest.mark.parametrize("options", VARIATIONS, ids=lambda o: next(iter(o)))
@pytest.mark.parametrize("flat", [False, True])
def test_variations_are_seeded_and_change_the_image(image, options, flat):
    aug = AugmentationPart(**options)
    image = image[:, :, 3] if flat else image
    once, again, other = (vary(image, aug, np.random.default_rng(seed)) for seed in (3, 3, 2))
    np.testing.assert_array_equal(once, again)
    assert once.shape == image.shape
    assert once.dtype == np.float32
    assert np.isfinite(once).all()
    assert np.abs(once - image).max() > 0.01
    assert np.array_equal(once, other) == ("inversion_probability" in options)
    assert np.array_equal(vary(image, AugmentationPart(), np.random.default_rng(1)), image)


def test_a_curve_keeps_the_order_of_brightness_and_an_inversion_turns_it(image):
    order = np.argsort(image.ravel())
    curved = vary(image, AugmentationPart(curve_probability=1.0), np.random.default_rng(3)).ravel()[order]
    assert (np.diff(curved) >= -1e-6).all()
    assert np.corrcoef(curved, np.sort(image.ravel()))[0, 1] < 0.9999  # it bends
    inverted = vary(image, AugmentationPart(inversion_probability=1.0), np.random.default_rng(3))
    np.testing.assert_allclose(inverted, image.max() + image.min() - image, atol=1e-5)


def test_a_bias_field_is_smooth_and_as_strong_as_asked():
    flat = np.ones((24, 24, 24), np.float32)
    fields = [np.log(vary(flat, AugmentationPart(bias_probability=1.0, bias_strength=s), np.random.default_rng(0))) for s in (0.1, 0.5)]
    np.testing.assert_allclose(fields[1], 5 * fields[0], atol=1e-4)
    assert np.ptp(fields[0]) > 0.05
    assert all(np.abs(np.diff(f, axis=0)).max() < 0.3 * np.ptp(f) for f in fields)


@pytest.mark.parametrize("protocol", ["gaussian", "slice-profile"])
def test_the_blur_is_drawn_from_its_range_and_widens_the_profile(protocol):
    aug = AugmentationPart(blur=(0.6, 1.4))
    widths = [blur_width(aug, np.random.default_rng(seed)) for seed in range(200)]
    assert min(widths) < 0.7
    assert max(widths) > 1.3
    assert all(0.6 <= w <= 1.4 and round(20 * w) == pytest.approx(20 * w) for w in widths)
    assert blur_width(AugmentationPart(), np.random.default_rng(0)) == 1.0
    how = get_protocol(protocol)
    edge = np.broadcast_to((np.arange(48) > 23).astype(np.float32), (48, 48, 48))
    grid = SamplingGrid.from_fine(edge.shape, how.scale_per_axis(4, 2), how.alignment)
    steepest = [np.diff(how.operator(grid, w).image(edge), axis=2).max() for w in (0.6, 1.0, 1.4)]
    if protocol == "slice-profile":
        assert steepest[0] > steepest[1] > steepest[2]
    assert not np.allclose(how.operator(grid, 0.6).image(edge), how.operator(grid).image(edge), atol=1e-3)
    np.testing.assert_array_equal(how.operator(grid, 1.0).image(edge), how.operator(grid).image(edge))


def test_noise_levels_stay_in_their_range():
    aug = AugmentationPart(noise=4.0, noise_probability=0.5)
    levels = np.array([noise_level(aug, np.random.default_rng(seed)) for seed in range(300)])
    assert 0.3 < (levels == 0).mean() < 0.7
    assert 0.03 < levels.max() <= 0.04


@pytest.mark.parametrize(
    ("protocol", "network", "blur", "sentence"),
    [
        ("kspace", "dcamsr", (0.9, 1.1), "kspace has no blur"),
        ("bicubic", "fdvit", (0.9, 1.1), "bicubic has no blur"),
        ("gaussian", "cftn", (1.2, 0.8), "smaller"),
    ],
)
def test_blurs_that_cannot_be_varied_are_refused(protocol, network, blur, sentence):
    plan = Recipe.model_validate(
        {
            "name": "tiny",
            "network": {"name": network},
            "degradation": {"protocol": protocol},
            "data": {"train": ["x"]},
            "augmentation": {"blur": blur},
        }
    )
    with pytest.raises(InputError, match=sentence):
        require_variations(plan)
