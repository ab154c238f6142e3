"""Reading NIfTI-1/2 and MGH/MGZ through nibabel, with every doubtful header named instead of guessed."""

from __future__ import annotations

import gzip
import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.imageglobals import logger as nibabel_logger
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from napari_mrsr.errors import InputError, SeveralVolumesError
from napari_mrsr.io.paths import require_readable, split_suffix
from napari_mrsr.io.sidecar import IMAGE_SUFFIXES, read_sidecar
from napari_mrsr.volume import Source, Volume, check_affine

READABLE = IMAGE_SUFFIXES
MAX_DIMENSION = 4096
MAX_GZIP_RATIO = 1100
"""gzip cannot shrink anything further than about 1030:1, so a header that promises more lies."""
SPACE_UNIT_TO_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""NIfTI's codes for metre, millimetre and micrometre; any other is taken as millimetres."""

log = logging.getLogger(__name__)


def read_volume(path: str | os.PathLike[str], index: int | None = None) -> Volume:
    """Read one 3D volume.

    Parameters
    ----------
    path : path
        ``.nii``, ``.nii.gz``, ``.hdr``/``.img`` (either), ``.mgh`` or ``.mgz``.
    index : int, optional
        Which volume of a 4D file, from 0. Not needed where the file holds one.

    Returns
    -------
    Volume
        Scanner units (slope and intercept applied), float32 unless the file stores integers without scaling; RAS+ order, mm. Geometry:
        sform where its code is positive, else qform, else the header's voxel sizes (a warning is logged: the position is unknown then).

    Raises
    ------
    InputError
        One sentence: file missing, truncated, no image, unsupported or broken header, RGB, complex, NaN or Inf, too large for memory.
    SeveralVolumesError
        If a 4D file holds several volumes and `index` is None.
    """
    path = require_readable(path)
    stem, suffix = split_suffix(path, READABLE)
    if not suffix:
        raise InputError(f"{path.name}: this file type cannot be read; use {', '.join(READABLE[:4])}, .mgh or .mgz.")
    image = _open(path)
    array, name = _volume_array(image, path, index, stem)
    affine, geometry = _geometry(image, path)
    affine = check_affine(affine, path.name)
    source = Source(path=str(path), header=image.header.copy(), geometry=geometry)
    return Volume(array, affine, name=name, source=source, record=read_sidecar(path))


