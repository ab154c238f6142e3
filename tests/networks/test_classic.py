from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_mrsr.degradation import PROTOCOLS, Degradation, degrade, get_protocol
from napari_mrsr.errors import InputError
from napari_mrsr.networks import create
from napari_mrsr.networks.classic import BackProjection, Interpolation
from napari_mrsr.volume import Volume

INTERPOLATORS = ("nearest", "cubic", "lanczos", "zero-fill")
METHODS = (*INTERPOLATORS, "back-projection")
CASES = [(p.name, s) for p in PROTOCOLS.values() for s in p.scales if s in (2, 3, 4, 7)]


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))[None, None]


def grid_of(degradation, shape):
    return degradation.grid(shape, 2)


def run(name, low, degradation, shape=None, noise=None):
    """Enlarge a coarse array; with `shape` onto that fine lattice."""
    grid = None if shape is None else grid_of(degradation, shape)
    net = create(name, scale=degradation.scale, protocol=degradation.protocol, slice_axis=2, grid=grid)
    with torch.no_grad():
        return net(tensor(low), noise_level=noise)[0, 0].numpy()


def psnr(image, truth):
    margin = (slice(4, -4),) * 3
    return 10 * np.log10(truth.max() ** 2 / np.mean((image[margin] - truth[margin]) ** 2))


# --- interpolators ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("protocol", "scale"), CASES)
@pytest.mark.parametrize("shape", [(9, 10, 11), (17, 13, 8)])
def test_every_protocol_and_odd_sizes(name, protocol, scale, shape):
    degradation = Degradation(protocol=protocol, scale=scale)
    factors = [int(f) for f in get_protocol(protocol).scale_per_axis(scale, 2)]
    flat = run(name, np.full(shape, 37.0), degradation)
    assert flat.shape == tuple(n * f for n, f in zip(shape, factors, strict=True))
    np.testing.assert_allclose(flat, 37, rtol=1e-6)
    varied = run(name, np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32), degradation)
    assert varied.dtype == np.float32
    assert np.isfinite(varied).all()
    fine = tuple(n * f + (f > 1) for n, f in zip(shape, factors, strict=True))
    assert run(name, np.full(shape, 37.0), degradation, fine).shape == fine


@pytest.mark.parametrize(("protocol", "scale"), [(p, s) for p, s in CASES if get_protocol(p).alignment == "edges"])
def test_nearest_repeats_where_edges_coincide(protocol, scale):
    low = np.random.default_rng(0).uniform(0, 1, (5, 6, 7))
    expected = low
    for axis, factor in enumerate(get_protocol(protocol).scale_per_axis(scale, 2)):
        expected = np.repeat(expected, int(factor), axis)
    np.testing.assert_array_equal(run("nearest", low, Degradation(protocol=protocol, scale=scale)), expected)


@pytest.mark.parametrize("name", ["cubic", "lanczos"])
@pytest.mark.parametrize(("protocol", "scale"), CASES)
def test_linear_ramp_inside(name, protocol, scale):
    """Cubic B-splines reproduce straight lines at the true positions; Lanczos to 2 % of a step (slopes 2, 3, -1)."""
    degradation = Degradation(protocol=protocol, scale=scale)
    fine_shape = tuple(32 * int(f) for f in get_protocol(protocol).scale_per_axis(scale, 2))
    grid = grid_of(degradation, fine_shape)
    low = np.add.outer(np.add.outer(2 * grid.axes[0].coarse_positions(), 3 * grid.axes[1].coarse_positions()), -grid.axes[2].coarse_positions())
    expected = np.add.outer(np.add.outer(2.0 * np.arange(fine_shape[0]), 3.0 * np.arange(fine_shape[1])), -1.0 * np.arange(fine_shape[2]))
    inside = tuple(slice(14 * int(f), -14 * int(f)) for f in grid.scale)
    error = np.abs(run(name, low, degradation) - expected)[inside].max()
    assert error < (1e-4 if name == "cubic" else 0.15) * scale


@pytest.mark.parametrize("name", INTERPOLATORS)
def test_samples_are_kept_where_lattices_meet(name):
    """Odd factors put a fine voxel on every coarse one; k-space keeps DC on a voxel."""
    low = np.random.default_rng(0).uniform(0, 1, (12, 13, 8))
    np.testing.assert_allclose(run(name, low, Degradation(protocol="gaussian", scale=3))[1::3, 1::3, 1::3], low, atol=1e-6)
    even = low[:, :12]
    np.testing.assert_allclose(run(name, even, Degradation(protocol="kspace", scale=2))[::2, ::2], even, atol=1e-6)


