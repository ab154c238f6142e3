"""From scanner units to a network's units and back: one affine map per image, fitted on the low resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SLICE_CLAMP = 6.0
"""Normalised slices are clamped to this (NETWORKS 0.2)."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """Affine intensity map of a batch of images; numbers or tensors of shape (B, 1, ...) that broadcast over it.

    Attributes
    ----------
    offset, gain : float or Tensor
        The low resolution enters the network as ``(x - offset) / gain``.
    target_offset, target_gain : float or Tensor
        Sharp images are ``(x - target_offset) / target_gain`` in the network's units.
    clamp : float or None
        Bound on both in the network's units.
    """

    offset: float | Tensor = 0.0
    gain: float | Tensor = 1.0
    target_offset: float | Tensor = 0.0
    target_gain: float | Tensor = 1.0
    clamp: float | None = None

    def lr(self, x: Tensor) -> Tensor:
        """Low-resolution image for the network."""
        return self._bounded((x - self.offset) / self.gain)

    def target(self, x: Tensor) -> Tensor:
        """Sharp image (truth, reference contrast) in the network's units."""
        return self._bounded((x - self.target_offset) / self.target_gain)

    def output(self, y: Tensor) -> Tensor:
        """The network's output in scanner units."""
        return y * self.target_gain + self.target_offset

    def level(self, sigma: float) -> float | Tensor:
        """Noise of the low resolution, scanner units, for the network."""
        return sigma / self.gain

    def _bounded(self, x: Tensor) -> Tensor:
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


def unchanged(_network: Any, _lr: Tensor, _volume_range: float) -> Scaling:
    """Scanner units go in and come out."""
    return Scaling()


def by_range(_network: Any, _lr: Tensor, volume_range: float) -> Scaling:
    """Everything is divided by the range R of the low-resolution volume (``mrsr-1``), so that images lie in about 0 to 1."""
    return Scaling(gain=volume_range, target_gain=volume_range)


def by_slice(network: Any, lr: Tensor, _volume_range: float) -> Scaling:
    """Mean and unbiased standard deviation of each low-resolution slice (fastMRI family, NETWORKS 0.1, 0.2).

    ``network.amplitude`` is how many times brighter than the sharp image the network expects the low resolution: the factor r for the
    orthonormal k-space crop of the published pipeline, 1 where both share a scale.

    Parameters
    ----------
    network : Module with ``amplitude``
    lr : (B, 1, h, w) tensor
        Scanner units.
    """
    axes = tuple(range(1, lr.ndim))
    mean = lr.mean(axes, keepdim=True)
    sd = lr.std(axes, keepdim=True) + 1e-11 / network.amplitude
    return Scaling(mean, sd, network.amplitude * mean, network.amplitude * sd, SLICE_CLAMP)
