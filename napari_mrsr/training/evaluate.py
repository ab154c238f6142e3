"""A model's quality table: scored against every classic method on people it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import compare
from napari_mrsr.inference import super_resolve
from napari_mrsr.io import write_json
from napari_mrsr.training.data import Study, load_study, subject
from napari_mrsr.training.recipe import DataPart
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import Card, Quality, get_card, list_models

CONVENTION = "mrsr-1"
WIDTH = 20


@dataclass(frozen=True, eq=False)
class _Entry:
    """One column of the table: a method, and the contrast that guides it."""

    name: str
    model: str
    reference: Volume | None = None


def evaluate_model(model: str, paths: Sequence[Path], noise: Sequence[float], card_command: str | None = None) -> Iterator[str]:
    """Score a model against every classic method on sharp test volumes.

    Parameters
    ----------
    model : str
    paths : sequence of Path
        High-resolution volumes of people the model was not trained on.
    noise : sequence of float
        Rician noise levels in percent.
    card_command : str, optional
        Where given, the table goes into the model's card, with this command beside it.

    Yields
    ------
    str
        Lines of the table.

    Raises
    ------
    InputError
        If a volume was used in training.
    """
    card = get_card(model)
    if card_command is not None and not card.learned:
        raise InputError(f"{model} has no card file to write a table into; leave --card out.")
    known = {entry.subject for entry in card.data}
    data = _data(card)
    table: list[Quality] = []
    for path in paths:
        if subject(path) in known:
            raise InputError(f"{path.name}: {subject(path)} was used to train or choose {model}; give people it never saw.")
        study = load_study(path, data, require_reference=card.reference == "needed")
        entries = _entries(card, study)
        yield f"{'volume':<14}{'noise':>6}  " + "".join(f"{e.name:>{WIDTH}}" for e in entries)
        for level in noise:
            low = degrade(study.image, Degradation.create(protocol=card.protocol or "gaussian", scale=card.scale or 2, noise=level))
            volumes = [super_resolve(low, e.model, reference=e.reference).replace(name=e.name) for e in entries]
            scores = compare(study.image, volumes, convention=CONVENTION).results
            table.append(
                Quality(
                    subject=subject(path),
                    convention=CONVENTION,
                    protocol=f"{card.protocol} x{card.scale}",
                    noise=level,
                    psnr={s.name: round(s.psnr, 2) for s in scores},
                    ssim={s.name: round(s.ssim, 4) for s in scores},
                )
            )
            yield f"{subject(path):<14}{level:>5g}%  " + "".join(f"{f'{s.psnr:.2f} / {s.ssim:.4f}':>{WIDTH}}" for s in scores)
    if card_command is not None:
        updated = card.model_copy(update={"quality": tuple(table), "quality_command": card_command})
        path = write_json(updated.model_dump(mode="json"), Path(card.folder) / f"{card.name}.json", overwrite=True)
        yield f"written: {path} ({time.strftime('%Y-%m-%d')})"


def _data(card: Card) -> DataPart:
    """How the model's own volumes were read: reference contrasts beside them, reduction in plane."""
    recorded = card.recipe.get("data", {})
    return DataPart(train=(), validation=(), references=recorded.get("references", ()), in_plane=recorded.get("in_plane"))


def _entries(card: Card, study: Study) -> list[_Entry]:
    entries = [_Entry(c.name, c.name) for c in list_models() if not c.learned]
    if not card.learned:
        return entries
    if card.reference != "needed":
        entries.append(_Entry(f"{card.name} alone" if study.references else card.name, card.name))
    return entries + [_Entry(f"{card.name} {_contrast(r)}", card.name, r) for r in study.references]


def _contrast(volume: Volume) -> str:
    return volume.name.rpartition("_")[2]
