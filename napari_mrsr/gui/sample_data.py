"""Sample data for napari's File > Open Sample menu: ready workspaces over the shipped volumes."""

from __future__ import annotations

from typing import Any

from napari_mrsr.degradation import Degradation, degrade, reduce_in_plane
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.reader import face_current_viewer
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.workspace import Workspace, prepare_workspace
from napari_mrsr.samples import read_sample
from napari_mrsr.volume import Volume

LayerData = tuple[Any, ...]
IN_PLANE = 0.9
"""In-plane spacing in mm to which the T2 of msl04 is brought: its grid is finer than what was acquired."""

T1 = Workspace(
    "T1",
    "Press <b>Run</b>. Then unfold <b>Also run</b>, tick cubic and back-projection and run again: all results are compared and scored.",
    "cftn-x2",
)
T2_THICK = Workspace(
    "T2 thick",
    "Slices of 4 mm made from a sharp T2. Run cubic and back-projection, then look from the side to see what came back between the slices.",
    "back-projection",
)
T2_REGISTERED = Workspace(
    "T2 registered",
    "T1 shows in-plane detail that the T2 lost. Run zero-fill, cubic and back-projection, and compare them with the ground truth.",
    "zero-fill",
)
T2_ACQUIRED = Workspace(
    "T2 as acquired",
    "A real scan: no ground truth. Choose <b>Input made by</b> slice-profile, ask for <b>Voxel across</b> 1 mm, and judge by <b>Trust</b>.",
    "back-projection",
)


def t1() -> list[LayerData]:
    """The T1 head."""
    face_current_viewer()
    return [volume_to_layer(read_sample("arc2017_T1w").replace(name="T1"))]


def t1_pair() -> list[LayerData]:
    """The T1 head as ground truth, and its low-resolution version (``gaussian`` x2)."""
    return _pair(T1, read_sample("arc2017_T1w"), Degradation())


def t2_thick() -> list[LayerData]:
    """A T2 head as ground truth, and thick slices made from it (``slice-profile`` x4)."""
    return _pair(T2_THICK, read_sample("arc2208_T2w"), Degradation(protocol="slice-profile", scale=4))


def t2_registered() -> list[LayerData]:
    """A T2 head as ground truth, its low-resolution version (``kspace`` x2) and the T1 of the same session, registered."""
    truth = reduce_in_plane(read_sample("msl04_T2w"), IN_PLANE)
    reference = read_sample("msl04_T1w_registered").replace(name="T1 registered")
    return [_reference(reference), *_pair(T2_REGISTERED, truth, Degradation(protocol="kspace", scale=2))]


def t2_acquired() -> list[LayerData]:
    """Thick T2 slices as the scanner made them, and the T1 of the same session on its own grid; there is no ground truth."""
    prepare_workspace(T2_ACQUIRED)
    low = read_sample("msl04_T2w").replace(name="T2")
    return [
        _reference(read_sample("msl04_T1w").replace(name="T1")),
        volume_to_layer(low, metadata={"role": Role.LOW_RESOLUTION}, interpolation2d="nearest"),
    ]


def _pair(workspace: Workspace, truth: Volume, degradation: Degradation) -> list[LayerData]:
    truth = truth.replace(name="HR")
    low = degrade(truth, degradation).replace(name="LR")
    prepare_workspace(workspace)
    return [
        volume_to_layer(truth, metadata={"role": Role.GROUND_TRUTH}),
        volume_to_layer(low, metadata={"role": Role.LOW_RESOLUTION}, interpolation2d="nearest"),
    ]


def _reference(volume: Volume) -> LayerData:
    return volume_to_layer(volume, metadata={"role": Role.REFERENCE}, visible=False)
