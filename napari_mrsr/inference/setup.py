"""Everything a run needs before its first tile: job, device, network, reference on the result's lattice."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import napari_mrsr
from napari_mrsr.errors import InputError
from napari_mrsr.inference.feed import Feed
from napari_mrsr.inference.options import Job, RunOptions, prepare
from napari_mrsr.inference.plan import pick_device
from napari_mrsr.intensity import intensity_range, require_content
from napari_mrsr.networks import MapInfo, create, get_architecture
from napari_mrsr.volume import AXES, Volume
from napari_mrsr.zoo import load_network

PARTIAL_COVER = 0.98
"""A reference that covers less than this share of the result is said to."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A run that can start.

    Attributes
    ----------
    job : Job
    device : torch.device
    network : Module
    feed : Feed
    notes : tuple of str
        What the user should know: the job's warnings, and how the reference was brought in.
    reference_record : dict
        Provenance of the reference; empty without one.
    """

    job: Job
    device: torch.device
    network: nn.Module
    feed: Feed
    notes: tuple[str, ...]
    reference_record: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Provenance that results and maps share."""
        job = self.job
        record = {
            "program": f"napari-mrsr {napari_mrsr.__version__}",
            "model": job.card.name,
            "weights_sha256": job.card.sha256,
            "protocol": job.protocol.name,
            "scale": list(job.grid.scale),
            "axis": None if job.protocol.pattern == "3d" else AXES[job.slice_axis],
            "noise_sigma": job.noise_sigma,
            "noise_source": job.noise_source,
            "input_range": job.gain,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "domain": job.verdict.model_dump(mode="json"),
            **({"choice": job.why} if job.why else {}),
            "warnings": list(self.notes),
        }
        return record | ({"reference": self.reference_record} if self.reference_record else {})

    def maps(self) -> tuple[MapInfo, ...]:
        """Internal maps that the network can show."""
        return get_architecture(self.job.card.architecture).maps(self.network)

    def require_maps(self, names: Sequence[str], kinds: Sequence[str]) -> None:
        """Refuse maps that the network does not have, or that are of another kind.

        Raises
        ------
        InputError
            Naming the map and those that are there.
        """
        known = {info.name: info for info in self.maps()}
        offered = ", ".join(n for n, info in known.items() if info.kind in kinds) or "none"
        for name in names:
            if name not in known or known[name].kind not in kinds:
                why = "is not there" if name not in known else "needs a chosen voxel" if known[name].kind == "query" else "is a table, not an image"
                raise InputError(f"Map {name!r} of {self.job.card.name} {why}; offered: {offered}.")


def set_up(
    volume: Volume,
    options: RunOptions,
    reference: Volume | None = None,
    like: Volume | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Setup:
    """Answer all open questions of a run and load its network; see :func:`napari_mrsr.inference.run`.

    Raises
    ------
    InputError
        Where the input or the options do not fit.
    Cancelled
        If `cancelled` answered True during the registration.
    """
    job = prepare(volume, options, like, reference)
    device = pick_device(options.device)
    network = _network(job).to(device)
    architecture = get_architecture(job.card.architecture)
    if architecture.channels_last:
        network.to(memory_format=torch.channels_last if architecture.dimension == 2 else torch.channels_last_3d)  # type: ignore[call-overload]
    notes, record, fine = list(job.warnings), {}, None
    if reference is not None and job.card.reference != "none":
        from napari_mrsr.inference.reference import moved, register_rigid, resample_reference  # SimpleITK is slow to import

        require_content(reference.data, reference.name)
        try:
            intensity_range(reference.data)
        except InputError:
            raise InputError(f"The reference {reference.name} has no positive intensities; give another one.") from None
        record = {"name": reference.name, "registered": options.register_reference}
        if options.register_reference:
            found = register_rigid(reference, volume, cancelled=cancelled)
            reference = moved(reference, found)
            notes += [found.summary, *([found.warning] if found.warning else [])]
            record |= {"shift_mm": found.shift_mm, "angle_deg": found.angle_deg, "matrix": found.matrix.tolist()}
        fine, cover = resample_reference(reference, job.grid.fine_shape, job.affine)
        record["cover"] = cover
        if cover < PARTIAL_COVER:
            notes.append(f"{reference.name} covers {100 * cover:.0f} % of the result; outside it the network sees no true reference.")
    return Setup(job, device, network, Feed(network, volume, job, device, fine), tuple(notes), record)


def _network(job: Job) -> nn.Module:
    if job.card.learned:
        return load_network(job.card)
    return create(job.card.architecture, job.scale, protocol=job.protocol.name, slice_axis=job.slice_axis, grid=job.grid)