def _open(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), _quiet_nibabel():
            warnings.simplefilter("ignore")
            image = nib.load(path)
    except (MGHError, ImageFileError, HeaderDataError, OSError, ValueError, EOFError, zlib.error, OverflowError, KeyError, TypeError) as error:
        raise InputError(f"{path.name}: not a readable NIfTI or MGH image ({_reason(path, error)}).") from None
    if not isinstance(image, (nib.Nifti1Pair, nib.MGHImage)):
        raise InputError(f"{path.name}: {type(image).__name__.removesuffix('Image')} files are not supported; convert the file to NIfTI.")
    return image


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """Keep nibabel's own header messages off the terminal; ours name file and remedy."""
    logger = nibabel_logger
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def _reason(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return "the file is empty"
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    wants_zip = path.name.lower().endswith((".gz", ".mgz"))
    if zipped and not wants_zip:
        return "it is gzip-compressed: rename it to end in .gz"
    if wants_zip and not zipped:
        return "it is not gzip-compressed although its name says so"
    return str(error).strip().split("\n")[0] or type(error).__name__


def _volume_array(image: Any, path: Path, index: int | None, stem: str) -> tuple[NDArray[Any], str]:
    shape = image.shape
    dtype = image.get_data_dtype()
    if dtype.fields is not None:
        raise InputError(f"{path.name}: an RGB colour image; export the grey-scale (magnitude) image.")
    if dtype.kind == "c":
        raise InputError(f"{path.name}: complex values; export the magnitude image.")
    if dtype.kind not in "iuf":
        raise InputError(f"{path.name}: voxel type {dtype} is not supported.")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if any(n < 1 or n > MAX_DIMENSION for n in shape):
        raise InputError(f"{path.name}: the header gives the shape {tuple(shape)}; every dimension must be 1 to {MAX_DIMENSION}.")
    if len(shape) < 3:
        raise InputError(f"{path.name}: a 2D image {tuple(shape)}; a 3D volume is needed.")
    if len(shape) > 4:
        raise InputError(f"{path.name}: {len(shape)} dimensions {tuple(shape)}; a 3D volume is needed.")
    count = shape[3] if len(shape) == 4 else 1
    if index is None and count > 1:
        raise SeveralVolumesError(f"{path.name}: holds {count} volumes; choose one by its index, 0 to {count - 1} (--index).", count)
    if index is not None and not 0 <= index < count:
        raise InputError(f"{path.name}: there is no volume {index}; it holds {count} (index 0 to {count - 1}).")
    _check_size(image, path, shape, dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A copy: a memory map would follow, or crash on, later changes of the user's file.
            raw = np.array(image.dataobj[..., index or 0] if len(shape) == 4 else image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile, MemoryError) as error:
        raise InputError(f"{path.name}: the image data are cut off or damaged ({_reason(path, error)}).") from None
    array = raw.reshape(shape[:3])
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise InputError(f"{path.name}: {bad} voxels are NaN or infinite; replace them before use.")
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array, stem if count == 1 else f"{stem}[{index}]"


def _check_size(image: Any, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Compare what the header promises with the file and the memory, before any is asked for."""
    stored = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    needed = int(np.prod([int(n) for n in shape[:3]], dtype=object)) * 8
    data_path = Path(image.file_map["image"].filename or path)
    if not data_path.is_file():
        raise InputError(f"{path.name}: its other half {data_path.name} is missing; keep header and image file together.")
    size = data_path.stat().st_size
    zipped = data_path.name.lower().endswith((".gz", ".mgz"))
    offset = int(getattr(image.dataobj, "offset", 0))
    if (zipped and stored > size * MAX_GZIP_RATIO) or (not zipped and stored + offset > size):
        raise InputError(f"{path.name}: truncated; the header promises {stored:,} bytes of image data, the file holds {size:,} in all.")
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(f"{path.name}: {tuple(shape)} voxels need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory are free.")


def _geometry(image: Any, path: Path) -> tuple[NDArray[np.float64], str]:
    if isinstance(image, nib.MGHImage):
        return np.array(image.affine, float), "MGH vox2ras"
    header = image.header
    _check_voxel_sizes(path)
    factor = SPACE_UNIT_TO_MM.get(int(header["xyzt_units"]) % 8, 1.0)
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code > 0:
        geometry, affine = f"sform (code {sform_code})", np.array(header.get_sform(), float)
    elif qform_code > 0:
        geometry, affine = f"qform (code {qform_code})", np.array(header.get_qform(), float)
    else:
        geometry, affine = "voxel sizes only (no sform or qform)", np.array(header.get_base_affine(), float)
        log.warning("%s: no sform or qform; orientation and position are assumed, check left and right.", path.name)
    affine[:3] *= factor
    _warn_odd_axes(affine, path)
    return affine, geometry


def _check_voxel_sizes(path: Path) -> None:
    """Read pixdim as stored: nibabel silently turns zero into 1 mm and drops minus signs."""
    header_path = path
    for suffix, other in ((".img", ".hdr"), (".img.gz", ".hdr.gz")):
        if path.name.lower().endswith(suffix):
            header_path = path.with_name(path.name[: -len(suffix)] + other)
    opener = gzip.open if header_path.name.lower().endswith(".gz") else open
    with opener(header_path, "rb") as stream:
        block = stream.read(540)
    header_class = nib.Nifti2Header if int.from_bytes(block[:4], "little") == 540 or int.from_bytes(block[:4], "big") == 540 else nib.Nifti1Header
    raw = header_class(block[: header_class.template_dtype.itemsize], check=False)
    sizes = [float(v) for v in raw["pixdim"][1:4]]
    if not all(np.isfinite(v) and v > 0 for v in sizes):
        shown = " x ".join(f"{v:g}" for v in sizes)
        raise InputError(f"{path.name}: the header gives a voxel size of {shown}; every size must be positive. Repair pixdim in the header.")


def _warn_odd_axes(affine: NDArray[np.float64], path: Path) -> None:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if np.isfinite(affine).all() and (sizes > 0).all():
        unit = affine[:3, :3] / sizes
        shear = np.degrees(np.arcsin(np.clip(np.abs(unit.T @ unit - np.eye(3)).max(), 0, 1)))
        if shear > 0.1:
            log.warning("%s: voxel axes are sheared by %.1f degrees; the affine is kept as it is.", path.name, shear)
