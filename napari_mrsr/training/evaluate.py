"""A model's quality table: scored against every classic method on people it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_mrsr.degradation import Degradation, degrade, get_protocol
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import compare
from napari_mrsr.inference import super_resolve
from napari_mrsr.training.data import Study, find_volumes, load_study
from napari_mrsr.training.people import subject
from napari_mrsr.training.recipe import DataPart
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import Card, Quality, get_card, list_models, write_card
from napari_mrsr.zoo.cards import ANOTHER

CONVENTION = "mrsr-1"
LEAST_WIDTH = 20
USED = 0.5
"""dB that somebody else's reference must cost at least, if the reference is to count as used."""
UNUSED = "Makes little use of its reference"


@dataclass(frozen=True, eq=False)
class _Entry:
    """One column of the table: a method, and the contrast that guides it."""

    name: str
    model: str
    reference: Volume | None = None


def evaluate_model(
    model: str, paths: Sequence[Path], noise: Sequence[float], card_command: str | None = None, *, missing: bool = False
) -> Iterator[str]:
    """Score a model against every classic method on sharp test volumes.

    Parameters
    ----------
    model : str
    paths : sequence of Path
        High-resolution volumes of people the model was not trained on; a folder stands for the test volumes of the model's recipe below it.
    noise : sequence of float
        Rician noise levels in percent.
    card_command : str, optional
        Where given, the table goes into the model's card line by line, with this command beside it.
    missing : bool
        Keep the lines that the card has, and add those that it has not.

    Yields
    ------
    str
        Lines of the table.

    Raises
    ------
    InputError
        If a volume was used in training, or a folder is given and the recipe names no test volumes.
    """
    card = get_card(model)
    if card_command is not None and not card.learned:
        raise InputError(f"{model} has no card file to write a table into; leave --card out.")
    degradation = Degradation.create(protocol=card.protocol or "gaussian", scale=card.scale or 2)
    table = list(card.quality) if missing else []
    known = {(line.subject, line.noise) for line in table}
    studies = _studies(card, paths)
    for person, study in studies:
        levels = [level for level in noise if (person, level) not in known]
        if not levels:
            continue
        truth = _even(study.image, degradation)
        entries = _entries(card, study, [other for name, other in studies if name != person])
        widths = [max(LEAST_WIDTH, len(e.name) + 2) for e in entries]
        yield f"{'volume':<14}{'noise':>6}  " + "".join(f"{e.name:>{w}}" for e, w in zip(entries, widths, strict=True))
        for level in levels:
            low = degrade(truth, degradation.model_copy(update={"noise": level}))
            # What a wrong reference costs is told once.
            asked = [e for e in entries if level == noise[0] or not e.name.endswith(ANOTHER)]
            volumes = [super_resolve(low, e.model, reference=e.reference).replace(name=e.name) for e in asked]
            scores = compare(truth, volumes, convention=CONVENTION).results
            table.append(
                Quality(
                    subject=person,
                    convention=CONVENTION,
                    protocol=f"{card.protocol} x{card.scale}",
                    noise=level,
                    psnr={s.name: round(s.psnr, 2) for s in scores},
                    ssim={s.name: round(s.ssim, 4) for s in scores},
                )
            )
            yield f"{person:<14}{level:>5g}%  " + "".join(f"{f'{s.psnr:.2f} / {s.ssim:.4f}':>{w}}" for s, w in zip(scores, widths, strict=False))
            if card_command is not None:
                path = _keep(card, table, [name for name, _ in studies], card_command)
    if card_command is not None:
        yield f"written: {path} ({time.strftime('%Y-%m-%d')})" if len(table) > len(known) else f"The card of {model} has these lines already."


def _keep(card: Card, table: Sequence[Quality], people: Sequence[str], command: str) -> Path:
    """Write the lines there are into the card, ordered by person and noise."""
    lines = sorted(table, key=lambda line: (people.index(line.subject) if line.subject in people else len(people), line.noise))
    limits = (*(limit for limit in card.limits if not limit.startswith(UNUSED)), *_about_reference(lines))
    changes = {"quality": tuple(lines), "quality_command": command, "limits": limits}
    path, _ = write_card(card.model_copy(update=changes), Path(card.folder), overwrite=True)
    return path


