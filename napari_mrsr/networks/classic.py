"""Methods without weights, with the same call as the networks: nearest, cubic, lanczos, zero-fill, back-projection.

Each knows where the coarse samples lie (protocol, slice axis), so none shifts the image by a fraction of a voxel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_mrsr.degradation import apply_along_axes, get_protocol
from napari_mrsr.degradation.matrices import bspline_matrix, dirichlet_matrix, kernel_matrix, lanczos_kernel, nearest_matrix
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.networks.architecture import Architecture
from napari_mrsr.networks.scaling import unchanged

Kernel = Literal["nearest", "cubic", "lanczos", "zero-fill"]
_MATRICES: dict[str, Callable[[NDArray[np.float64], int], NDArray[np.float64]]] = {
    "nearest": nearest_matrix,
    "cubic": bspline_matrix,
    "lanczos": lambda positions, size: kernel_matrix(positions, size, lanczos_kernel, 3.0),
    "zero-fill": dirichlet_matrix,
}


class Interpolation(nn.Module):
    """Separable interpolation onto the fine lattice.

    Parameters
    ----------
    scale : int
        Factor of the degraded axes.
    kernel : {"nearest", "cubic", "lanczos", "zero-fill"}
        ``cubic`` is the interpolating cubic B-spline, ``lanczos`` the 3-lobed windowed sinc, ``zero-fill`` band-limited interpolation.
    protocol : str
        How the coarse volume was made; decides which axes are enlarged and where samples lie.
    slice_axis : {0, 1, 2}
        Axis across slices.
    grid : SamplingGrid, optional
        The grid itself, where the fine shape is known.
    """

    def __init__(
        self, scale: int = 2, kernel: Kernel = "cubic", protocol: str = "gaussian", slice_axis: int = 2, grid: SamplingGrid | None = None
    ) -> None:
        super().__init__()
        self.scale, self.kernel, self.slice_axis, self.grid = scale, kernel, slice_axis, grid
        self.protocol = get_protocol(protocol)

    def sampling(self, shape: torch.Size | tuple[int, ...]) -> SamplingGrid:
        """Grid over a coarse volume of that shape."""
        if self.grid is not None:
            return self.grid
        return SamplingGrid.from_coarse(shape, self.protocol.scale_per_axis(self.scale, self.slice_axis), self.protocol.alignment)

    def matrices(self, grid: SamplingGrid) -> list[NDArray[np.float64] | None]:
        """One (fine, coarse) matrix per enlarged axis."""
        make = _MATRICES[self.kernel]
        return [make(a.fine_positions(), a.coarse) if s != 1 else None for a, s in zip(grid.axes, grid.scale, strict=True)]

    def forward(self, lr: Tensor, reference: Tensor | None = None, noise_level: Tensor | float | None = None) -> Tensor:
        """(B, 1, x, y, z) to (B, 1, X, Y, Z), same units."""
        result: Tensor = apply_along_axes(lr, _tensors(self.matrices(self.sampling(lr.shape[2:])), lr))
        return result


class BackProjection(nn.Module):
    """Cubic B-spline, then the smallest correction that explains the input, by conjugate gradients on the protocol's exact adjoint.

    ``x = x0 + D* (D D* + lambda)^-1 (y - D x0)`` with ``lambda = sigma^2 / s^2``: sigma is the noise level, s^2 the variance of the detail
    that `x0` misses, estimated from the residual after the noise's own share is taken off. With noise the correction fades to nothing, so
    noise is not amplified; without, it is plain back-projection.

    Parameters
    ----------
    scale, protocol, slice_axis, grid
        As :class:`Interpolation`.
    iterations : int
        Conjugate gradient steps.
    """

    def __init__(
        self, scale: int = 2, protocol: str = "gaussian", slice_axis: int = 2, grid: SamplingGrid | None = None, iterations: int = 15
    ) -> None:
        super().__init__()
        self.start = Interpolation(scale, "cubic", protocol, slice_axis, grid)
        self.iterations = iterations

    def forward(self, lr: Tensor, reference: Tensor | None = None, noise_level: Tensor | float | None = None) -> Tensor:
        """(B, 1, x, y, z) to (B, 1, X, Y, Z), same units; `noise_level` in those units (None: noise-free)."""
        grid = self.start.sampling(lr.shape[2:])
        down = self.start.protocol.operator(grid).matrices
        forward = _tensors(down, lr)
        adjoint = _tensors([None if m is None else m.conj().T for m in down], lr)
        x0 = self.start(lr)
        if all(m is None for m in down):
            return x0  # type: ignore[no-any-return]

        def project(x: Tensor) -> Tensor:
            return apply_along_axes(x.to(_kind(forward, lr)), forward)  # type: ignore[no-any-return]

        def spread(z: Tensor) -> Tensor:
            back: Tensor = apply_along_axes(z, adjoint)
            return back.real if back.is_complex() else back

        residual = lr - project(x0)
        damping = self._damping(residual, lr, down, self.start.matrices(grid), noise_level)
        if damping is None:
            return x0  # type: ignore[no-any-return]
        z = _conjugate_gradients(lambda v: project(spread(v)) + damping * v, residual, self.iterations)
        return x0 + spread(z)  # type: ignore[no-any-return]

    def _damping(self, residual: Tensor, lr: Tensor, down: Any, up: Any, noise_level: Tensor | float | None) -> float | None:
        gain = _mean_diagonal([m @ m.conj().T for m in down if m is not None])
        sigma = float(torch.as_tensor(0.0 if noise_level is None else noise_level).float().mean())
        products = [d @ u for d, u in zip(down, up, strict=True) if d is not None]
        share = 1 - 2 * _mean_diagonal(products) + _mean_diagonal([p @ p.conj().T for p in products])
        foreground = lr > 0.05 * lr.abs().max()
        energy = float((residual.abs()[foreground] ** 2).mean()) if bool(foreground.any()) else 0.0
        detail = (energy - share * sigma**2) / gain
        floor = 1e-4 * gain
        if sigma == 0:
            return floor
        return None if detail <= 1e-3 * sigma**2 else max(floor, sigma**2 / detail)


def _kind(matrices: list[Tensor | None], like: Tensor) -> torch.dtype:
    return next((m.dtype for m in matrices if m is not None), like.dtype)


def _mean_diagonal(matrices: list[NDArray[Any]]) -> float:
    return float(np.prod([np.real(np.trace(m)) / len(m) for m in matrices]))


def _conjugate_gradients(operator: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    x, residual = torch.zeros_like(right), right.clone()
    direction = residual.clone()
    energy = first = float((residual.abs() ** 2).sum())
    for _ in range(iterations):
        if energy <= 1e-10 * first:
            break
        image = operator(direction)
        step = energy / float((direction.conj() * image).real.sum())
        x += step * direction
        residual -= step * image
        previous, energy = energy, float((residual.abs() ** 2).sum())
        direction = residual + (energy / previous) * direction
    return x


def _tensors(matrices: Any, like: Tensor) -> list[Tensor | None]:
    real = torch.float64 if like.dtype == torch.float64 else torch.float32
    kinds = {"f": real, "c": torch.complex128 if real == torch.float64 else torch.complex64}
    return [None if m is None else torch.from_numpy(np.ascontiguousarray(m)).to(like.device, kinds[m.dtype.kind]) for m in matrices]


def _classic(name: str, title: str, paper: str, build: Callable[..., nn.Module]) -> Architecture:
    return Architecture(name=name, title=title, paper=paper, build=build, scales=tuple(range(2, 9)), learned=False, tiling="whole", scaling=unchanged)


ARCHITECTURES = MappingProxyType(
    {
        a.name: a
        for a in (
            _classic("nearest", "Nearest neighbour", "", partial(Interpolation, kernel="nearest")),
            _classic("cubic", "Cubic B-spline", "Unser, Splines: a perfect fit (1999)", partial(Interpolation, kernel="cubic")),
            _classic("lanczos", "Lanczos-3", "Duchon, Lanczos filtering (1979)", partial(Interpolation, kernel="lanczos")),
            _classic("zero-fill", "Zero-filled k-space", "band-limited interpolation", partial(Interpolation, kernel="zero-fill")),
            _classic("back-projection", "Back-projection", "Irani and Peleg (1991), by conjugate gradients", BackProjection),
        )
    }
)
