"""Files to volumes and back, geometry and header facts kept."""

from napari_mrsr.io.paths import make_folder, require_readable, require_suffix, require_writable, write_text, write_whole
from napari_mrsr.io.read import READABLE, read_volume
from napari_mrsr.io.sidecar import read_description, read_sidecar, sidecar_path, write_json
from napari_mrsr.io.write import WRITABLE, write_volume

__all__ = [
    "READABLE",
    "WRITABLE",
    "make_folder",
    "read_description",
    "read_sidecar",
    "read_volume",
    "require_readable",
    "require_suffix",
    "require_writable",
    "sidecar_path",
    "write_json",
    "write_text",
    "write_volume",
    "write_whole",
]
