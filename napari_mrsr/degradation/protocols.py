"""How each paper makes a low-resolution volume: named protocols and the record of one degradation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from napari_mrsr.degradation import matrices
from napari_mrsr.degradation.separable import SeparableOperator
from napari_mrsr.errors import InputError
from napari_mrsr.grid import Alignment, SamplingGrid
from napari_mrsr.intensity import intensity_range, require_content
from napari_mrsr.volume import AXES, Volume, axis_index

Pattern = Literal["3d", "in-plane", "through-plane"]


@dataclass(frozen=True)
class Protocol:
    """A way of making low-resolution volumes.

    Attributes
    ----------
    name : str
        Name in commands, cards and sidecars.
    pattern : {"3d", "in-plane", "through-plane"}
        Which axes lose resolution: all, the two in the slice plane, or the one across slices.
    alignment : str
        Where the coarse samples lie (see :class:`~napari_mrsr.grid.SamplingGrid`).
    scales : tuple of int
        Factors it is defined for.
    matrix : callable
        One-axis operator for an :class:`~napari_mrsr.grid.AxisSampling`, and for a `width` of its blur where it has one.
    summary : str
        One line for help texts.
    """

    name: str
    pattern: Pattern
    alignment: Alignment
    scales: tuple[int, ...]
    matrix: Callable[..., NDArray[Any]]
    summary: str

    @property
    def has_blur(self) -> bool:
        """Whether it blurs by a profile whose width can be varied."""
        return "width" in inspect.signature(self.matrix).parameters

    def scale_per_axis(self, scale: float, slice_axis: int) -> tuple[float, float, float]:
        """Factor along R, A, S for slices stacked along `slice_axis`."""
        x, y, z = (scale if self.pattern == "3d" or (axis == slice_axis) == (self.pattern == "through-plane") else 1.0 for axis in range(3))
        return x, y, z

    def operator(self, grid: SamplingGrid, width: float = 1.0) -> SeparableOperator:
        """Linear part of the degradation on a grid, its blur wider or narrower by a factor `width`."""
        options = {} if width == 1 else {"width": width}
        return SeparableOperator(tuple(self.matrix(a, **options) if s != 1 else None for a, s in zip(grid.axes, grid.scale, strict=True)))


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        p.name: p
        for p in (
            Protocol("gaussian", "3d", "edges", (2, 3, 4), matrices.gaussian_sampling, "3D Gaussian blur (sigma 1 voxel), then spacing r (CFTN)"),
            Protocol(
                "gaussian-zoom", "3d", "corners", (2, 3, 4), matrices.zoom_sampling, "the same through scipy's zoom, corner aligned (CFTN's table)"
            ),
            Protocol("kspace", "in-plane", "kspace", (2, 3, 4), matrices.kspace_sampling, "centre crop of k-space in each slice (DCAMSR, Cohf-T)"),
            Protocol(
                "slice-profile",
                "through-plane",
                "edges",
                tuple(range(2, 9)),
                matrices.slice_profile_sampling,
                "thick slices, Gaussian profile (TransMRSR)",
            ),
            Protocol("bicubic", "in-plane", "edges", (2, 3, 4), matrices.bicubic_sampling, "antialiased bicubic in each slice (FD-ViT)"),
        )
    }
)


def get_protocol(name: str) -> Protocol:
    """Protocol of that name.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise InputError(f"Unknown protocol {name!r}: use one of {', '.join(PROTOCOLS)}.") from None


def _letter(value: Any) -> Any:
    try:
        return AXES[axis_index(value)] if isinstance(value, str) else value
    except InputError as error:
        raise ValueError(str(error)) from None


AxisName = Annotated[Literal["R", "A", "S"], BeforeValidator(_letter)]
"""Anatomical axis; L, P, I and small letters name the same axes."""


class Options(BaseModel):
    """Base of the models that describe a job: unknown fields refused, problems told in one sentence.

    Attributes
    ----------
    kind : str
        What a field is called in that sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str] = "Option"

    @classmethod
    def create(cls, **options: Any) -> Self:
        """Validated options.

        Raises
        ------
        InputError
            With one sentence naming the option that is wrong.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "value_error":  # one of our own sentences
                raise InputError(str(first["ctx"]["error"])) from None
            raise InputError(f"{cls.kind} {'.'.join(map(str, first['loc'][:1]))}: {first['msg']} (got {first.get('input')!r}).") from None


