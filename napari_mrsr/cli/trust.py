"""Command: what can be said of results without a ground truth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_mrsr.cli.common import Index, Json, Overwrite, Protocol, app, read, say

if TYPE_CHECKING:
    from napari_mrsr.evaluation.consistency import Consistency
    from napari_mrsr.evaluation.trust import Disagreement
    from napari_mrsr.volume import Volume


@app.command()
def trust(
    lr: Annotated[Path, typer.Argument(help="Low-resolution volume that the results were made from.")],
    candidates: Annotated[list[Path], typer.Argument(metavar="SR [SR2 ...]", help="Results of any program.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Also write the maps and trust.json there.")] = None,
    protocol: Protocol = None,
    mask: Annotated[Path | None, typer.Option(help="Volume whose non-zero voxels count (default: the foreground).")] = None,
    as_json: Json = False,
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Check results without a ground truth: do they explain their input, and do they agree with each other.

    Example: napari-mrsr trust T1_lr.nii.gz T1_sr.nii.gz T1_cubic.nii.gz -o trust
    """
    from napari_mrsr.evaluation.frame import unique_names
    from napari_mrsr.evaluation.trust import CONSISTENCY_LIMITS, DISAGREEMENT_LIMITS, NOT_FOR_DIAGNOSIS, data_consistency, disagreement

    low, given = read(lr, index), read(mask, index) if mask else None
    volumes = [read(path, index) for path in candidates]
    results = [v.replace(name=name) for v, name in zip(volumes, unique_names(v.name for v in volumes), strict=True)]
    checked = [data_consistency(low, result, protocol, given) for result in results]
    apart = disagreement(results, given) if len(results) > 1 else None
    limits = [CONSISTENCY_LIMITS, *([DISAGREEMENT_LIMITS] if apart else []), NOT_FOR_DIAGNOSIS]
    content = {
        "consistency": [numbers.model_dump(mode="json") for numbers, _ in checked],
        "disagreement": apart[0].model_dump(mode="json") if apart else None,
        "limits": limits,
    }
    maps = {f"{result.name}_consistency": found for result, (_, found) in zip(results, checked, strict=True)}
    if apart:
        maps["disagreement"] = apart[1]
    written = _write(output, maps, content, overwrite) if output is not None else []
    if as_json:
        say(json.dumps(content | {"files": [str(path) for path in written]}, indent=2))
        return
    say("\n".join([_table([numbers for numbers, _ in checked]), *([_apart(apart[0])] if apart else []), *limits]))
    for path in written:
        say(str(path))


def _table(rows: Sequence[Consistency]) -> str:
    cells = [("data consistency", "NRMSE", "rms", "rms/sigma", "max/sigma", "max at [mm]")]
    cells += [
        (r.name, f"{100 * r.nrmse:.2f} %", f"{r.rms:.4g}", _sigmas(r.rms_sigmas), _sigmas(r.peak_sigmas), ", ".join(f"{v:.1f}" for v in r.at_mm))
        for r in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in cells]
    notes = [
        f"{r.name}: degraded by {r.protocol}; sigma {'-' if r.sigma is None else f'{r.sigma:.4g}'}: {r.sigma_source}; region: {r.region}"
        + ("; resampled onto the lattice of the degradation" if r.resampled else "")
        for r in rows
    ]
    return "\n".join([*lines, *notes])


def _sigmas(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _apart(found: Disagreement) -> str:
    moved = f" (resampled: {', '.join(found.resampled)})" if found.resampled else ""
    return f"disagreement of {len(found.names)} results: {found.rms:.4g} rms, {found.percent:.2f} % of the range, at most {found.peak:.4g}{moved}"


def _write(folder: Path, maps: Mapping[str, Volume], content: Mapping[str, object], overwrite: bool) -> list[Path]:
    from napari_mrsr.figures.report import file_stem
    from napari_mrsr.io import make_folder, require_writable, write_json, write_volume

    make_folder(folder)
    paths = {folder / f"{file_stem(name)}.nii.gz": volume for name, volume in maps.items()}
    for path in (*paths, folder / "trust.json"):
        require_writable(path, overwrite)
    written = [file for path, volume in paths.items() for file in write_volume(volume, path, overwrite=overwrite, description=volume.name)]
    return [*written, write_json(content, folder / "trust.json", overwrite)]
