"""A model card as a page for people: Markdown, as it lies beside the weights and as the dock shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from napari_mrsr.io import write_json, write_text
from napari_mrsr.zoo.cards import Card, Quality

ANY_SIZE = 20.0
"""Voxel edge (mm) that stands for no upper limit in a domain."""
USES = {"train": "train", "validation": "choose the best step"}
BASELINE = "cubic"
TAKES = {"none": "none", "optional": "optional: works alone, too", "needed": "needed"}


def write_card(card: Card, folder: Path, overwrite: bool = False) -> list[Path]:
    """Write a card: JSON for programs, and the same as a page for people.

    Raises
    ------
    OutputError
        If a file exists, or the folder or disk refuses.
    """
    path = write_json(card.model_dump(mode="json"), folder / f"{card.name}.json", overwrite)
    return [path, write_text(card_page(card), path.with_suffix(".md"), overwrite)]


def card_page(card: Card) -> str:
    """What a user must know of a model before trusting it.

    Returns
    -------
    str
        Markdown (CommonMark with tables).
    """
    sections = [f"# {card.name}", f"{card.title}. {card.summary}"]
    if card.limits:
        sections.append("## Limits\n\n" + "\n".join(f"- {limit}" for limit in card.limits))
    if card.learned:
        sections.append("## Made for\n\n" + _table(("what", "value"), _purpose(card)))
    if card.quality:
        sections.append("## Quality on people it never saw\n\n" + _quality(card))
    if card.data:
        rows = [(d.subject, d.file, USES.get(d.use, d.use), d.licence) for d in card.data]
        sections.append("## Learned from\n\n" + _table(("person", "file", "used to", "licence"), rows))
    if card.learned:
        sections.append("## Made by\n\n" + _table(("what", "value"), _origin(card)))
    return "\n\n".join(sections) + "\n"


def score_table(cards: Sequence[Card]) -> str:
    """What models gain, from their cards' own tables: a line for every model (with references: each of its columns) and person.

    Returns
    -------
    str
        Markdown table: PSNR and SSIM without noise, the gain over `cubic` and over the best method without weights, and over `cubic` with noise.
    """
    rows, levels = [], sorted({line.noise for card in cards for line in card.quality if line.noise})
    for card in cards:
        clean = {line.subject: line for line in card.quality if line.noise == 0}
        for column in dict.fromkeys(name for line in clean.values() for name in line.own(card.name)):
            rows += [_gains(card, column, line, levels) for line in clean.values() if column in line.psnr]
    return _table(("model", "person", "dB / SSIM", "over cubic", "over the best", *(f"over cubic, {level:g} % noise" for level in levels)), rows)


def _gains(card: Card, column: str, line: Quality, levels: Sequence[float]) -> tuple[str, ...]:
    """One line of :func:`score_table`."""
    noisy = {q.noise: q.psnr[column] - q.psnr[BASELINE] for q in card.quality if q.subject == line.subject and column in q.psnr}
    classic = max((name for name in line.others(card.name)), key=lambda name: line.psnr[name])
    return (
        f"`{column}`",
        line.subject,
        f"{line.psnr[column]:.2f} / {line.ssim[column]:.4f}",
        f"{line.psnr[column] - line.psnr[BASELINE]:+.2f}",
        f"{line.psnr[column] - line.psnr[classic]:+.2f} ({classic})",
        *(f"{noisy[level]:+.2f}" if level in noisy else "" for level in levels),
    )


def _purpose(card: Card) -> Iterator[tuple[str, str]]:
    domain = card.domain
    yield "factor", f"{card.scale}"
    yield "input made like protocol", f"{card.protocol or 'any'}"
    if domain.contrasts:
        yield "contrast", "; ".join(domain.contrasts)
    yield "reference contrast", TAKES[card.reference]
    if domain.voxel_size[1] < ANY_SIZE:
        yield "input voxels, axes that get finer", _span(domain.voxel_size, "mm")
    if domain.other_voxel_size is not None:
        yield "input voxels, other axes", _span(domain.other_voxel_size, "mm")
    yield "noise", _span(domain.noise, "% of the range") + (", told to the network" if card.uses_noise else "")


def _origin(card: Card) -> Iterator[tuple[str, str]]:
    if card.training:
        yield "training", card.training
    yield "parameters", f"{card.parameters:,} ({card.size / 2**20:.1f} MiB)"
    if card.recipe_hash:
        yield "recipe", f"`{card.recipe.get('name', card.name)}`, hash `{card.recipe_hash}`, seed {card.seed}, commit `{card.commit or 'unknown'}`"
    if card.halo is not None:
        left = f", leaves at most {card.halo_error:.1g} of the range" if card.halo_error is not None else ""
        yield "tile margin", f"{card.halo} voxels{left}"
    yield "sha256", f"`{card.sha256}`"
    yield "licence", card.licence


def _quality(card: Card) -> str:
    methods = list(dict.fromkeys(name for line in card.quality for name in line.psnr))
    rows = [(line.subject, f"{line.noise:g} %", *_scores(line, methods)) for line in card.quality]
    table = _table(("person", "noise", *methods), rows)
    seen = sorted({(line.convention, line.protocol) for line in card.quality})
    how = "; ".join(f"convention `{convention}`, degradation `{protocol}`" for convention, protocol in seen)
    return f"PSNR (dB) / SSIM; {how}; the best PSNR of a line is bold.\n\n{table}\n\nMade by `{card.quality_command}`."


def _scores(line: Quality, methods: Sequence[str]) -> Iterator[str]:
    best = max(line.psnr.values())
    for name in methods:
        if name not in line.psnr:
            yield ""
            continue
        text = f"{line.psnr[name]:.2f} / {line.ssim[name]:.4f}"
        yield f"**{text}**" if line.psnr[name] == best else text


def _span(ends: tuple[float, float], unit: str) -> str:
    low, high = (f"{end:.2f}".rstrip("0").rstrip(".") for end in ends)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
