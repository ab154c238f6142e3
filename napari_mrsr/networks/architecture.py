"""The descriptor every network and classic method carries, so that nothing else needs to know which one it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """What a super-resolution method is and what it needs, in the words the engine, the docks and the cards use.

    Attributes
    ----------
    name : str
        Key in the registry.
    title : str
        Name for people.
    paper : str
        Source of the method.
    build : callable
        ``build(scale=..., **options)`` gives the module, ``net(lr, reference=None, noise_level=None)`` on (B, 1, X, Y, Z) tensors.
    dimension : {2, 3}
        Whether it sees slices or volumes.
    scales : tuple of int
        Factors it can be built for.
    reference : {"none", "optional", "needed"}
        Use of a second contrast.
    learned : bool
        False for methods without weights.
    tiling : {"halo", "whole"}
        ``halo``: may be cut into tiles with a margin. ``whole``: runs on the whole volume at once.
    size_multiple : int
        LR lattice to which tile starts are anchored, so that windows inside the network fall on the same voxels in every tile.
    halo : callable
        ``halo(module)``: margin in LR voxels beyond which the input provably or practically has no influence (see the module's docstring).
    bytes_per_voxel : callable
        ``bytes_per_voxel(module)``: peak memory per LR voxel of a tile, or per SR voxel where the tiling is ``whole``.
    normalization : {"range", "none"}
        ``range``: LR is divided by its ``mrsr-1`` range, the result multiplied back. ``none``: scanner units go in.
    global_statistics : bool
        Whether the network as published pools over its whole input.
    window : int or None
        LR voxels of the windows that replace its global statistics on volumes larger than a training patch (``set_windows``).
    pre_interpolated : bool
        Whether the input is first brought to the fine grid.
    maps : tuple of str
        Internal maps it can show.
    """

    name: str
    title: str
    paper: str
    build: Callable[..., nn.Module]
    dimension: Literal[2, 3] = 3
    scales: tuple[int, ...] = (2, 3, 4)
    reference: Literal["none", "optional", "needed"] = "none"
    learned: bool = True
    tiling: Literal["halo", "whole"] = "halo"
    size_multiple: int = 1
    halo: Callable[[Any], int] = lambda _module: 0
    bytes_per_voxel: Callable[[Any], int] = lambda _module: 32
    normalization: Literal["range", "none"] = "range"
    global_statistics: bool = False
    window: int | None = None
    pre_interpolated: bool = False
    maps: tuple[str, ...] = ()