class Degradation(Options):
    """One degradation, as the command line, the sidecar file and the recipes write it.

    Attributes
    ----------
    protocol : str
        Name of a :class:`Protocol`.
    scale : int
        Factor r.
    axis : {"R", "A", "S"} or None
        Axis across slices; None takes the axis of coarsest spacing (ties: S).
    noise : float
        Rician noise in percent of the reference's ``mrsr-1`` range, 0 to 100.
    seed : int
        Seed of the noise.
    """

    kind: ClassVar[str] = "Degradation option"

    protocol: str = "gaussian"
    scale: int = 2
    axis: AxisName | None = None
    noise: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _scale_fits(self) -> Degradation:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"Unknown protocol {self.protocol!r}: use one of {', '.join(PROTOCOLS)}.")
        scales = PROTOCOLS[self.protocol].scales
        if self.scale not in scales:
            raise ValueError(f"Protocol {self.protocol} is defined for factors {', '.join(map(str, scales))}, not {self.scale}.")
        return self

    def slice_axis(self, volume: Volume) -> int:
        """Array axis across slices for a high-resolution volume."""
        return axis_index(self.axis) if self.axis else volume.slice_axis()

    def grid(self, shape: Sequence[int], slice_axis: int) -> SamplingGrid:
        """Grid under a high-resolution volume of that shape."""
        protocol = get_protocol(self.protocol)
        return SamplingGrid.from_fine(shape, protocol.scale_per_axis(self.scale, slice_axis), protocol.alignment)


def degrade(volume: Volume, degradation: Degradation) -> Volume:
    """Make the low-resolution volume of a high-resolution one.

    Parameters
    ----------
    volume : Volume
        High-resolution volume in scanner units.
    degradation : Degradation
        Protocol, factor, axis, noise.

    Returns
    -------
    Volume
        float32, scanner units of the input, ``floor(N / r)`` samples per degraded axis, affine exact to the sub-voxel, with the
        degradation in its record. Rician noise: ``sqrt((y + n1)^2 + n2^2)``, sigma = noise % of the reference's range (EVALUATION 3.3).

    Raises
    ------
    InputError
        If the volume is constant, or shorter than the factor along a degraded axis.
    """
    require_content(volume.data, volume.name)
    protocol = get_protocol(degradation.protocol)
    slice_axis = degradation.slice_axis(volume)
    grid = degradation.grid(volume.shape, slice_axis)
    coarse = protocol.operator(grid).image(volume.data.astype(np.float32))
    sigma = degradation.noise / 100 * intensity_range(volume.data) if degradation.noise else 0.0
    if sigma:
        coarse = add_rician_noise(coarse, sigma, np.random.default_rng(degradation.seed))
    record = {
        **degradation.model_dump(),
        "axis": None if protocol.pattern == "3d" else AXES[slice_axis],
        "noise_sigma": sigma,
        "source": volume.name,
        "source_shape": list(volume.shape),
        "source_affine": volume.affine.tolist(),
    }
    name = f"{volume.name} {protocol.name} x{degradation.scale}"
    return volume.replace(data=coarse.astype(np.float32), affine=grid.coarse_affine(volume.affine), name=name).with_record(degradation=record)


def reduce_in_plane(volume: Volume, spacing: float) -> Volume:
    """Bring both in-plane axes to a coarser spacing by a centred k-space crop, the voxels' content as a scanner would have acquired it.

    Scans are often stored on a finer grid than they were acquired; degrading such empty detail would be too easy a task.

    Parameters
    ----------
    volume : Volume
    spacing : float
        Wanted in-plane spacing in mm; axes that are as coarse already stay.

    Returns
    -------
    Volume
        float32 magnitude, scanner units; the spacing is met to within one voxel over the field of view.
    """
    protocol = get_protocol("kspace")
    slice_axis = volume.slice_axis()
    factors = [max(1.0, spacing / size) if axis != slice_axis else 1.0 for axis, size in enumerate(volume.voxel_size)]
    grid = SamplingGrid.from_fine(volume.shape, factors, protocol.alignment)
    data = np.abs(protocol.operator(grid).forward(volume.data.astype(np.float32)))
    return volume.replace(data=data.astype(np.float32), affine=grid.coarse_affine(volume.affine))


def add_rician_noise(data: NDArray[Any], sigma: float, rng: np.random.Generator) -> NDArray[Any]:
    """Magnitude of `data` plus complex Gaussian noise of standard deviation `sigma` per channel."""
    real = data + sigma * rng.standard_normal(data.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(data.shape, dtype=np.float32)
    return np.asarray(np.hypot(real, imaginary))


def recorded_degradation(volume: Volume) -> Degradation | None:
    """Degradation that a volume's record names, or None where it has none.

    Raises
    ------
    InputError
        If the record is there but not readable.
    """
    entry = volume.record.get("degradation")
    if entry is None:
        return None
    if not isinstance(entry, Mapping):
        raise InputError(f"{volume.name}: the degradation in its sidecar file is not a table of options.")
    return Degradation.create(**{k: v for k, v in entry.items() if k in Degradation.model_fields})
