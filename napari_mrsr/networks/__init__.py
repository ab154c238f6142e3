"""The super-resolution networks, classic methods beside them, and their common descriptor."""

from napari_mrsr.networks.architecture import Architecture, MapInfo
from napari_mrsr.networks.registry import create, get_architecture, names, register

__all__ = ["Architecture", "MapInfo", "create", "get_architecture", "names", "register"]
