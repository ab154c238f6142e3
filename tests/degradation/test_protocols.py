from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_mrsr.degradation import PROTOCOLS, Degradation, add_rician_noise, degrade, get_protocol, recorded_degradation
from napari_mrsr.errors import InputError
from napari_mrsr.grid import AxisSampling, SamplingGrid
from napari_mrsr.intensity import intensity_range
from napari_mrsr.io import read_sidecar, read_volume, write_volume
from napari_mrsr.networks.classic import Interpolation
from napari_mrsr.volume import Volume

CASES = [(p.name, s) for p in PROTOCOLS.values() for s in p.scales]
SHORT_CASES = [c for c in CASES if c[1] in (2, 3, 4, 8)]


# --- geometry by image content ---------------------------------------------------------------------------------------------------------


def best_shift(image, truth, region):
    """Displacement in voxels that best explains `truth` by `image`, by least squares on the image gradient (even residuals fitted too)."""
    columns = [g[region].ravel() for g in np.gradient(image)]
    even = [ndimage.laplace(image)[region].ravel(), image[region].ravel(), np.ones(image[region].size)]
    solution, *_ = np.linalg.lstsq(np.stack(columns + even, 1), truth[region].ravel(), rcond=None)
    return np.abs(solution[:3] / solution[4]).max()


