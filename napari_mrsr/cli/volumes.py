"""Commands on volumes: demo, degrade, run, look, compare, figure."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from napari_mrsr.cli.common import (
    Axis,
    Convention,
    Device,
    Index,
    Json,
    Model,
    Noise,
    Orientations,
    Overwrite,
    Protocol,
    Reference,
    Register,
    Seed,
    Voxel,
    app,
    check_image,
    free_folder,
    has_screen,
    read,
    run_model,
    say,
)
from napari_mrsr.errors import InputError

MAP_NAME = re.compile(r"[a-z0-9-]+")


@app.command()
def demo(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the results (default: out, or the next free out-N).")] = None,
    window: Annotated[bool | None, typer.Option("--window/--no-window", help="Open napari (default: where there is a screen).")] = None,
    model: Annotated[str, typer.Option(help="Model to show.")] = "cftn-x2",
) -> None:
    """Degrade, super-resolve and judge the shipped T1 volume: in napari where there is a screen, else into files.

    Example: napari-mrsr demo --no-window -o out
    """
    if window or (window is None and has_screen()):
        raise SystemExit(subprocess.call([sys.executable, "-m", "napari_mrsr.gui.demo", model]))
    from napari_mrsr.degradation import Degradation
    from napari_mrsr.degradation import degrade as degrade_volume
    from napari_mrsr.evaluation import compare as compare_volumes
    from napari_mrsr.evaluation import format_table
    from napari_mrsr.figures import write_report
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.io import make_folder
    from napari_mrsr.samples import read_sample

    folder = output or free_folder(Path("out"))
    if output is not None and output.is_dir() and any(output.iterdir()):
        raise InputError(f"{output} is not empty and is kept; choose another folder.")
    make_folder(folder)
    truth = read_sample("arc2017_T1w").replace(name="HR")
    low = degrade_volume(truth, Degradation()).replace(name="LR")
    results = [run_model(low, RunOptions.create(model=name)).volume.replace(name=name) for name in dict.fromkeys(("cubic", "back-projection", model))]
    comparison = compare_volumes(truth, results)
    say(format_table(comparison))
    for path in write_report(low, results, truth, comparison, folder):
        say(str(path))


@app.command()
def degrade(
    hr: Annotated[Path, typer.Argument(help="High-resolution volume.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Low-resolution volume to write.")],
    protocol: Annotated[str, typer.Option(help="gaussian, gaussian-zoom, kspace, slice-profile or bicubic.")] = "gaussian",
    scale: Annotated[int, typer.Option(help="Factor.")] = 2,
    axis: Axis = None,
    noise: Annotated[float, typer.Option(help="Rician noise in percent of the volume's range.")] = 0.0,
    seed: Seed = 0,
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a low-resolution volume the way a paper does, with a JSON sidecar that says how.

    Example: napari-mrsr degrade T1.nii.gz --protocol gaussian --scale 2 --noise 3 --seed 0 -o T1_lr.nii.gz
    """
    from napari_mrsr.degradation import Degradation
    from napari_mrsr.degradation import degrade as degrade_volume
    from napari_mrsr.io import read_volume, write_volume

    check_image(output, overwrite)
    degradation = Degradation.create(protocol=protocol, scale=scale, axis=axis, noise=noise, seed=seed)
    low = degrade_volume(read_volume(hr, index), degradation)
    noise_text = f", {noise:g}% Rician noise, seed {seed}" if noise else ""
    for path in write_volume(low, output, overwrite=overwrite, description=f"napari-mrsr degraded: {protocol} x{scale}{noise_text}"):
        say(str(path))


