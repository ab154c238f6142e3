"""Jobs of the engine benchmark: every network at paper scale and as shipped, on the standard jobs or parts of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    """One network on one job.

    Attributes
    ----------
    architecture : str
    scale : int
    protocol : str
    shapes : dict
        Low-resolution shape for each size: ``tiny`` (does it run at all), ``small`` (minutes for all rows), ``full`` (the standard job).
    options : dict
        Of the network, at paper scale.
    recipe : str
        In place of options: the compact recipe; its shipped weights where they are there, else random ones of its widths.
    window : int or None
        Networks that see slices and were trained on patches: their edge, for MONAI's sliding windows at one at a time.
    """

    architecture: str
    scale: int
    protocol: str
    shapes: dict[str, Shape]
    options: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    window: int | None = None


CFTN = {"tiny": (24, 16, 16), "full": (128, 128, 90)}
FDVIT = {"tiny": (32, 32, 2), "small": (128, 128, 40), "full": (256, 256, 16)}
DCAMSR = {"tiny": (32, 32, 2), "small": (64, 64, 8), "full": (64, 64, 100)}
COHFT = {"tiny": (30, 30, 2), "small": (60, 60, 32), "full": (60, 60, 155)}

ROWS = {
    "cftn paper x2": Row("cftn", 2, "gaussian", {**CFTN, "small": (40, 48, 48)}, {"ca_reduction": 8}),
    "cftn shipped x2": Row("cftn", 2, "gaussian", {**CFTN, "small": (64, 80, 80)}, recipe="cftn_x2_compact"),
    "fdvit paper x2": Row("fdvit", 2, "bicubic", FDVIT, window=64),
    "fdvit shipped x2": Row("fdvit", 2, "bicubic", FDVIT, recipe="fdvit_x2_compact", window=64),
    "dcamsr paper x4": Row("dcamsr", 4, "kspace", DCAMSR, {"size": 256}),
    "dcamsr shipped x4": Row("dcamsr", 4, "kspace", DCAMSR, recipe="dcamsr_x4_compact"),
    "cohft paper x4": Row("cohft", 4, "kspace", COHFT, {"preset": "L"}),
    "cohft shipped x4": Row("cohft", 4, "kspace", COHFT, recipe="cohft_x4_compact"),
    # Slices of 256 x 256 once the thick axis is enlarged.
    "transmrsr paper x8": Row("transmrsr", 8, "slice-profile", {"tiny": (8, 1, 64), "small": (32, 3, 256), "full": (32, 150, 256)}),
    "transmrsr shipped x4": Row(
        "transmrsr", 4, "slice-profile", {"tiny": (16, 1, 64), "small": (64, 8, 256), "full": (64, 150, 256)}, recipe="transmrsr_x4_compact"
    ),
}


def model_of(row: Row, home: Path) -> tuple[str, bool]:
    """Name of the row's model, and whether its weights are shipped; random weights are put into a private folder."""
    import torch

    from napari_mrsr.networks import create, get_architecture
    from napari_mrsr.zoo import WEIGHTS, Card, save_weights, sha256_of

    shipped = f"{row.architecture}-x{row.scale}"
    if row.recipe and (WEIGHTS / f"{shipped}.json").exists():
        return shipped, True
    folder = home / "napari-mrsr" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    model = f"bench-{row.architecture}-{'compact' if row.recipe else 'paper'}-x{row.scale}"
    path = folder / f"{model}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        architecture, options = get_architecture(row.architecture), options_of(row)
        save_weights(create(row.architecture, row.scale, **options).state_dict(), path, {})
        card = Card(
            name=model, title=model, architecture=row.architecture, options=options, scale=row.scale, protocol=row.protocol,
            weights=path.name, sha256=sha256_of(path), window=architecture.window, reference=architecture.reference,
            halo=8 if row.architecture == "cftn" else None,
        )  # fmt: skip
        (folder / f"{model}.json").write_text(card.model_dump_json())
    return model, False


def options_of(row: Row) -> dict[str, Any]:
    if not row.recipe:
        return row.options
    import yaml

    import napari_mrsr

    text = (Path(napari_mrsr.__file__).parent / "resources" / "recipes" / f"{row.recipe}.yaml").read_text(encoding="utf-8")
    options = yaml.safe_load(text)["network"]["options"]
    # Parts that only training uses.
    return {name: value for name, value in options.items() if name not in ("with_encoder", "with_vit", "encoder_options", "vit_options")}


def job(row: Row, size: str):
    """Low resolution of texture, and a reference where the network takes one."""
    from scipy import ndimage

    from napari_mrsr.networks import get_architecture
    from napari_mrsr.volume import Volume

    shape = row.shapes[size]
    random = np.random.default_rng(0)
    data = 400 + 300 * ndimage.gaussian_filter(random.standard_normal(shape), 1.5).astype(np.float32)
    thick = row.protocol == "slice-profile"
    voxel = (float(row.scale), 1.0, 1.0) if thick else (2.0, 2.0, 2.0) if row.protocol == "gaussian" else (1.0, 1.0, 3.0)
    low = Volume(data, np.diag([*voxel, 1.0]), name="LR")
    if get_architecture(row.architecture).reference == "none":
        return low, None
    fine = (row.scale * shape[0], row.scale * shape[1], shape[2])
    reference = 300 + 200 * ndimage.gaussian_filter(random.standard_normal(fine), 1.5).astype(np.float32)
    affine = np.diag([1 / row.scale, 1 / row.scale, 3.0, 1.0])
    if row.protocol != "kspace":
        affine[:2, 3] = (1 / row.scale - 1) / 2
    return low, Volume(reference, affine, name="T1")