def worst_shift(image, truth, factors, stretch=True):
    """Largest displacement inside; with `stretch` also over the lower half of each axis (a stretch leaves the middle in place)."""
    image, truth = (ndimage.gaussian_filter(v.astype(float), factors) for v in (image, truth))
    inside = tuple(slice(int(2 * f) + 2, n - int(2 * f) - 2) for f, n in zip(factors, image.shape, strict=True))
    regions = [inside]
    for axis in range(3) if stretch else ():
        regions.append(tuple(slice(s.start, n // 2) if a == axis else s for a, (s, n) in enumerate(zip(inside, image.shape, strict=True))))
    return max(best_shift(image, truth, region) for region in regions)


def enlarge(low, degradation, kernel, protocol=None):
    """Enlarge knowing only the low-resolution volume, and place the result in the world."""
    protocol = get_protocol(protocol or degradation.protocol)
    factors = protocol.scale_per_axis(degradation.scale, 2)
    grid = SamplingGrid.from_coarse(low.shape, factors, protocol.alignment)
    up = Interpolation(degradation.scale, kernel, protocol.name, 2)(torch.from_numpy(low.data)[None, None])[0, 0].numpy()
    return Volume(up, grid.fine_affine(low.affine))


def truth_at(high, volume):
    """High-resolution truth read at the world positions of another volume's voxels."""
    to_high = np.linalg.solve(high.affine, volume.affine)
    indices = np.indices(volume.shape).reshape(3, -1)
    positions = to_high[:3, :3] @ indices + to_high[:3, 3:]
    return ndimage.map_coordinates(high.data.astype(float), positions, order=5, mode="mirror").reshape(volume.shape)


def kernels(protocol):
    return ("cubic", "zero-fill") if protocol == "kspace" else ("cubic",)


def measured_shift(high, protocol, scale, kernel="cubic", moved=None, stretch=True):
    degradation = Degradation.create(protocol=protocol, scale=scale, axis="S")
    up = enlarge(degrade(moved or high, degradation), degradation, kernel)
    return worst_shift(up.data, truth_at(high, up), get_protocol(protocol).scale_per_axis(scale, 2), stretch)


@pytest.fixture(scope="module")
def content(make_affine, smooth_array):
    def volume(protocol, scale, odd=True):
        shapes = {True: (35, 37, 131), False: (36, 36, 120)} if protocol == "slice-profile" else {True: (43, 47, 38), False: (48, 48, 36)}
        mode = "wrap" if protocol == "kspace" else "reflect"
        sigma = [max(1.5, 0.75 * factor) for factor in get_protocol(protocol).scale_per_axis(scale, 2)]
        return Volume(smooth_array(shapes[odd], sigma, seed=scale, mode=mode), make_affine((0.9, 0.8, 1.1), (4, -6, 8)))

    return volume


@pytest.mark.parametrize(("protocol", "scale"), SHORT_CASES)
@pytest.mark.parametrize("odd", [True, False])
def test_enlarged_image_lies_on_the_truth(content, protocol, scale, odd):
    for kernel in kernels(protocol):
        assert measured_shift(content(protocol, scale, odd), protocol, scale, kernel) < 0.05


@pytest.mark.parametrize(("protocol", "scale"), SHORT_CASES)
def test_half_a_voxel_would_be_seen(content, protocol, scale):
    high = content(protocol, scale)
    wrong = high.affine.copy()
    wrong[:3, 3] += wrong[:3, :3] @ [0.5, 0.5, 0.5]
    moved = high.replace(affine=wrong)
    assert measured_shift(high, protocol, scale, moved=moved) > 0.3


@pytest.mark.parametrize(
    ("protocol", "scale", "as_protocol"),
    [
        ("kspace", 2, "bicubic"),
        ("kspace", 4, "bicubic"),
        ("bicubic", 2, "kspace"),
        ("gaussian", 4, "gaussian-zoom"),
        ("gaussian-zoom", 4, "gaussian"),
    ],
)
def test_wrong_alignment_would_be_seen(content, protocol, scale, as_protocol):
    """Array index against array index, as a viewer without affines would overlay them."""
    high = content(protocol, scale, odd=False)
    degradation = Degradation.create(protocol=protocol, scale=scale, axis="S")
    low = degrade(high, degradation)
    right, wrong = (enlarge(low, degradation, "cubic", p).data for p in (protocol, as_protocol))
    factors = get_protocol(protocol).scale_per_axis(scale, 2)
    assert worst_shift(right, high.data, factors) < 0.05
    assert worst_shift(wrong, high.data, factors) > 0.15


@pytest.mark.parametrize(("protocol", "scale"), [("gaussian", 2), ("gaussian-zoom", 3), ("kspace", 2), ("slice-profile", 4), ("bicubic", 3)])
def test_enlarged_image_lies_on_the_truth_in_a_head(head_crop, protocol, scale):
    for kernel in kernels(protocol):
        assert measured_shift(head_crop, protocol, scale, kernel, stretch=False) < 0.05
    wrong = head_crop.affine.copy()
    wrong[:3, 3] += wrong[:3, :3] @ [0.5, 0.5, 0.5]
    assert measured_shift(head_crop, protocol, scale, moved=head_crop.replace(affine=wrong), stretch=False) > 0.3


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_result_does_not_depend_on_storage_order(storage_orders, store, make_volume, protocol):
    high = make_volume((11, 10, 9), (0.8, 0.9, 1.4), (5, 7, -9))
    degradation = Degradation(protocol=protocol, scale=2)
    expected = degrade(high, degradation)
    for order in storage_orders:
        low = degrade(Volume(*store(high.data, high.affine, *order)), degradation)
        np.testing.assert_array_equal(low.data, expected.data)
        np.testing.assert_allclose(low.affine, expected.affine, atol=1e-9)
        stored, affine = low.to_storage()
        wanted, wanted_affine = store(expected.data, expected.affine, *order)
        np.testing.assert_array_equal(stored, wanted)
        np.testing.assert_allclose(affine, wanted_affine, atol=1e-9)


# --- the operators --------------------------------------------------------------------------------------------------------------------


def operator(protocol, scale, shape, slice_axis=2):
    degradation = Degradation.create(protocol=protocol, scale=scale, axis="RAS"[slice_axis])
    return get_protocol(protocol).operator(degradation.grid(shape, slice_axis))


@pytest.mark.parametrize(("protocol", "scale"), CASES)
def test_adjoint_by_dot_products(protocol, scale):
    rng = np.random.default_rng(scale)
    for shape, slice_axis in (((13, 18, 11), 2), ((16, 9, 15), 0), ((8, 24, 17), 1), ((scale,) * 3, 2)):
        linear = operator(protocol, scale, shape, slice_axis)
        x = rng.standard_normal(shape)
        if protocol == "kspace":
            x = x + 1j * rng.standard_normal(shape)
        down = linear.forward(x)
        y = rng.standard_normal(down.shape)
        if protocol == "kspace":
            y = y + 1j * rng.standard_normal(down.shape)
        back = linear.adjoint(y)
        assert back.shape == shape
        assert abs(np.vdot(y, down) - np.vdot(back, x)) < 1e-12 * np.linalg.norm(down) * np.linalg.norm(y)


@pytest.mark.parametrize(("protocol", "scale"), CASES)
def test_constant_stays_constant(protocol, scale):
    for shape in ((13, 18, 15), (24, 24, 24), (17, 27, 12)):
        np.testing.assert_allclose(operator(protocol, scale, shape).forward(np.full(shape, 37.0)), 37, rtol=1e-8)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_gaussian_zoom_has_no_black_last_plane(scale):
    """For some sizes scipy's zoom rounds its last coordinate past the end and, in mode "constant", returns 0 there."""
    black = []
    for size in range(4 * scale, 260):
        axis = AxisSampling.from_fine(size, scale, "corners")
        if abs(get_protocol("gaussian-zoom").matrix(axis)[-1].sum() - 1) > 1e-6:
            black.append(size)
    assert not black


@pytest.mark.parametrize(("protocol", "scale"), CASES)
def test_sizes_are_floor_of_n_over_r(protocol, scale):
    shape = (13, 18, 11)
    factors = get_protocol(protocol).scale_per_axis(scale, 2)
    assert operator(protocol, scale, shape).forward(np.ones(shape)).shape == tuple(int(n // f) for n, f in zip(shape, factors, strict=True))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(17, 14, 13), (24, 12, 36), (11, 23, 9)])
def test_gaussian_zoom_is_scipy_to_the_letter(smooth_array, scale, shape):
    data = smooth_array(shape, 0.7, seed=scale)
    blurred = ndimage.gaussian_filter(data, 1.0)
    cropped = blurred[tuple(slice(0, n // scale * scale) for n in shape)]
    expected = ndimage.zoom(cropped, 1 / scale, order=3)
    np.testing.assert_allclose(operator("gaussian-zoom", scale, shape).forward(data), expected, atol=1e-8)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(17, 14, 13), (24, 12, 36)])
def test_gaussian_is_blur_then_spline_samples_at_spacing_r(smooth_array, scale, shape):
    data = smooth_array(shape, 0.7, seed=scale)
    blurred = ndimage.gaussian_filter(data, 1.0)
    positions = np.meshgrid(*((scale - 1) / 2 + scale * np.arange(n // scale) for n in shape), indexing="ij")
    expected = ndimage.map_coordinates(blurred, positions, order=3, mode="reflect")
    np.testing.assert_allclose(operator("gaussian", scale, shape).forward(data), expected, atol=1e-8)


@pytest.mark.parametrize("scale", range(2, 9))
@pytest.mark.parametrize("size", [24, 29])
def test_slice_profile_is_a_gaussian_of_one_slice_width(smooth_array, scale, size):
    data = smooth_array((4, 5, size), 1.0, seed=scale)
    blurred = ndimage.gaussian_filter1d(data, scale / 2.3548200450309493, axis=2, radius=scale)
    positions = (scale - 1) / 2 + scale * np.arange(size // scale)
    expected = [[ndimage.map_coordinates(row, [positions], order=3, mode="reflect") for row in plane] for plane in blurred]
    np.testing.assert_allclose(operator("slice-profile", scale, data.shape).forward(data), expected, atol=1e-8)


@pytest.mark.parametrize("scale", [3, 5, 7])
def test_slice_profile_width_and_taps(scale):
    """For odd factors a coarse sample sits on a voxel and the row is the kernel itself."""
    rows = operator("slice-profile", scale, (4, 4, 10 * scale)).matrices[2]
    row = rows[5]
    centre = int(np.argmax(row))
    assert centre == 5 * scale + (scale - 1) // 2
    taps = np.flatnonzero(row > 1e-12)
    assert len(taps) == 2 * scale + 1
    inside = row[centre - scale : centre + scale + 1]
    width = np.sqrt(-4 * np.log(2) / np.polyfit(np.arange(-scale, scale + 1), np.log(inside), 2)[0])
    assert width == pytest.approx(scale, rel=1e-6)
    assert row.sum() == pytest.approx(1)


def literal_kspace(data, scale):
    """Centred orthonormal FFT of each axial slice, centre crop (DC stays at n // 2), magnitude."""
    out = []
    for z in range(data.shape[2]):
        spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(data[:, :, z]), norm="ortho"))
        (big_h, big_w), (h, w) = spectrum.shape, (data.shape[0] // scale, data.shape[1] // scale)
        i, j = big_h // 2 - h // 2, big_w // 2 - w // 2
        crop = spectrum[i : i + h, j : j + w]
        out.append(np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(crop), norm="ortho"))))
    return np.stack(out, 2)


@pytest.mark.parametrize(("shape", "scale"), [((24, 18, 4), 2), ((24, 18, 4), 3), ((28, 20, 3), 4), ((30, 42, 3), 2)])
def test_kspace_is_a_centre_crop_over_r(smooth_array, make_affine, shape, scale):
    data = smooth_array(shape, 0.8, seed=scale)
    low = degrade(Volume(data, make_affine()), Degradation(protocol="kspace", scale=scale))
    np.testing.assert_allclose(low.data, literal_kspace(data, scale) / scale, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("shape", "scale"), [((23, 19, 3), 2), ((25, 17, 3), 3), ((31, 22, 3), 4)])
def test_kspace_keeps_units_for_sizes_that_do_not_divide(smooth_array, make_affine, shape, scale):
    """There the orthonormal amplitude gain is sqrt(N / n) an axis, not sqrt(r)."""
    data = smooth_array(shape, 0.8, seed=scale)
    low = degrade(Volume(data, make_affine()), Degradation(protocol="kspace", scale=scale))
    gain = np.sqrt(shape[0] * shape[1] / (shape[0] // scale * (shape[1] // scale)))
    np.testing.assert_allclose(low.data, literal_kspace(data, scale) / gain, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(48, 36, 3), (41, 50, 2)])
def test_bicubic_is_torchs_antialiased_one_inside(smooth_array, scale, shape):
    data = smooth_array(shape, 0.8, seed=scale)
    slices = torch.from_numpy(np.moveaxis(data, 2, 0))[:, None]
    expected = torch.nn.functional.interpolate(slices, scale_factor=1 / scale, mode="bicubic", antialias=True, recompute_scale_factor=False)
    ours = np.moveaxis(operator("bicubic", scale, shape).forward(data), 2, 0)
    inside = (slice(None), slice(3, -3), slice(3, -3))
    assert ours[inside].size > 40
    np.testing.assert_allclose(ours[inside], expected[:, 0].numpy()[inside], rtol=1e-9)
    assert np.abs(ours - expected[:, 0].numpy()).max() < 100


# --- which axes -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voxel", "kept"), [((1, 1, 1), 2), ((1, 1, 4), 2), ((4, 1, 1), 0), ((1, 4, 1), 1), ((0.9, 0.9, 0.9003), 2), ((0.5, 0.6, 0.55), 1)]
)
@pytest.mark.parametrize("protocol", ["kspace", "bicubic", "slice-profile", "gaussian"])
def test_in_plane_axes_are_the_two_finest(make_volume, voxel, kept, protocol):
    low = degrade(make_volume((12, 12, 12), voxel, (3, 4, 5)), Degradation(protocol=protocol, scale=2))
    across = {"kspace": 12, "bicubic": 12, "slice-profile": 6, "gaussian": 6}[protocol]
    inside = {"kspace": 6, "bicubic": 6, "slice-profile": 12, "gaussian": 6}[protocol]
    assert low.shape == tuple(across if a == kept else inside for a in range(3))
    expected = np.array(voxel) * 12 / np.array(low.shape)
    assert low.voxel_size == pytest.approx(tuple(expected))
    assert low.record["degradation"]["axis"] == (None if protocol == "gaussian" else "RAS"[kept])


@pytest.mark.parametrize("letter", ["R", "L", "a", "P", "S", "i"])
def test_axis_can_be_named(make_volume, letter):
    degradation = Degradation.create(protocol="slice-profile", scale=3, axis=letter)
    low = degrade(make_volume((12, 12, 12), (1, 1, 1)), degradation)
    axis = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter.upper()]
    assert low.shape == tuple(4 if a == axis else 12 for a in range(3))


def test_anisotropic_axes_are_not_mixed_up(smooth_array, make_affine):
    """Naming the axis equals moving it last, degrading, and moving it back."""
    data = smooth_array((10, 13, 16), 0.8)
    for axis in range(3):
        moved = np.moveaxis(data, axis, 2)
        for protocol in ("kspace", "slice-profile", "bicubic"):
            ours = degrade(Volume(data, make_affine()), Degradation(protocol=protocol, axis="RAS"[axis])).data
            expected = degrade(Volume(np.ascontiguousarray(moved), make_affine()), Degradation(protocol=protocol, axis="S")).data
            np.testing.assert_allclose(ours, np.moveaxis(expected, 2, axis), atol=1e-3)


# --- noise ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def block(make_affine):
    """Half air, half tissue of 600, one bright column that sets the range to 1000."""
    data = np.zeros((48, 40, 40))
    data[24:] = 600
    data[24:28] = 1000
    return Volume(data, make_affine(), name="block")


@pytest.mark.parametrize("percent", [2, 5])
@pytest.mark.parametrize("protocol", ["gaussian", "slice-profile"])
def test_rician_noise_has_the_asked_strength(block, percent, protocol):
    clean = degrade(block, Degradation(protocol=protocol, scale=2))
    noisy = degrade(block, Degradation(protocol=protocol, scale=2, noise=percent, seed=4))
    sigma = percent / 100 * 1000
    assert intensity_range(block.data) == 1000
    assert noisy.record["degradation"]["noise_sigma"] == pytest.approx(sigma)
    x = slice(17, None) if protocol == "gaussian" else slice(34, None)
    tissue = noisy.data[x].astype(float)
    np.testing.assert_allclose(clean.data[x], 600, atol=0.1)
    assert tissue.std() == pytest.approx(sigma, rel=0.04)
    assert tissue.mean() == pytest.approx(600 + sigma**2 / 1200, abs=4 * sigma / np.sqrt(tissue.size))
    air = noisy.data[: 10 if protocol == "gaussian" else 20].astype(float)
    assert air.min() >= 0
    assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.03)
    assert air.std() == pytest.approx(sigma * np.sqrt(2 - np.pi / 2), rel=0.04)


def test_rician_noise_is_seeded(block):
    first, again, other = (degrade(block, Degradation(noise=3, seed=s)).data for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.corrcoef((first - degrade(block, Degradation()).data).ravel(), (other - first).ravel())[0, 1] < -0.5
    assert not np.array_equal(first, other)


def test_rician_formula():
    rng = np.random.default_rng(7)
    n1, n2 = rng.standard_normal((4, 4, 4), dtype=np.float32), rng.standard_normal((4, 4, 4), dtype=np.float32)
    y = np.linspace(-1, 3, 64, dtype=np.float32).reshape(4, 4, 4)
    noisy = add_rician_noise(y, 0.5, np.random.default_rng(7))
    np.testing.assert_allclose(noisy, np.sqrt((y + 0.5 * n1) ** 2 + (0.5 * n2) ** 2), rtol=1e-6)
    assert (noisy >= 0).all()


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_noisy_magnitude_is_never_negative(make_volume, protocol):
    assert degrade(make_volume((16, 16, 16)), Degradation(protocol=protocol, noise=50)).data.min() >= 0


def test_result_follows_intensity_scale(make_volume):
    high = make_volume((12, 12, 12))
    double = high.replace(data=2 * high.data)
    for protocol in PROTOCOLS:
        low, twice = (degrade(v, Degradation(protocol=protocol, noise=3)).data for v in (high, double))
        np.testing.assert_allclose(twice, 2 * low, rtol=1e-4, atol=1e-2)


# --- record and sidecar ---------------------------------------------------------------------------------------------------------------


def test_record_names_everything(make_volume, tmp_path):
    high = make_volume((12, 13, 14), (1, 1, 2.5), (3, 4, 5), name="scan")
    wanted = Degradation(protocol="kspace", scale=3, noise=2.5, seed=11)
    low = degrade(high, wanted)
    record = low.record["degradation"]
    assert {k: record[k] for k in ("protocol", "scale", "axis", "noise", "seed")} == {
        "protocol": "kspace",
        "scale": 3,
        "axis": "S",
        "noise": 2.5,
        "seed": 11,
    }
    assert record["noise_sigma"] == pytest.approx(0.025 * intensity_range(high.data))
    assert record["source"] == "scan"
    assert record["source_shape"] == [12, 13, 14]
    np.testing.assert_allclose(record["source_affine"], high.affine)
    json.dumps(record, allow_nan=False)

    write_volume(low, tmp_path / "low.nii.gz")
    assert read_sidecar(tmp_path / "low.nii.gz")["degradation"] == record
    again = recorded_degradation(read_volume(tmp_path / "low.nii.gz"))
    assert again == wanted.model_copy(update={"axis": "S"})
    assert json.loads((tmp_path / "low.json").read_text())["napari_mrsr"]["degradation"]["protocol"] == "kspace"


def test_degrading_leaves_the_input_alone(make_volume):
    high = make_volume((12, 12, 12))
    before = high.data.copy()
    low = degrade(high, Degradation(noise=3))
    np.testing.assert_array_equal(high.data, before)
    assert not high.record
    assert low.data.dtype == np.float32
    assert recorded_degradation(high) is None


def test_broken_record_is_refused(make_volume):
    with pytest.raises(InputError, match="not a table"):
        recorded_degradation(make_volume((4, 4, 4)).with_record(degradation=[1, 2]))
    with pytest.raises(InputError, match="Unknown protocol"):
        recorded_degradation(make_volume((4, 4, 4)).with_record(degradation={"protocol": "blur", "scale": 2}))


# --- what is refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"protocol": "blur"}, "Unknown protocol 'blur': use one of gaussian, "),
        ({"protocol": "gaussian", "scale": 5}, "defined for factors 2, 3, 4, not 5"),
        ({"protocol": "slice-profile", "scale": 9}, "defined for factors 2, 3, 4, 5, 6, 7, 8, not 9"),
        ({"scale": 1}, "not 1"),
        ({"scale": 2.5}, "Degradation option scale"),
        ({"scale": "two"}, "Degradation option scale"),
        ({"noise": -1}, "Degradation option noise"),
        ({"noise": 101}, "Degradation option noise"),
        ({"noise": float("nan")}, "Degradation option noise"),
        ({"seed": -1}, "Degradation option seed"),
        ({"axis": "Z"}, "Unknown axis 'Z'"),
        ({"factor": 2}, "Degradation option factor"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options, fragment):
    with pytest.raises(InputError) as caught:
        Degradation.create(**options)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("data", "options", "fragment"),
    [
        (np.full((8, 8, 8), 5.0), {}, "all voxels have the same value"),
        (np.zeros((8, 8, 8)), {}, "all voxels have the same value"),
        (np.arange(16.0).reshape(4, 4, 1), {}, "axis of 1 voxels cannot be reduced by a factor of 2"),
        (np.arange(27.0).reshape(3, 3, 3), {"scale": 4}, "axis of 3 voxels"),
        (-np.arange(512.0).reshape(8, 8, 8), {"noise": 3}, "no positive intensities"),
    ],
)
def test_unusable_volumes_are_refused_with_a_sentence(make_affine, data, options, fragment):
    with pytest.raises(InputError) as caught:
        degrade(Volume(data, make_affine(), name="scan"), Degradation(**options))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", ["kspace", "bicubic"])
def test_one_slice_is_enough_in_plane(make_affine, protocol):
    data = np.random.default_rng(0).uniform(1, 2, (9, 8, 1))
    assert degrade(Volume(data, make_affine((1, 1, 4))), Degradation(protocol=protocol)).shape == (4, 4, 1)
