"""napari's writer: an image layer to NIfTI or MGH with exact geometry."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_mrsr.errors import MrsrError
from napari_mrsr.io import write_volume


def write_image(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one image layer (npe2 writer contribution); napari's dialog has asked before replacing a file.

    Returns
    -------
    list of str
        Paths written; empty (and a sentence to the user) where writing failed.
    """
    from napari.layers import Image

    from napari_mrsr.gui.layers import layer_to_volume
    from napari_mrsr.gui.reader import tell

    known = {key: meta[key] for key in ("name", "affine", "scale", "translate", "rotate", "shear", "metadata", "rgb") if key in meta}
    try:
        volume = layer_to_volume(Image(data, **known))
        if volume.data.dtype.kind == "f":
            volume = volume.replace(data=volume.data.astype(np.float32, copy=False))
        return [str(p) for p in write_volume(volume, path, overwrite=True, description=f"napari-mrsr {volume.name}")]
    except MrsrError as error:
        tell(str(error))
        return []
