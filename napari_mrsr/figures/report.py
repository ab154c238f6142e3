"""Everything one comparison leaves behind, as files: volumes, maps, metrics, figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_mrsr.evaluation import Comparison, error_map, gradient_map
from napari_mrsr.evaluation.export import to_csv
from napari_mrsr.evaluation.frame import unique_names
from napari_mrsr.figures.comparison import comparison_figure
from napari_mrsr.figures.save import save_figure
from napari_mrsr.io import make_folder, require_writable, write_json, write_text, write_volume
from napari_mrsr.volume import Volume

ERROR_FILES = ("signed", "absolute", "squared")


def file_stem(name: str) -> str:
    """Name of a volume as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def write_maps(reference: Volume, candidates: Sequence[Volume], folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write error maps of each candidate and gradient maps of all images as NIfTI.

    Returns
    -------
    list of Path
        Files written: ``NAME_error-signed``, ``-absolute``, ``-squared``, ``NAME_gradient`` (physical) and ``NAME_gradient-cohft``.
    """
    folder = make_folder(folder)
    maps: dict[str, Volume] = {}
    volumes = (reference, *candidates)
    for name, volume in zip(unique_names(v.name for v in volumes), volumes, strict=True):
        stem = file_stem(name)
        if volume is not reference:
            for kind in ERROR_FILES:
                maps[f"{stem}_error-{kind}"] = error_map(reference, volume, kind)  # type: ignore[arg-type]
        maps[f"{stem}_gradient"] = gradient_map(volume)
        maps[f"{stem}_gradient-cohft"] = gradient_map(volume, "cohft")
    paths = {folder / f"{name}.nii.gz": volume for name, volume in maps.items()}
    for path in paths:
        require_writable(path, overwrite)
    return [
        file for path, volume in paths.items() for file in write_volume(volume, path, overwrite=overwrite, sidecar=False, description=volume.name)
    ]


def write_metrics(comparison: Comparison, stem: str | Path, overwrite: bool = False) -> list[Path]:
    """Write the scores as ``STEM.json`` and ``STEM.csv``; every row of the table names convention, mask and range."""
    path = Path(stem)
    csv_path = require_writable(path.with_suffix(".csv"), overwrite)
    json_path = write_json(comparison.model_dump(mode="json"), path.with_suffix(".json"), overwrite)
    return [write_text(to_csv(comparison), csv_path, overwrite), json_path]


def write_report(lr: Volume, candidates: Sequence[Volume], reference: Volume, comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write a whole comparison: LR and candidates as NIfTI, maps, metrics, figure (PNG and PDF)."""
    folder = make_folder(folder)
    written: list[Path] = []
    for volume in (lr, *candidates):
        written += write_volume(volume, folder / f"{file_stem(volume.name)}.nii.gz", description=f"napari-mrsr {volume.name}")
    written += write_maps(reference, candidates, folder / "maps")
    written += write_metrics(comparison, folder / "metrics")
    figure = comparison_figure(lr, candidates, reference, comparison=comparison)
    written += [save_figure(figure, folder / f"figure{suffix}") for suffix in (".png", ".pdf")]
    return written
