"""The card as a page: what is in the card stands on it, and tables keep their shape."""

from __future__ import annotations

import json

import pytest

from napari_mrsr.errors import OutputError
from napari_mrsr.zoo import Card, Domain, Quality, TrainingData, card_page, get_card, score_table, write_card
from napari_mrsr.zoo.cards import read_card


def line(person, noise, psnr):
    return Quality(
        subject=person, convention="mrsr-1", protocol="kspace x4", noise=noise, psnr=psnr, ssim={name: value / 100 for name, value in psnr.items()}
    )


@pytest.fixture
def card():
    return Card(
        name="toy-x4",
        title="Toy x4",
        summary="A toy.",
        architecture="toy",
        scale=4,
        protocol="kspace",
        weights="toy-x4.safetensors",
        sha256="ab" * 32,
        size=3 * 2**20,
        parameters=1_234_567,
        uses_noise=True,
        reference="optional",
        halo=8,
        halo_error=0.00312,
        domain=Domain(contrasts=("T2w guided by T1w", "T2w"), voxel_size=(3.6, 3.6), other_voxel_size=(3.3, 4), noise=(0, 5)),
        data=(
            TrainingData(subject="ann", file="sub-ann_T2w.nii.gz", licence="PDDL-1.0"),
            TrainingData(subject="eve", file="sub-eve_T2w.nii.gz", licence="a | b", use="validation"),
        ),
        recipe={"name": "toy-x4"},
        recipe_hash="0123456789ab",
        commit="fedcba",
        seed=3,
        training="10 steps in 1 minutes on 1 threads",
        quality=(line("bob", 0, {"cubic": 30.5, "toy-x4 alone": 31.25, "toy-x4 T1w": 33}), line("bob", 3, {"cubic": 29.5, "toy-x4 alone": 29})),
        quality_command="napari-mrsr evaluate toy-x4 --data bob.nii.gz",
        limits=("Not for diagnosis.", "Few people."),
    )


def tables(page):
    """Cells of every table, by lines."""
    blocks, current = [], []
    for text in [*page.splitlines(), ""]:
        if text.startswith("|"):
            current.append([cell.strip() for cell in text.strip("|").replace("\\|", "/").split("|")])
        elif current:
            blocks.append(current)
            current = []
    return blocks


def test_everything_a_user_must_know_is_on_the_page(card):
    page = card_page(card)
    for text in ("A toy.", "- Not for diagnosis.", "- Few people.", "| factor | 4 |", "kspace", "T2w guided by T1w; T2w", "works alone, too"):
        assert text in page
    for text in (
        "3.6 mm",
        "3.3 to 4 mm",
        "0 to 5 % of the range, told to the network",
        "1,234,567 (3.0 MiB)",
        "`0123456789ab`",
        "seed 3",
        "`fedcba`",
    ):
        assert text in page
    for text in (
        "PDDL-1.0",
        "choose the best step",
        "8 voxels, leaves at most 0.003 of the range",
        "10 steps",
        "`napari-mrsr evaluate toy-x4 --data bob",
    ):
        assert text in page


def test_scores_stand_under_their_method_and_the_best_is_bold(card):
    quality = tables(card_page(card))[1]
    assert quality[0] == ["person", "noise", "cubic", "toy-x4 alone", "toy-x4 T1w"]
    assert quality[2] == ["bob", "0 %", "30.50 / 0.3050", "31.25 / 0.3125", "**33.00 / 0.3300**"]
    assert quality[3] == ["bob", "3 %", "**29.50 / 0.2950**", "29.00 / 0.2900", ""]


def test_tables_have_cells_for_every_column(card):
    for table in tables(card_page(card)):
        assert len({len(cells) for cells in table}) == 1


def test_methods_without_weights_have_a_page_too():
    page = card_page(get_card("cubic"))
    assert page.startswith("# cubic\n")
    assert "|" not in page


def test_both_files_are_written_and_neither_replaces_anything(card, tmp_path):
    path, page = write_card(card, tmp_path)
    assert (path.name, page.name) == ("toy-x4.json", "toy-x4.md")
    assert read_card(path) == card.model_copy(update={"folder": str(tmp_path)})
    assert json.loads(path.read_text())["name"] == "toy-x4"
    assert page.read_text() == card_page(card)
    with pytest.raises(OutputError, match=r"toy-x4\.json"):
        write_card(card, tmp_path)
    write_card(card.model_copy(update={"summary": "Another."}), tmp_path, overwrite=True)
    assert "Another." in page.read_text()


def test_gains_are_told_for_every_way_of_using_a_model(card):
    wrong = line("bob", 0, {"cubic": 30.5, "zero-fill": 30.75, "toy-x4 alone": 31.25, "toy-x4 T1w": 33, "toy-x4 T1w of another": 29})
    card = card.model_copy(update={"quality": (wrong, card.quality[1])})
    head, _, *rows = tables(score_table([card]))[0]
    assert head == ["model", "person", "dB / SSIM", "over cubic", "over the best", "over cubic, 3 % noise"]
    assert rows == [
        ["`toy-x4 alone`", "bob", "31.25 / 0.3125", "+0.75", "+0.50 (zero-fill)", "-0.50"],
        ["`toy-x4 T1w`", "bob", "33.00 / 0.3300", "+2.50", "+2.25 (zero-fill)", ""],
    ]
