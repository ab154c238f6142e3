from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from napari_mrsr.errors import InputError
from napari_mrsr.zoo import WEIGHTS, Card, Domain, Quality, TrainingData
from napari_mrsr.zoo.cards import read_card


@pytest.fixture
def card():
    return Card(
        name="toy-x2",
        title="Toy x2",
        architecture="toy",
        options={"width": 4, "mfem": ["mid"]},
        scale=2,
        protocol="gaussian",
        weights="toy-x2.safetensors",
        sha256="ab" * 32,
        size=12,
        window=8,
        halo=24,
        halo_error=1e-3,
        uses_noise=True,
        reference="optional",
        domain=Domain(contrasts=("T1w",), voxel_size=(1.4, 2.6), noise=(0, 5)),
        data=(TrainingData(subject="ann", file="sub-ann_T1w.nii.gz", licence="PDDL-1.0"),),
        quality=(Quality(subject="bob", convention="mrsr-1", protocol="gaussian x2", noise=0, psnr={"cubic": 30.5}, ssim={"cubic": 0.9}),),
        limits=("Not for diagnosis.",),
    )


def test_a_card_survives_its_file(card, tmp_path):
    path = tmp_path / "toy-x2.json"
    path.write_text(json.dumps(card.model_dump(mode="json"), allow_nan=False))
    again = read_card(path)
    assert again.folder == str(tmp_path)
    assert again == card.model_copy(update={"folder": str(tmp_path)})
    assert again.learned
    assert "folder" not in json.loads(path.read_text())
    assert "folder" not in again.model_dump()


def test_cards_are_frozen(card):
    with pytest.raises(ValidationError):
        card.name = "other"


def test_methods_without_weights_are_not_learned():
    assert not Card(name="a", title="A", architecture="a").learned


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scale": "two"}, "scale"),
        ({"colour": "red"}, "colour"),
        ({"reference": "perhaps"}, "reference"),
        ({"domain": {"voxel_size": [1]}}, "domain.voxel_size"),
        ({"quality": [{"subject": "bob"}]}, "quality.0."),
        ({"options": "none"}, "options"),
        ({"halo": 1.5}, "halo"),
        ({"name": None}, "name"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(card, tmp_path, change, field):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({**card.model_dump(mode="json"), **change}))
    with pytest.raises(InputError) as caught:
        read_card(path)
    assert str(caught.value).startswith(f"Model card broken.json, field {field}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe\x00", b'{"name": "a"}'])
def test_what_is_no_card_is_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"Model card broken\.json, field ") as caught:
        read_card(path)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named(card, tmp_path):
    path = tmp_path / "broken.json"
    content = card.model_dump(mode="json")
    del content["architecture"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="field architecture"):
        read_card(path)


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.json")), ids=lambda p: p.stem)
def test_shipped_cards_say_what_a_user_must_know(path):
    card = read_card(path)
    assert card.name == path.stem
    assert (path.parent / card.weights).stat().st_size == card.size
    assert card.parameters > 0
    assert card.data
    assert all(entry.subject and entry.file and entry.licence and entry.use in ("train", "validation") for entry in card.data)
    assert card.recipe_hash
    assert card.commit
    assert card.limits
    assert 0 < card.domain.voxel_size[0] <= card.domain.voxel_size[1] < 20
    assert card.domain.contrasts
    assert (card.halo is None) == (card.halo_error is None) == (card.architecture != "cftn")
    assert card.quality_command.startswith(f"napari-mrsr evaluate {card.name}")
    assert card.quality
    known = {entry.subject for entry in card.data}
    for line in card.quality:
        assert line.subject not in known
        assert line.convention == "mrsr-1"
        assert {"cubic", "back-projection", "nearest"} <= line.others(card.name).keys()
        assert line.psnr.keys() == line.ssim.keys()
        assert line.own(card.name)


def test_widths_by_resolution_come_back_as_numbers():
    options = {"channels": {4: 64, 8: 32}, "extra": {"with": "text"}, "size": 64}
    card = Card(name="own", title="Own", architecture="transmrsr", options=options)
    assert Card.model_validate_json(card.model_dump_json()).options == options


def clean_scores(subject):
    card = read_card(WEIGHTS / "cftn-x2.json")
    return card.name, next(q for q in card.quality if q.noise == 0 and q.subject == subject)


@pytest.mark.parametrize("subject", ["nvn", "arc2017"])
def test_shipped_x2_beats_the_classic_methods(subject):
    name, scores = clean_scores(subject)
    assert scores.psnr[name] >= scores.psnr["back-projection"] + 0.5
    assert scores.ssim[name] > max(v for k, v in scores.ssim.items() if k != name)


NOT_REACHED = pytest.mark.xfail(
    strict=True, reason="+3.15 dB; the input's band kept perfectly gives +2.4 dB on this noisy head, the network trained on this very head +3.7 dB"
)


@pytest.mark.parametrize("subject", ["nvn", pytest.param("arc2017", marks=NOT_REACHED)])
def test_shipped_x2_is_four_decibels_above_cubic(subject):
    name, scores = clean_scores(subject)
    assert scores.psnr[name] >= scores.psnr["cubic"] + 4


def test_shipped_x2_is_four_decibels_above_cubic_in_the_mean():
    gains = [scores.psnr[name] - scores.psnr["cubic"] for name, scores in map(clean_scores, ("nvn", "arc2017"))]
    assert sum(gains) / 2 >= 4


def test_columns_of_a_model_are_told_from_those_it_is_compared_with():
    psnr = {"cubic": 30.0, "toy-x4 alone": 31.0, "toy-x4 T1w": 33.0, "toy-x4 T1w of another": 29.0, "toy-x44": 40.0}
    line = Quality(subject="bob", convention="mrsr-1", protocol="kspace x4", noise=0, psnr=psnr, ssim=psnr)
    assert line.own("toy-x4") == {"toy-x4 alone": 31.0, "toy-x4 T1w": 33.0}
    assert line.others("toy-x4") == {"cubic": 30.0, "toy-x44": 40.0}
    assert line.own("cubic") == {"cubic": 30.0}


def test_a_domain_tells_targets_from_guides():
    domain = Domain(contrasts=("T2w guided by T1w or FLAIR", "T2w", "PDw guided by T1w"))
    assert domain.targets == ("T2w", "PDw")
    assert domain.guides == ("T1w", "FLAIR")
    assert Domain(contrasts=("T1w",)).guides == ()
    assert Domain().targets == ()