def _about_reference(lines: Sequence[Quality]) -> Iterator[str]:
    """What the card is to say where a wrong reference does nearly as well as the right one."""
    pairs = [(line.psnr[name.removesuffix(ANOTHER)], value) for line in lines for name, value in line.psnr.items() if name.endswith(ANOTHER)]
    cost = sum(right - wrong for right, wrong in pairs) / max(1, len(pairs))
    if pairs and cost < USED:
        yield f"{UNUSED}: somebody else's changes PSNR by {-cost:+.2f} dB in the mean."


def _studies(card: Card, paths: Sequence[Path]) -> list[tuple[str, Study]]:
    """Test volumes with their references, by person."""
    known, data, found = {entry.subject for entry in card.data}, _data(card), []
    for path in _volumes(card, paths):
        if subject(path) in known:
            raise InputError(f"{path.name}: {subject(path)} was used to train or choose {card.name}; give people it never saw.")
        found.append((subject(path), load_study(path, data, require_reference=card.reference == "needed")))
    return found


def _volumes(card: Card, paths: Sequence[Path]) -> list[Path]:
    patterns = card.recipe.get("data", {}).get("test", ())
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and not patterns:
            raise InputError(f"{card.name} does not tell its test volumes; give files, not the folder {path}.")
        found += find_volumes(path, patterns) if path.is_dir() else [path]
    return found


def _even(truth: Volume, degradation: Degradation) -> Volume:
    """Truth without the last few voxels that would put a k-space crop's result between its voxels: scores should not hang on interpolation."""
    protocol = get_protocol(degradation.protocol)
    if protocol.alignment != "kspace":
        return truth
    factors = protocol.scale_per_axis(degradation.scale, degradation.slice_axis(truth))
    return truth.crop([slice(0, int(n - n % (2 * f))) if f > 1 else slice(None) for n, f in zip(truth.shape, factors, strict=True)])


def _data(card: Card) -> DataPart:
    """How the model's own volumes were read: reference contrasts beside them, registered or not, reduction in plane."""
    recorded = card.recipe.get("data", {})
    kept = {key: recorded[key] for key in ("references", "register_references", "in_plane") if key in recorded}
    return DataPart(train=(), **kept)


def _entries(card: Card, study: Study, others: Sequence[Study]) -> list[_Entry]:
    """Columns for one person; with references also what a wrong one costs: the first contrast of somebody else."""
    entries = [_Entry(c.name, c.name) for c in list_models() if not c.learned]
    if not card.learned:
        return entries
    if card.reference != "needed":
        entries.append(_Entry(f"{card.name} alone" if study.references else card.name, card.name))
    entries += [_Entry(f"{card.name} {_contrast(r)}", card.name, r) for r in study.references]
    strangers = [r for other in others for r in other.references if study.references and _contrast(r) == _contrast(study.references[0])]
    return entries + [_Entry(f"{card.name} {_contrast(r)}{ANOTHER}", card.name, _laid_over(r, study.image)) for r in strangers[:1]]


def _laid_over(reference: Volume, image: Volume) -> Volume:
    """Somebody else's contrast on the voxels of an image, centre on centre, cut or filled with its darkest value."""
    data = np.full(image.shape, reference.data.min(), np.float32)
    target, source = [], []
    for n, m in zip(image.shape, reference.shape, strict=True):
        length = min(n, m)
        target.append(slice((n - length) // 2, (n - length) // 2 + length))
        source.append(slice((m - length) // 2, (m - length) // 2 + length))
    data[tuple(target)] = reference.data[tuple(source)]
    return reference.replace(data=data, affine=image.affine)


def _contrast(volume: Volume) -> str:
    return volume.name.rpartition("_")[2]