@app.command()
def run(
    lr: Annotated[Path, typer.Argument(help="Low-resolution volume.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Super-resolved volume to write.")],
    model: Model = "cftn-x2",
    scale: Annotated[int | None, typer.Option(help="Factor, for methods without weights.")] = None,
    protocol: Protocol = None,
    axis: Axis = None,
    voxel: Voxel = None,
    orientations: Orientations = "both",
    reference: Reference = None,
    register: Register = False,
    like: Annotated[Path | None, typer.Option(help="Put the result onto this volume's grid.")] = None,
    roi: Annotated[str | None, typer.Option(help="x0,y0,z0,x1,y1,z1 in mm (RAS).")] = None,
    noise: Noise = None,
    device: Device = "auto",
    tile: Annotated[int | None, typer.Option(help="Networks of volumes: largest tile edge in LR voxels (default: planned).")] = None,
    halo: Annotated[int | None, typer.Option(help="Networks of volumes: margin of tiles in LR voxels (default: as measured for the model).")] = None,
    batch: Annotated[int | None, typer.Option(help="Slices or tiles at once (default: planned).")] = None,
    precision: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    translate: Annotated[bool, typer.Option("--compile", help="Translate the network for this device first (torch.compile).")] = False,
    maps: Annotated[list[str] | None, typer.Option("--map", help="Internal map to write beside the result (see models show); repeat.")] = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Average over mirror images; their spread is written beside the result.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Tiles with full margins: equal to one piece to float32 accuracy.")] = False,
    attention: Annotated[str, typer.Option(help="CFTN: window (as trained) or global (over the whole volume; far slower).")] = "window",
    skip_air: Annotated[bool, typer.Option(help="Leave empty air around the head out (linear interpolation there).")] = True,
    as_json: Json = False,
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Super-resolve a volume; the result lies exactly over the input, in scanner units, in the input's axis order.

    Example: napari-mrsr run T1_lr.nii.gz --model cftn-x2 -o T1_sr.nii.gz
    """
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.inference.ensemble import SPREAD
    from napari_mrsr.io import read_volume, write_volume
    from napari_mrsr.volume import Box

    beside = {name: _beside(output, name) for name in [*(maps or []), *([SPREAD.name] if ensemble else [])]}
    for path in (output, *beside.values()):
        check_image(path, overwrite)
    box = Box.parse(roi) if roi is not None else None
    options = RunOptions.create(
        model=model, scale=scale, protocol=protocol, axis=axis, voxel=voxel, orientations=orientations, register_reference=register,
        noise=noise, device=device, tile=tile, halo=halo, batch=batch, precision=precision, compile=translate,
        roi=(*box.lower, *box.upper) if box else None, maps=tuple(maps or []),
        ensemble=ensemble, exact=exact, attention=attention, skip_air=skip_air,
    )  # fmt: skip
    volumes = {role: read(path, index) if path else None for role, path in (("reference", reference), ("like", like))}
    kept = output.with_name(f".{output.name}.tiles")
    try:
        done = run_model(read_volume(lr, index), options, volumes["reference"], volumes["like"], kept, (output, *beside.values()))
    except KeyboardInterrupt:
        if kept.exists():
            typer.echo(f"Finished tiles are kept in {kept}: the same command goes on from them.", err=True)
        raise
    record = done.volume.record["run"]
    text = f"napari-mrsr {record['model']} x{max(record['scale']):.4g} {record['protocol']}"
    written = write_volume(done.volume, output, overwrite=overwrite, description=text)
    for volume in done.maps:
        name = volume.record["map"]["name"]
        written += write_volume(volume, beside[name], overwrite=overwrite, description=f"napari-mrsr {record['model']} map {name}")
    if as_json:
        say(json.dumps({"files": [str(path) for path in written], **record}, indent=2))
        return
    for path in written:
        say(str(path))


@app.command()
def look(
    lr: Annotated[Path, typer.Argument(help="Low-resolution volume.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Map to write.")],
    name: Annotated[str, typer.Option("--map", help="Internal map of the network (see `napari-mrsr models show`).")],
    at: Annotated[str, typer.Option(help="x,y,z in mm (RAS): the voxel that attends, or whose slice is shown.")],
    model: Model = "cftn-x2",
    channel: Annotated[int | None, typer.Option(min=0, help="Channel or head (default: mean over all).")] = None,
    protocol: Protocol = None,
    axis: Axis = None,
    voxel: Voxel = None,
    orientations: Orientations = "both",
    reference: Reference = None,
    register: Register = False,
    noise: Noise = None,
    device: Device = "auto",
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Look into a network: what a voxel attends to, or another internal map around it.

    Example: napari-mrsr look T1_lr.nii.gz --map cst-attention --at -12,30,8 -o attention.nii.gz
    """
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.inference.maps import Probe
    from napari_mrsr.inference.process import tune_process
    from napari_mrsr.io import read_volume, write_volume

    check_image(output, overwrite)
    options = RunOptions.create(
        model=model, protocol=protocol, axis=axis, voxel=voxel, orientations=orientations, register_reference=register, noise=noise, device=device
    )
    position = _position(at)
    tune_process()
    probe = Probe(read_volume(lr, index), options, read(reference, index) if reference else None)
    for note in probe.setup.notes:
        sys.stderr.write(f"warning: {note}\n")
    found = probe.look(name, position, channel)
    for path in write_volume(found, output, overwrite=overwrite, description=f"napari-mrsr {model} map {name}"):
        say(str(path))


@app.command()
def compare(
    hr: Annotated[Path, typer.Argument(help="Ground truth.")],
    candidates: Annotated[list[Path], typer.Argument(metavar="SR [SR2 ...]", help="Volumes to score.")],
    mask: Annotated[Path | None, typer.Option(help="Volume whose non-zero voxels count.")] = None,
    convention: Convention = "mrsr-1",
    roi: Annotated[str | None, typer.Option(help="Measure only there: x0,y0,z0,x1,y1,z1 in mm (RAS).")] = None,
    plane: Annotated[str | None, typer.Option("--slice", metavar="AXIS=MM", help="Measure only this slice, for example S=30.")] = None,
    bootstrap: Annotated[bool, typer.Option("--bootstrap", help="Add 95 % intervals over slices.")] = False,
    tissue: Annotated[bool, typer.Option("--tissue", help="Add Dice of CSF, grey and white matter (T1; a mask given counts as brain).")] = False,
    per_slice: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Also write the scores of every slice.")] = None,
    axis: Axis = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Also write the table as CSV.")] = None,
    latex: Annotated[Path | None, typer.Option(metavar="FILE.tex", help="Also write the table as LaTeX (booktabs).")] = None,
    maps: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write error and gradient maps there.")] = None,
    as_json: Json = False,
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Score volumes against the truth on the region all of them cover; numbers say how they were computed.

    Example: napari-mrsr compare T1.nii.gz T1_sr.nii.gz T1_cubic.nii.gz --bootstrap --latex table.tex
    """
    from napari_mrsr.evaluation import format_table
    from napari_mrsr.evaluation.brain import brain_mask
    from napari_mrsr.evaluation.export import slices_to_csv, to_csv, to_latex
    from napari_mrsr.evaluation.frame import prepare
    from napari_mrsr.evaluation.measured import measure
    from napari_mrsr.evaluation.tissue import tissue_dice, with_dice
    from napari_mrsr.figures import write_maps
    from napari_mrsr.io import require_suffix, require_writable, write_text
    from napari_mrsr.volume import Box, axis_index

    for path, suffix in ((per_slice, ".csv"), (csv, ".csv"), (latex, ".tex")):
        if path is not None:
            require_writable(path, overwrite)
            require_suffix(path, (suffix,), "table")
    box, chosen = Box.parse(roi) if roi is not None else None, _slice(plane) if plane is not None else None
    truth = read(hr, index)
    volumes = [read(p, index) for p in candidates]
    given = read(mask, index) if mask else None
    frame = prepare(truth, volumes, convention, given)
    across = frame.slice_axis if axis is None else axis_index(axis)
    measured = measure(frame, box)
    comparison = measured.comparison(None if chosen is None else (chosen[0], measured.slice_near(*chosen)), bootstrap)
    if tissue:
        comparison = with_dice(comparison, tissue_dice(frame, brain_mask(truth) if given is None else given))
    texts = ((per_slice, slices_to_csv(measured, across)), (csv, to_csv(comparison)), (latex, to_latex(comparison)))
    written = [write_text(text, path, overwrite) for path, text in texts if path is not None]
    drawn = write_maps(truth, volumes, maps, overwrite) if maps is not None else []
    if as_json:
        files = {"maps": [str(p) for p in drawn], "tables": [str(p) for p in written]}
        say(json.dumps(comparison.model_dump(mode="json") | files, indent=2))
        return
    say(format_table(comparison))
    for path in (*written, *drawn):
        say(str(path))


@app.command()
def figure(
    hr: Annotated[Path, typer.Argument(help="Ground truth.")],
    candidates: Annotated[list[Path], typer.Argument(metavar="SR [SR2 ...]", help="Volumes to show.")],
    lr: Annotated[Path, typer.Option(help="Low-resolution volume; cubic interpolation is made from it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG, SVG or PDF.")],
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal.")] = "axial",
    position: Annotated[float | None, typer.Option(help="Slice position in mm (default: the fullest slice).")] = None,
    zoom: Annotated[str | None, typer.Option(help="Inset: x0,y0,z0,x1,y1,z1 in mm.")] = None,
    convention: Convention = "mrsr-1",
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw LR / cubic / SR / HR with zoom inset, error strip and metrics.

    Example: napari-mrsr figure T1.nii.gz T1_sr.nii.gz --lr T1_lr.nii.gz -o figure.pdf
    """
    from napari_mrsr.evaluation import compare as compare_volumes
    from napari_mrsr.figures import comparison_figure, save_figure
    from napari_mrsr.figures.save import DPI
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.io import require_suffix, require_writable
    from napari_mrsr.volume import Box

    require_writable(output, overwrite)
    require_suffix(output, tuple(DPI), "figure")
    truth, low = read(hr, index), read(lr, index)
    cubic = run_model(low, RunOptions.create(model="cubic"), like=truth).volume.replace(name="cubic")
    shown = [cubic, *(read(p, index) for p in candidates)]
    comparison = compare_volumes(truth, shown, convention=convention)
    drawing = comparison_figure(low, shown, truth, comparison=comparison, plane=plane, position=position, zoom=Box.parse(zoom) if zoom else None)
    say(str(save_figure(drawing, output, overwrite)))


def _beside(output: Path, name: str) -> Path:
    """File of a map beside the result: ``T1_sr.nii.gz`` and ``safm`` give ``T1_sr_safm.nii.gz``."""
    from napari_mrsr.io import WRITABLE

    if not MAP_NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name of a map; `napari-mrsr models show MODEL` lists them.")
    suffix = next((s for s in sorted(WRITABLE, key=len, reverse=True) if output.name.lower().endswith(s)), output.suffix)
    return output.with_name(f"{output.name.removesuffix(output.name[-len(suffix) :])}_{name}{output.name[-len(suffix) :]}")


def _position(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        x = y = z = math.nan
    if not all(map(math.isfinite, (x, y, z))):
        raise InputError(f"Position {text!r} is not three numbers: write x,y,z in mm.")
    return x, y, z


def _slice(text: str) -> tuple[int, float]:
    """Array axis and coordinate of ``S=30``; L, P and I count the other way."""
    from napari_mrsr.volume import axis_index

    letter, _, number = text.partition("=")
    try:
        position = float(number)
    except ValueError:
        position = math.nan
    if not math.isfinite(position):
        raise InputError(f"Slice {text!r} is not an axis and a number: write for example S=30 (mm).")
    return axis_index(letter.strip()), -position if letter.strip().upper() in "LPI" else position
