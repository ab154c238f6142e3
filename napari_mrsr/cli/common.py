"""What the commands share: option types, reading, running with a progress bar, checks before the work."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from napari_mrsr.errors import MrsrError

if TYPE_CHECKING:
    from napari_mrsr.inference import RunDone, RunOptions, RunStarted
    from napari_mrsr.volume import Volume

app = typer.Typer(
    name="napari-mrsr",
    help="MR super-resolution: degrade, super-resolve, compare, draw.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Orientations = Annotated[str, typer.Option(help="Thick slices: planes of both orientations averaged, or of the first or second alone.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Index = Annotated[int | None, typer.Option(help="Which volume of 4D inputs, from 0.")]
Axis = Annotated[str | None, typer.Option(help="Axis across slices: R, A or S (anatomical). Default: the coarsest spacing, ties S.")]
Convention = Annotated[str, typer.Option(help="mrsr-1, volume-max, fastmri or basicsr8: which voxels count, which range, which SSIM.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Model = Annotated[str, typer.Option(help="A name from `napari-mrsr models`, or auto: the one that suits the input best.")]
Noise = Annotated[float | None, typer.Option(help="Noise in percent of the range (default: sidecar, else estimated).")]
Protocol = Annotated[str | None, typer.Option(help="How the input was degraded; overrides its sidecar.")]
Reference = Annotated[Path | None, typer.Option(help="Second contrast of the same person, on any grid.")]
Register = Annotated[bool, typer.Option("--register", help="Move the reference rigidly onto the input first.")]
Voxel = Annotated[float | None, typer.Option(help="Thick slices: wanted spacing across slices in mm.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the noise.")]


def say(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")


def read(path: Path, index: int | None) -> Volume:
    """Read a volume; the index is for those files among several that need one."""
    from napari_mrsr.errors import SeveralVolumesError
    from napari_mrsr.io import read_volume

    try:
        return read_volume(path)
    except SeveralVolumesError:
        if index is None:
            raise
        return read_volume(path, index)


def run_model(
    volume: Volume,
    options: RunOptions,
    reference: Volume | None = None,
    like: Volume | None = None,
    keep: Path | None = None,
    targets: Sequence[Path] = (),
) -> RunDone:
    """Run the engine in this process with a progress bar; finished tiles lie in the folder `keep` until the run is done.

    Raises
    ------
    OutputError
        Before anything is computed, if the `targets`, files of the result's size, will not fit on the disk.
    """
    from napari_mrsr.inference import Noticed, Progress, RunDone, RunStarted
    from napari_mrsr.inference import run as run_engine
    from napari_mrsr.inference.process import tune_process

    tune_process()
    started, model = time.perf_counter(), options.model
    with tqdm(
        total=100, desc=options.model, unit="%", file=sys.stderr, leave=False, disable=None, bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}"
    ) as bar:
        for event in run_engine(volume, options, reference, like, keep=keep):
            if isinstance(event, RunStarted):
                check_space(targets, event.live)
                model = event.model or options.model
                for line in started_lines(event):
                    bar.write(line, file=sys.stderr)
                bar.write(f"{model}: {event.plan}", file=sys.stderr)
            elif isinstance(event, Noticed):
                bar.write(f"warning: {event.message}", file=sys.stderr)
            elif isinstance(event, Progress):
                bar.set_postfix_str(f"{event.seconds_left:.0f} s left" if event.seconds_left is not None else "")
                bar.update(100 * event.fraction - bar.n)
            elif isinstance(event, RunDone):
                bar.write(f"{model}: done in {time.perf_counter() - started:.1f} s", file=sys.stderr)
                return event
    raise MrsrError("The run ended without a result.")


def started_lines(event: RunStarted) -> list[str]:
    """What is told when a run begins: why this model was chosen, how the input fits it, other warnings."""
    from napari_mrsr.inference.guard import Verdict

    run = event.live.record["run"] if event.live is not None else {}
    verdict = Verdict(**run["domain"]) if "domain" in run else Verdict.of(event.model, [])
    lines = [f"chosen: {run['choice']}"] if "choice" in run else []
    lines += [f"{'warning: ' if verdict.concerns else ''}{verdict.line}"] if verdict.reasons else []
    return [*lines, *(f"warning: {warning}" for warning in event.warnings if warning not in verdict.concerns)]


def check_image(path: Path, overwrite: bool) -> None:
    """Refuse a target image (or its sidecar) before hours of work, not after."""
    from napari_mrsr.io import WRITABLE, require_suffix, require_writable, sidecar_path

    require_writable(path, overwrite)
    require_suffix(path, WRITABLE, "image")
    require_writable(sidecar_path(path), overwrite)


def check_space(targets: Sequence[Path], result: Volume | None) -> None:
    """Refuse a disk that has no room for files of the size of a result, before hours of work, not after."""
    from napari_mrsr.errors import OutputError

    need = len(targets) * result.data.nbytes if result is not None else 0
    if need and need > (free := shutil.disk_usage(targets[0].absolute().parent).free):
        sizes = f"{free / 2**30:.2f} GiB are free, the result needs {need / 2**30:.2f} GiB"
        raise OutputError(f"{targets[0].absolute().parent}: {sizes}; free space, or choose another folder or a smaller region.")


def free_folder(path: Path) -> Path:
    """The path, or the first of path-2, path-3... that is not there."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def has_screen() -> bool:
    """Whether a window can be opened."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True
