from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_mrsr.degradation import SeparableOperator, apply_along_axes
from napari_mrsr.degradation import matrices as m


def test_keys_kernel_values():
    x = np.array([0, 0.5, 1, 1.5, 2, 2.5])
    np.testing.assert_allclose(m.keys_kernel(x), [1, 9 / 16, 0, -1 / 16, 0, 0], atol=1e-15)
    np.testing.assert_allclose(m.keys_kernel(-x), m.keys_kernel(x))
    np.testing.assert_allclose(m.keys_kernel(np.array([0.5]), a=-0.75), [0.59375])


def test_lanczos_kernel_values():
    np.testing.assert_allclose(m.lanczos_kernel(np.array([0.0, 1, 2, 3, 4])), [1, 0, 0, 0, 0], atol=1e-15)
    sinc = [np.sin(np.pi * x) / (np.pi * x) for x in (1.5, 0.5)]
    np.testing.assert_allclose(m.lanczos_kernel(np.array([1.5, -1.5])), sinc[0] * sinc[1])


POSITIONS = np.array([-0.5, -0.2, 0, 0.3, 2.5, 5.75, 9.0, 11.4, 12.5])


@pytest.mark.parametrize("kernel", ["keys", "lanczos", "bspline", "nearest", "dirichlet"])
@pytest.mark.parametrize("size", [1, 16, 21])
def test_rows_sum_to_one_and_samples_are_kept(kernel, size):
    make = {
        "keys": lambda p, n: m.kernel_matrix(p, n, m.keys_kernel, 2.0),
        "lanczos": lambda p, n: m.kernel_matrix(p, n, m.lanczos_kernel, 3.0),
        "bspline": m.bspline_matrix,
        "nearest": m.nearest_matrix,
        "dirichlet": m.dirichlet_matrix,
    }[kernel]
    np.testing.assert_allclose(make(POSITIONS, size).sum(1), 1, atol=1e-8)
    np.testing.assert_allclose(make(np.arange(float(size)), size), np.eye(size), atol=1e-8)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_bspline_is_exact_on_very_short_axes(size):
    """scipy's spline_filter1d starts its recursion inexactly there; a volume of a few thick slices must not gain or lose intensity."""
    np.testing.assert_allclose(m.bspline_matrix(np.linspace(-0.5, size - 0.5, 9), size).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(m.bspline_matrix(np.arange(float(size)), size), np.eye(size), atol=1e-6)


@pytest.mark.parametrize("size", [13, 40])
def test_bspline_is_scipys(size):
    data = np.random.default_rng(size).standard_normal(size)
    positions = np.linspace(-0.5, size - 0.5, 37)
    expected = ndimage.map_coordinates(data, [positions], order=3, mode="reflect")
    np.testing.assert_allclose(m.bspline_matrix(positions, size) @ data, expected, atol=1e-7)


def test_kernel_matrix_mirrors_about_the_outer_edges():
    data = np.random.default_rng(0).standard_normal(6)
    mirrored = np.concatenate([data[::-1], data, data[::-1]])
    positions = np.array([-0.4, 0.2, 5.3])
    expected = [sum(mirrored[j + 6] * m.keys_kernel(np.array([p - j]))[0] for j in range(-6, 12)) for p in positions]
    np.testing.assert_allclose(m.kernel_matrix(positions, 6, m.keys_kernel, 2.0) @ data, expected, atol=1e-12)


def test_nearest_ties_and_ends():
    np.testing.assert_array_equal(np.argmax(m.nearest_matrix(np.array([-3, -0.5, 0.49, 0.5, 0.51, 3.5, 9]), 5), 1), [0, 0, 0, 0, 1, 3, 4])


@pytest.mark.parametrize("size", [7, 8])
def test_dirichlet_reads_band_limited_signals_exactly(size):
    top = (size - 1) // 2
    positions = np.linspace(-2, size + 2, 41)
    for k in range(top + 1):
        for phase in (0, 0.7):
            wave = np.cos(2 * np.pi * k * np.arange(size) / size + phase)
            np.testing.assert_allclose(m.dirichlet_matrix(positions, size) @ wave, np.cos(2 * np.pi * k * positions / size + phase), atol=1e-12)


@pytest.mark.parametrize("size", [3, 20])
def test_gaussian_matrix_is_scipys(size):
    data = np.random.default_rng(0).standard_normal(size)
    np.testing.assert_allclose(m.gaussian_matrix(size, 1.0, 4) @ data, ndimage.gaussian_filter1d(data, 1.0), atol=1e-12)


def test_products_along_axes_equal_einsum_in_numpy_and_torch():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((2, 3, 5, 6, 7))
    a, b, c = (rng.standard_normal((k, n)) for k, n in ((4, 5), (9, 6), (2, 7)))
    for chosen in itertools.product((True, False), repeat=3):
        matrices = [matrix if use else None for matrix, use in zip((a, b, c), chosen, strict=True)]
        full = [matrix if matrix is not None else np.eye(n) for matrix, n in zip(matrices, (5, 6, 7), strict=True)]
        expected = np.einsum("pqxyz,ax,by,cz->pqabc", data, *full)
        np.testing.assert_allclose(apply_along_axes(data, matrices), expected, atol=1e-12)
        tensors = [None if matrix is None else torch.from_numpy(matrix) for matrix in matrices]
        np.testing.assert_allclose(apply_along_axes(torch.from_numpy(data), tensors).numpy(), expected, atol=1e-12)


def test_operator_works_in_the_precision_of_its_input():
    linear = SeparableOperator((np.eye(4)[:2], None, np.eye(3) * (1 + 0j)))
    assert linear.forward(np.ones((4, 2, 3), np.float32)).dtype == np.complex64
    assert linear.forward(np.ones((4, 2, 3))).dtype == np.complex128
    assert linear.adjoint(np.ones((2, 2, 3), np.complex64)).dtype == np.complex64
    assert SeparableOperator((np.eye(4)[:2], None, None)).forward(np.ones((4, 2, 3), np.float32)).dtype == np.float32
