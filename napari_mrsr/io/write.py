"""Writing volumes whole or not at all, in the source's axis order with its header facts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from napari_mrsr.io.paths import require_suffix, write_whole
from napari_mrsr.io.sidecar import Record
from napari_mrsr.volume import Volume

WRITABLE = (".nii.gz", ".nii", ".hdr", ".img", ".mgz", ".mgh")
DESCRIPTION_BYTES = 79
MILLIMETRE = 2
LAST_TIME_UNIT = 48
"""NIfTI's codes: of the spatial unit, and the largest of a time unit (kept from the source)."""


def write_volume(volume: Volume, path: str | os.PathLike[str], *, overwrite: bool = False, sidecar: bool = True, description: str = "") -> list[Path]:
    """Write a volume.

    Parameters
    ----------
    volume : Volume
        Written as float32 in scanner units (integers and masks keep their type), in the axis order and flips of its source, header facts
        (form codes, units, intent, database fields) kept from a NIfTI source.
    path : path
        ``.nii.gz``, ``.nii``, ``.hdr``/``.img``, ``.mgz`` or ``.mgh``.
    overwrite : bool
        Replace an existing file.
    sidecar : bool
        Also write the volume's record as JSON beside it, where it has one.
    description : str
        What was done; goes into the header's description field (79 bytes).

    Returns
    -------
    list of Path
        Files written.

    Raises
    ------
    OutputError
        If a file exists already, the format is unknown, the record is no JSON, or the folder or disk refuses.
    """
    path = Path(path).expanduser()
    suffix = require_suffix(path, WRITABLE, "image")
    array, affine = volume.to_storage()
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    record = Record.of(path, dict(volume.record) if sidecar else {}, overwrite)
    make = _mgh if suffix in (".mgz", ".mgh") else _nifti
    # Flipped views stay views: nibabel writes slice by slice, so that large results are never copied whole.
    image = make(volume, array, affine, suffix, description)
    with write_whole(path, overwrite, need_bytes=array.nbytes + 2**16) as temporary:
        nib.save(image, temporary)
    return [path, *record.write()]


def _nifti(volume: Volume, array: NDArray[Any], affine: NDArray[np.float64], suffix: str, description: str) -> Any:
    source = volume.source.header
    known = isinstance(source, nib.Nifti1Header)
    kinds = {True: (nib.Nifti2Pair, nib.Nifti2Image), False: (nib.Nifti1Pair, nib.Nifti1Image)}[isinstance(source, nib.Nifti2Header)]
    kind = kinds[0] if suffix in (".hdr", ".img") else kinds[1]
    image = kind(array, affine)
    header = image.header
    sform_code, qform_code = 1, 1
    if known:
        sform_code = int(source["sform_code"]) or int(source["qform_code"]) or 1
        qform_code = int(source["qform_code"]) or sform_code
        for key in ("intent_code", "intent_p1", "intent_p2", "intent_p3", "intent_name", "aux_file"):
            header[key] = source[key]
        if not isinstance(source, nib.Nifti2Header) and "db_name" in header:
            header["db_name"] = source["db_name"]
    time_unit = int(source["xyzt_units"]) // 8 * 8 if known else 0
    header["xyzt_units"] = MILLIMETRE + (time_unit if time_unit <= LAST_TIME_UNIT else 0)
    image.set_sform(affine, sform_code)
    image.set_qform(affine, qform_code)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, 0)  # a sheared affine has no quaternion; a wrong qform would mislead other viewers
    text = description or (bytes(source["descrip"]).decode("latin-1").rstrip("\0") if known else "")
    header["descrip"] = text.encode("ascii", "replace")[:DESCRIPTION_BYTES]
    header["cal_min"] = header["cal_max"] = 0
    return image


def _mgh(volume: Volume, array: NDArray[Any], affine: NDArray[np.float64], suffix: str, description: str) -> Any:
    if array.dtype not in (np.uint8, np.int16, np.int32, np.float32):
        array = array.astype(np.float32)
    header = volume.source.header.copy() if isinstance(volume.source.header, nib.freesurfer.MGHImage.header_class) else None
    image = nib.MGHImage(array, affine, header)
    image.set_data_dtype(array.dtype)
    return image
