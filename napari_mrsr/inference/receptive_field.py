"""How far a network really looks: measured by changing voxels and watching the result."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_mrsr.networks import Architecture


@torch.inference_mode()
def effective_halo(network: Any, architecture: Architecture, tolerance: float = 1e-3, size: int | None = None) -> int | None:
    """Distance beyond which a changed voxel changes the result by less than `tolerance` of the largest change it causes.

    Noise-like tissue in the network's units is given twice, the second time with single voxels changed around the centre (at every place
    relative to the network's own lattice of `size_multiple`, since windows inside it make the reach uneven).

    Parameters
    ----------
    network : Module
        In eval mode, on the CPU, windows set as in use.
    architecture : Architecture
    tolerance : float
        Share of the largest change.
    size : int, optional
        Edge of the test image in LR voxels; 64 for volumes, 128 for slices.

    Returns
    -------
    int or None
        Chebyshev distance in LR voxels; None where it reaches the edge of the test image (global statistics or attention).
    """
    edge = size or (64 if architecture.dimension == 3 else 128)
    image = _texture(edge, architecture.dimension)
    reference = _reference(network, image) if architecture.reference == "needed" else None
    before: Tensor = network(image, reference=reference).float()
    scale = before.shape[-1] / edge
    reach = 0
    centre, step = edge // 2, max(1, architecture.size_multiple // 2)
    for place in sorted({centre, centre + step // 2, centre + step}):
        changed = image.clone()
        changed[(0, 0, *([place] * architecture.dimension))] += 0.5
        change = (network(changed, reference=reference).float() - before).abs()[0, 0]
        felt = torch.nonzero(change > tolerance * change.max())
        low, high = felt.min(0).values / scale, felt.max(0).values / scale
        if (low < 1).any() or (high > edge - 1).any():
            return None
        # Half a voxel of slack: output voxels lie between LR voxels.
        reach = max(reach, int(torch.ceil(torch.maximum(place - low, high - place).max() - 0.5)))
    return reach


def _reference(network: Any, image: Tensor) -> Tensor:
    """A second contrast where one is needed; it stays as it is while the image changes."""
    size = [round(n * network.scale) for n in image.shape[2:]]
    return F.interpolate(image, size=size, mode="bilinear" if image.ndim == 4 else "trilinear")


def _texture(edge: int, dimension: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 1, *([edge] * dimension), generator=generator)
    pool = F.avg_pool3d if dimension == 3 else F.avg_pool2d
    return pool(noise, 3, 1, 1) * 1.5
