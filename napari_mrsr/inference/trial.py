"""A small piece of a volume run first: whether the model's result explains it better than interpolation does."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_mrsr.evaluation.consistency import data_consistency
from napari_mrsr.inference.engine import super_resolve
from napari_mrsr.inference.guard import Level, Reason
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.intensity import foreground_mask, require_content
from napari_mrsr.volume import Volume

EDGE = 40
"""LR voxels along each axis of the piece."""
THIN = 3
"""Every third voxel is looked at to find the middle of the head."""
NOISE_LIKE = 1.5
"""A residual of so many times the noise is not told from it."""
HALF = 0.5
"""Share of the residual of interpolation from which on a network's is doubtful."""


def try_piece(volume: Volume, options: RunOptions, reference: Volume | None = None) -> Reason:
    """Run a model on the middle of a head and degrade the result again; some seconds.

    The residual is compared with that of cubic interpolation of the same piece. It tells gross misfits only: a result may explain its input and
    still be wrong (:data:`~napari_mrsr.evaluation.consistency.CONSISTENCY_LIMITS`).

    Parameters
    ----------
    volume, options, reference
        As of :func:`~napari_mrsr.inference.run`; region, maps and self-ensemble are left out.

    Returns
    -------
    Reason

    Raises
    ------
    InputError, RunError
        As :func:`~napari_mrsr.inference.run`.
    """
    piece = _middle(volume)
    alone = {"roi": None, "roi_axes": None, "maps": (), "ensemble": False, "precision": "float32"}
    chosen = {name: value for name, value in (options.model_dump() | alone).items() if name != "model"}
    result = super_resolve(piece, options.model, reference=reference, **chosen)
    run = result.record["run"]
    plain = super_resolve(piece, "cubic", protocol=run["protocol"], scale=round(max(run["scale"])), axis=run["axis"])
    found, usual = (data_consistency(piece, image, run["protocol"])[0] for image in (result, plain))
    text = f"Degraded again, the result of a piece of {' x '.join(map(str, piece.shape))} voxels misses the input by {100 * found.nrmse:.2f} %"
    text += f", cubic interpolation by {100 * usual.nrmse:.2f} %"
    if found.rms_sigmas is not None and found.rms_sigmas <= NOISE_LIKE:
        return Reason(level=Level.GREEN, text=f"{text}; the residual is {found.rms_sigmas:.1f} times the noise.")
    share = found.nrmse / usual.nrmse if usual.nrmse else np.inf
    level = Level.GREEN if share < HALF else Level.AMBER if share < 1 else Level.RED
    return Reason(level=level, text=f"{text}.")


def _middle(volume: Volume) -> Volume:
    require_content(volume.data, volume.name)
    thin = foreground_mask(volume.data[::THIN, ::THIN, ::THIN])
    centre = THIN * np.array(ndimage.center_of_mass(thin))
    starts = [int(np.clip(c - EDGE // 2, 0, max(0, n - EDGE))) for c, n in zip(centre, volume.shape, strict=True)]
    return volume.crop([slice(a, a + EDGE) for a in starts])
