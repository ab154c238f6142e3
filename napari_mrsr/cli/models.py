"""Commands about models: list, describe, import, evaluate, and what this machine has."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_mrsr.cli.common import Overwrite, app, say


class Truncation(StrEnum):
    """Choices of ``--truncation``."""

    nearest = "nearest"
    farthest = "farthest"
    none = "none"


listing = typer.Typer(invoke_without_command=True, help="List what can be run, or bring in weights.\n\nExample: napari-mrsr models --json")
app.add_typer(listing, name="models")


@listing.callback()
def models(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List what can be run, or bring in weights.

    Example: napari-mrsr models --json
    """
    if context.invoked_subcommand is not None:
        return
    from napari_mrsr.zoo import list_models

    cards = list_models()
    if as_json:
        say(json.dumps({"models": [card.model_dump(mode="json") for card in cards]}, indent=2))
        return
    width = max(len(card.name) for card in cards)
    for card in cards:
        say(f"{card.name:<{width}}  {'x' + str(card.scale) if card.scale else 'any'}  {card.title}: {card.summary}")


@listing.command("show")
def show(
    model: Annotated[str, typer.Argument(help="A name from `napari-mrsr models`.")],
    measure: Annotated[bool, typer.Option("--measure", help="Also measure how far the network really looks (slow for large networks).")] = False,
) -> None:
    """Tell what a model's network is, and which of its internal maps can be looked at; as JSON.

    Example: napari-mrsr models show cftn-x2
    """
    from napari_mrsr.zoo import get_card
    from napari_mrsr.zoo.description import describe

    card = get_card(model)
    facts = describe(card).as_dict()
    if measure and card.learned:
        from napari_mrsr.inference.receptive_field import effective_halo
        from napari_mrsr.networks import get_architecture
        from napari_mrsr.zoo import load_network

        facts["effective_halo"] = effective_halo(load_network(card), get_architecture(card.architecture))
    say(json.dumps(facts, indent=2))


@listing.command("card")
def card(model: Annotated[str, typer.Argument(help="A name from `napari-mrsr models`.")]) -> None:
    """Print a model's card: what it was made from, what it is good for, and its scores on people it never saw; as Markdown.

    Example: napari-mrsr models card cftn-x2
    """
    from napari_mrsr.zoo import card_page, get_card

    say(card_page(get_card(model)).rstrip())


@listing.command("scores")
def scores() -> None:
    """Print what every model with weights gains on people it never saw, from the tables of the cards; as a Markdown table.

    Example: napari-mrsr models scores
    """
    from napari_mrsr.zoo import list_models, score_table

    say(score_table([card for card in list_models() if card.quality]))


@listing.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="Checkpoint of a public DCAMSR or TransMRSR implementation, or safetensors with its card.")],
    name: Annotated[str | None, typer.Option(help="Name in the model list (default: from the file's).")] = None,
    scale: Annotated[int | None, typer.Option(help="Factor, where the weights do not tell it (DCAMSR).")] = None,
    truncation: Annotated[Truncation | None, typer.Option(help="TransMRSR: which centroid style codes are drawn to.")] = None,
    centroids: Annotated[Path | None, typer.Option(help="TransMRSR: .npy file of the centroids.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a public checkpoint to a model of the list: safetensors and a card in your model folder.

    Example: napari-mrsr models import dcamsr_m4raw.ckpt --scale 2 --name dcamsr-m4raw
    """
    from napari_mrsr.zoo import import_checkpoint

    given: dict[str, Any] = {"scale": scale, "centroids": centroids, "truncation": truncation.value if truncation else None}
    options = {key: value for key, value in given.items() if value is not None}
    if truncation is Truncation.none:
        options["truncation"] = None
    card = import_checkpoint(file, name=name, overwrite=overwrite, **options)
    for path in (Path(card.folder) / card.weights, Path(card.folder) / f"{card.name}.json"):
        say(str(path))
    say(f"model: {card.name}")


@app.command()
def info() -> None:
    """Versions, devices and graphics, to paste into a support request.

    Example: napari-mrsr info
    """
    from napari_mrsr.diagnostics import diagnostics

    for key, value in diagnostics().items():
        say(f"{key}: {value}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A name from `napari-mrsr models`.")],
    data: Annotated[list[Path], typer.Option(help="Test volumes (high-resolution), or the folder they lie in; repeat for several.")],
    noise: Annotated[list[float] | None, typer.Option(help="Noise levels in percent; repeat for several.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Write the table into the model's card.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="With --card: keep the lines that the card has, and add the others.")] = False,
) -> None:
    """Score a model against every classic method on test volumes, as its card's table.

    Example: napari-mrsr evaluate cftn-x2 --data sub-nvn_T1w.nii.gz --noise 0 --noise 3
    """
    from napari_mrsr.inference.process import tune_process
    from napari_mrsr.training.evaluate import evaluate_model

    tune_process()
    command = f"napari-mrsr evaluate {model} " + " ".join(f"--data {p.name}" for p in data) + "".join(f" --noise {n:g}" for n in noise or [0.0])
    for line in evaluate_model(model, data, noise or [0.0], command if card else None, missing=missing and card):
        say(line)
