"""The descriptor every network and classic method carries, so that nothing else needs to know which one it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from napari_mrsr.networks.scaling import Scaling, by_range

if TYPE_CHECKING:
    from torch import Tensor, nn

    from napari_mrsr.networks.blocks.cross_scale_transformer import CrossScaleTransformer


@dataclass(frozen=True)
class MapInfo:
    """One internal map that a network can show.

    Attributes
    ----------
    name : str
        What the network calls it (:func:`~napari_mrsr.networks.blocks.recording.wanted`).
    title : str
        Name for people.
    description : str
        What it shows, in one or two sentences.
    kind : {"dense", "query", "table"}
        ``dense``: one value per voxel. ``query``: what a chosen voxel attends to. ``table``: rows and columns without a place in the image.
    on : {"result", "input", "reference"}
        Image it is drawn over.
    signed : bool
        Whether values have both signs and want diverging colours.
    """

    name: str
    title: str
    description: str
    kind: Literal["dense", "query", "table"] = "dense"
    on: Literal["result", "input", "reference"] = "result"
    signed: bool = False


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
        ``build(scale=..., **options)`` gives the module, ``net(lr, reference=None, noise_level=None)`` on (B, 1, X, Y, Z) or (B, 1, H, W)
        tensors in its own units (`scaling`). Output pixel 0 lies where `lr` has its sample 0 under a k-space crop, and voxel edges coincide
        under all other protocols.
    dimension : {2, 3}
        Whether it sees slices or volumes.
    scales : tuple of int
        Factors it can be built for.
    reference : {"none", "optional", "needed"}
        Use of a second contrast.
    learned : bool
        False for methods without weights.
    tiling : {"halo", "planes", "whole"}
        ``halo``: may be cut into tiles with a margin. ``planes``: runs on whole slices. ``whole``: runs on the whole volume at once.
    size_multiple : int
        LR lattice to which tile starts are anchored, so that windows inside the network fall on the same voxels in every tile.
    halo : callable
        ``halo(module)``: margin in LR voxels beyond which the input provably or practically has no influence (see the module's docstring);
        None where its reach is the whole input.
    bytes_per_voxel : callable
        ``bytes_per_voxel(module)``: peak memory per voxel that the network is given (LR voxels; SR voxels where it is `pre_interpolated` or the
        tiling is ``whole``).
    scaling : callable
        ``scaling(module, lr, volume_range)``: how intensities enter and leave the network (:mod:`napari_mrsr.networks.scaling`).
    global_statistics : bool
        Whether the network as published pools over its whole input.
    window : int or None
        LR voxels of the windows that replace its global statistics on volumes larger than a training patch (``set_windows``).
    attention : callable
        ``attention(module)``: parts that may look at the whole volume from within tiles, in the order of the forward pass
        (:class:`~napari_mrsr.networks.blocks.cross_scale_transformer.CrossScaleTransformer`); empty where there are none.
    pre_interpolated : bool
        Whether the input is first brought to the fine grid.
    windowed : bool
        Whether it cuts slices into windows of its own, of which each is computed by itself, so that air around the head can be cut off.
        For networks that are `pre_interpolated`.
    channels_last : bool
        Whether convolutions are faster with channels last in memory (measured, ``tests/benchmarks/engine.py``).
    maps : callable
        ``maps(module)``: internal maps it can show, a tuple of :class:`MapInfo`.
    """

    name: str
    title: str
    paper: str
    build: Callable[..., nn.Module]
    dimension: Literal[2, 3] = 3
    scales: tuple[int, ...] = (2, 3, 4)
    reference: Literal["none", "optional", "needed"] = "none"
    learned: bool = True
    tiling: Literal["halo", "planes", "whole"] = "halo"
    size_multiple: int = 1
    halo: Callable[[Any], int | None] = lambda _module: 0
    bytes_per_voxel: Callable[[Any], int] = lambda _module: 32
    scaling: Callable[[Any, Tensor, float], Scaling] = by_range
    global_statistics: bool = False
    window: int | None = None
    attention: Callable[[Any], tuple[CrossScaleTransformer, ...]] = lambda _module: ()
    pre_interpolated: bool = False
    windowed: bool = False
    channels_last: bool = False
    maps: Callable[[Any], tuple[MapInfo, ...]] = lambda _module: ()
