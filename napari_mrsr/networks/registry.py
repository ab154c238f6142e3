"""One line per method: where its :class:`Architecture` lives. Nothing here imports torch until a method is asked for."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from napari_mrsr.errors import InputError
from napari_mrsr.networks.architecture import Architecture

if TYPE_CHECKING:
    from torch import nn

_MODULES = {
    "cftn": "napari_mrsr.networks.cftn",
    "fdvit": "napari_mrsr.networks.fdvit",
    "dcamsr": "napari_mrsr.networks.dcamsr",
    "cohft": "napari_mrsr.networks.cohft",
    "transmrsr": "napari_mrsr.networks.transmrsr",
    "nearest": "napari_mrsr.networks.classic",
    "cubic": "napari_mrsr.networks.classic",
    "lanczos": "napari_mrsr.networks.classic",
    "zero-fill": "napari_mrsr.networks.classic",
    "back-projection": "napari_mrsr.networks.classic",
}


def register(name: str, module: str) -> None:
    """Add a method: `module` must define ``ARCHITECTURES``, a mapping from names to :class:`Architecture`."""
    _MODULES[name] = module


def names() -> tuple[str, ...]:
    """All known methods."""
    return tuple(_MODULES)


def get_architecture(name: str) -> Architecture:
    """Descriptor of a method.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    try:
        module = _MODULES[name]
    except KeyError:
        raise InputError(f"Unknown network {name!r}: use one of {', '.join(_MODULES)}.") from None
    architecture: Architecture = importlib.import_module(module).ARCHITECTURES[name]
    return architecture


def create(name: str, scale: int = 2, **options: Any) -> nn.Module:
    """Build a method with fresh weights.

    Parameters
    ----------
    name : str
        Registry name, for example ``cftn``.
    scale : int
        Upscaling factor.
    **options
        Constructor arguments of the network.

    Raises
    ------
    InputError
        If the name or the scale is unknown, or an option does not fit.
    """
    architecture = get_architecture(name)
    if scale not in architecture.scales:
        raise InputError(f"{architecture.title} is defined for factors {', '.join(map(str, architecture.scales))}, not {scale}.")
    try:
        return architecture.build(scale=scale, **options)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        if unknown := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
            raise InputError(f"{architecture.title} has no option {unknown[1]!r}.") from None
        raise InputError(f"{architecture.title}: {error}.") from None
