"""What a model's network is, worked out from the network itself rather than written into its card."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from napari_mrsr.networks import MapInfo, create, get_architecture
from napari_mrsr.zoo.cards import Card


@dataclass(frozen=True)
class Description:
    """Facts of a model's network.

    Attributes
    ----------
    model, title, paper : str
    dimension : int
        2: sees slices; 3: sees volumes.
    reference : str
        none, optional or needed.
    parameters : int
        Learned numbers.
    halo : int or None
        Theoretical reach in LR voxels (with windowed statistics where the card asks for them); None: the whole input.
    global_attention : bool
        Whether its attention can look at the whole volume from within tiles.
    size_multiple, global_statistics, pre_interpolated
        See :class:`~napari_mrsr.networks.Architecture`.
    units : str
        How intensities enter and leave the network.
    maps : tuple of MapInfo
        Internal maps it can show.
    """

    model: str
    title: str
    paper: str
    dimension: int
    scales: tuple[int, ...]
    reference: str
    parameters: int
    halo: int | None
    size_multiple: int
    global_statistics: bool
    global_attention: bool
    pre_interpolated: bool
    units: str
    maps: tuple[MapInfo, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def describe(card: Card) -> Description:
    """Describe a model. The network is built without memory for its weights, so this is quick for any size.

    Raises
    ------
    InputError
        If the card's options do not fit its network.
    """
    import torch

    architecture = get_architecture(card.architecture)
    with torch.device("meta"):
        network = create(card.architecture, card.scale or architecture.scales[0], **card.options)
    return Description(
        model=card.name,
        title=architecture.title,
        paper=architecture.paper,
        dimension=architecture.dimension,
        scales=architecture.scales,
        reference=architecture.reference,
        parameters=sum(p.numel() for p in network.parameters()),
        halo=architecture.halo(network),
        size_multiple=architecture.size_multiple,
        global_statistics=architecture.global_statistics,
        global_attention=bool(architecture.attention(network)),
        pre_interpolated=architecture.pre_interpolated,
        units=(architecture.scaling.__doc__ or "").strip().splitlines()[0],
        maps=architecture.maps(network),
    )