def band_limited(shape, top, seed=0):
    """Periodic image in x and y with frequencies up to `top`, far from zero."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(shape[0]) / shape[0], np.arange(shape[1]) / shape[1]
    image = np.zeros(shape)
    for i in range(top[0] + 1):
        for j in range(top[1] + 1):
            a, b, c, d = rng.uniform(-1, 1, 4)
            image += (
                np.outer(a * np.cos(2 * np.pi * i * x) + b * np.sin(2 * np.pi * i * x), c * np.cos(2 * np.pi * j * y) + d * np.sin(2 * np.pi * j * y))
            )[..., None]
    return 10 + image / np.abs(image).max() + 0 * np.arange(shape[2])


@pytest.mark.parametrize(("shape", "scale"), [((24, 20, 3), 2), ((21, 27, 3), 3), ((25, 23, 3), 2), ((29, 31, 2), 4), ((28, 36, 2), 4)])
def test_zero_fill_is_exact_for_band_limited_images(shape, scale):
    top = [(n // scale - 1) // 2 for n in shape[:2]]
    truth = band_limited(shape, top)
    degradation = Degradation(protocol="kspace", scale=scale, axis="S")
    low = degrade(Volume(truth, np.eye(4)), degradation)
    np.testing.assert_allclose(run("zero-fill", low.data, degradation, shape), truth, atol=2e-5)
    assert np.abs(run("cubic", low.data, degradation, shape) - truth).max() > 1e-3
    sharper = band_limited(shape, [t + 1 for t in top])
    low = degrade(Volume(sharper, np.eye(4)), degradation)
    assert np.abs(run("zero-fill", low.data, degradation, shape) - sharper).max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_slice_axis_decides_which_axes_grow(name):
    low = np.random.default_rng(0).uniform(1, 2, (6, 7, 8))
    for axis in range(3):
        for protocol, expected in (("kspace", [2, 2, 2]), ("slice-profile", [1, 1, 1])):
            factors = list(expected)
            factors[axis] = 1 if protocol == "kspace" else 2
            out = create(name, scale=2, protocol=protocol, slice_axis=axis)(tensor(low))[0, 0]
            assert out.shape == tuple(n * f for n, f in zip(low.shape, factors, strict=True))
            moved = create(name, scale=2, protocol=protocol, slice_axis=2)(tensor(np.moveaxis(low, axis, 2)))[0, 0]
            np.testing.assert_allclose(np.moveaxis(out.numpy(), axis, 2), moved.numpy(), atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_axis_symmetry_of_edge_aligned_methods(name):
    """Mirroring the input mirrors the result: no direction is preferred."""
    low = np.random.default_rng(0).uniform(1, 2, (8, 9, 7))
    degradation = Degradation(protocol="gaussian", scale=2)
    np.testing.assert_allclose(run(name, low[::-1, :, ::-1], degradation), run(name, low, degradation)[::-1, :, ::-1], atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_intensity_scale_and_batches(name):
    low = np.random.default_rng(0).uniform(1, 2, (8, 9, 7))
    degradation = Degradation(protocol="gaussian", scale=2)
    one = run(name, low, degradation)
    np.testing.assert_allclose(run(name, 1000 * low, degradation), 1000 * one, rtol=1e-6)
    net = create(name, scale=2)
    with torch.no_grad():
        both = net(torch.cat([tensor(low), tensor(low[::-1])]))
    np.testing.assert_allclose(both[0, 0].numpy(), one, atol=1e-6)


def test_unknown_protocol_and_scale_get_a_sentence():
    with pytest.raises(InputError, match="Unknown protocol 'blur'"):
        create("cubic", protocol="blur")
    with pytest.raises(InputError, match=r"defined for factors .*, not 9"):
        create("cubic", scale=9)


# --- back-projection ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantom():
    """Sharp-edged, textured object of 40^3 in empty surroundings."""
    rng = np.random.default_rng(3)
    shape = (40, 42, 44)
    x, y, z = (np.arange(n) - (n - 1) / 2 for n in shape)
    radius = np.sqrt((x[:, None, None] / 15) ** 2 + (y[:, None] / 17) ** 2 + (z / 18) ** 2)
    labels = ndimage.gaussian_filter(rng.standard_normal(shape), 2.0) > 0
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 1.0)
    data = np.where(radius < 1, 500 + 300 * labels + 60 * texture / texture.std(), 0)
    return Volume(ndimage.gaussian_filter(data, 0.6), np.eye(4), name="phantom")


def redegraded(image, degradation):
    return degrade(Volume(image, np.eye(4)), degradation).data


@pytest.mark.parametrize(
    ("protocol", "scale"),
    [("gaussian", 2), ("gaussian", 3), ("gaussian-zoom", 2), ("kspace", 2), ("kspace", 4), ("slice-profile", 4), ("bicubic", 2), ("bicubic", 3)],
)
def test_back_projection_explains_its_input_and_beats_cubic(phantom, protocol, scale):
    degradation = Degradation(protocol=protocol, scale=scale, axis="S")
    low = degrade(phantom, degradation).data
    cubic, back = (run(n, low, degradation, phantom.shape) for n in ("cubic", "back-projection"))
    residual = [np.abs(redegraded(image, degradation) - low)[1:-1, 1:-1, 1:-1].std() for image in (cubic, back)]
    assert residual[1] < 0.3 * residual[0]
    assert psnr(back, phantom.data) > psnr(cubic, phantom.data) + 0.1


@pytest.mark.parametrize("percent", [1, 3, 6])
@pytest.mark.parametrize(("protocol", "scale"), [("gaussian", 2), ("gaussian", 3), ("kspace", 2), ("slice-profile", 4), ("bicubic", 2)])
def test_back_projection_does_not_blow_up_noise(phantom, protocol, scale, percent):
    degradation = Degradation(protocol=protocol, scale=scale, axis="S", noise=percent, seed=5)
    low = degrade(phantom, degradation)
    sigma = low.record["degradation"]["noise_sigma"]
    cubic = run("cubic", low.data, degradation, phantom.shape)
    told, untold = (run("back-projection", low.data, degradation, phantom.shape, noise=n) for n in (sigma, None))
    assert psnr(told, phantom.data) > psnr(cubic, phantom.data) - 0.02
    assert psnr(told, phantom.data) > psnr(untold, phantom.data) - (0 if protocol == "gaussian" else 0.25)


def test_plain_back_projection_does_blow_up_noise(phantom):
    """What the noise level is for (EVALUATION 0.3)."""
    degradation = Degradation(noise=6)
    low = degrade(phantom, degradation).data
    assert psnr(run("back-projection", low, degradation), phantom.data) < psnr(run("cubic", low, degradation), phantom.data) - 1


def test_back_projection_in_a_head(head_crop):
    for noise in (0, 3):
        degradation = Degradation(noise=noise)
        low = degrade(head_crop, degradation)
        cubic, back = (run(n, low.data, degradation, noise=low.record["degradation"]["noise_sigma"]) for n in ("cubic", "back-projection"))
        assert psnr(back, head_crop.data) > psnr(cubic, head_crop.data) + (2 if noise == 0 else -0.02)


def test_endless_noise_leaves_cubic(phantom):
    degradation = Degradation()
    low = degrade(phantom, degradation).data
    np.testing.assert_array_equal(run("back-projection", low, degradation, noise=1e9), run("cubic", low, degradation))


def test_noise_level_may_be_a_tensor(phantom):
    degradation = Degradation()
    low = degrade(phantom, degradation).data
    np.testing.assert_array_equal(
        run("back-projection", low, degradation, noise=torch.tensor([[[[[20.0]]]]])), run("back-projection", low, degradation, noise=20.0)
    )


@pytest.mark.parametrize("shape", [(24, 20, 5), (25, 23, 4), (27, 23, 4)])
def test_kspace_back_projection_is_real_and_keeps_the_measured_spectrum(smooth_array, shape):
    truth = Volume(smooth_array(shape, 0.8) + 500, np.eye(4))
    degradation = Degradation(protocol="kspace", scale=2, axis="S")
    low = degrade(truth, degradation).data.astype(np.float64)
    images = {n: run(n, low, degradation, shape) for n in ("cubic", "zero-fill", "back-projection")}
    left = {n: np.abs(redegraded(image, degradation) - low).max() for n, image in images.items()}
    assert images["back-projection"].dtype == np.float64
    assert left["back-projection"] < 1e-3 * left["cubic"]
    if shape == (27, 23, 4):  # odd spectra have no Nyquist term, so zero-filling keeps them whole
        assert left["zero-fill"] < 1e-4 * left["cubic"]


def test_iterations_converge_to_the_regularised_solution():
    """x0 + D* (D D* + lambda)^-1 (y - D x0), solved directly on a tiny volume."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 1, (4, 3, 5))
    degradation = Degradation(protocol="gaussian", scale=2)
    grid = grid_of(degradation, (8, 6, 10))
    linear = get_protocol("gaussian").operator(grid)
    dense = np.stack([linear.forward(e.reshape(8, 6, 10)).ravel() for e in np.eye(480)], 1)
    x0 = run("cubic", low, degradation)
    gain = np.trace(dense @ dense.T) / len(dense)
    expected = x0.ravel() + dense.T @ np.linalg.solve(dense @ dense.T + 1e-4 * gain * np.eye(60), low.ravel() - dense @ x0.ravel())
    ours = BackProjection(2, iterations=60)(tensor(low))[0, 0].numpy()
    np.testing.assert_allclose(ours.ravel(), expected, atol=1e-3)
    assert np.abs(ours.ravel() - x0.ravel()).max() > 0.05


def test_nothing_to_enlarge_is_left_alone():
    low = np.random.default_rng(0).uniform(0, 1, (4, 5, 6))
    grid = Degradation().grid((4, 5, 6), 2).from_fine((4, 5, 6), (1, 1, 1), "edges")
    for net in (Interpolation(grid=grid), BackProjection(grid=grid)):
        np.testing.assert_array_equal(net(tensor(low))[0, 0].numpy(), low)
