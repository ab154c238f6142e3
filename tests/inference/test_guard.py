from __future__ import annotations

import numpy as np
import pytest

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.contrast import Contrast
from napari_mrsr.inference.choice import Wish, choose
from napari_mrsr.inference.guard import Facts, Level, find_facts, judge
from napari_mrsr.io import read_volume
from napari_mrsr.samples import read_sample
from napari_mrsr.zoo import Card, Domain, Quality


def card(name, protocol="gaussian", scale=2, contrasts=("T1w",), voxel=(1.3, 2.3), other=None, **changes):
    domain = Domain(contrasts=contrasts, voxel_size=voxel, other_voxel_size=other, noise=(0, 5))
    return Card(
        name=name, title=name, architecture="toy", scale=scale, protocol=protocol, weights="w", domain=domain, uses_noise=True, **changes
    )  # fmt: skip


def classic(name, uses_noise=False):
    return Card(name=name, title=name, architecture=name, uses_noise=uses_noise)


ISO2, ISO3 = card("iso-x2"), card("iso-x3", scale=3, voxel=(2.0, 3.4))
PLANE2 = card("plane-x2", "bicubic", voxel=(1.3, 2.3), other=(0.7, 1.2))
GUIDED4 = card("guided-x4", "kspace", 4, ("T2w guided by T1w",), (3.6, 3.6), (1.0, 4.0), reference="needed")
EITHER4 = card("either-x4", "kspace", 4, ("T2w guided by T1w or FLAIR", "T2w"), (3.6, 3.6), (1.0, 4.0), reference="optional")
THICK4 = card("thick-x4", "slice-profile", 4, ("T1w", "T2w"), (2.7, 4.6), (0.5, 1.2))
THICK8 = card("thick-x8", "slice-profile", 8, ("T1w", "T2w"), (5.3, 9.2), (0.5, 1.2))
ZOO = [ISO2, ISO3, PLANE2, GUIDED4, EITHER4, THICK4, THICK8, classic("cubic"), classic("inverse", True)]


def facts(name="T1w", noise=1.0, measured="", source="from the file name"):
    return Facts(Contrast(name, source, measured, "score 0.7"), noise, "estimated")


def level_of(verdict, words):
    return next(reason.level for reason in verdict.reasons if words in reason.text)


# --- the light -------------------------------------------------------------------------------------------------------------------------


def test_a_volume_like_those_of_training_is_green_and_says_why_with_numbers(make_volume):
    found = judge(ISO2, make_volume((30, 30, 30), (2, 2, 2)), facts())
    assert found.level is Level.GREEN
    assert found.concerns == ()
    text = found.line
    for piece in ("2.00 x 2.00 x 2.00 mm", "1.30 to 2.30 mm", "T1w (from the file name)", "1.0 % (estimated)"):
        assert piece in text


@pytest.mark.parametrize(
    ("model", "voxel", "level", "words"),
    [
        (ISO2, (1.1, 1.1, 1.1), "green", "near the 1.30 to 2.30"),
        (ISO2, (1.0, 1.0, 1.0), "amber", "far from the 1.30 to 2.30"),
        (ISO2, (3, 3, 3), "amber", "far from"),
        (ISO2, (5, 5, 5), "red", "far from"),
        (ISO2, (1.5, 1.5, 2.2), "amber", "1.5 times as thick"),
        (ISO2, (0.6, 0.6, 3.3), "red", "5.5 times as thick"),
        (THICK4, (1, 1, 4), "green", "Slices of 4.00 mm are near"),
        (THICK4, (1, 1, 1), "red", "no thick slices"),
        (THICK4, (2, 2, 4), "amber", "Pixels of 2.00 x 2.00 mm are far"),
        (PLANE2, (2, 2, 1), "green", "Pixels of 2.00 x 2.00 mm are near"),
        (PLANE2, (2, 2, 4), "amber", "Slices of 4.00 mm are far"),
    ],
)
def test_voxels_and_their_shape(make_volume, model, voxel, level, words):
    found = judge(model, make_volume((30, 30, 30), voxel), facts(), axis="S")
    assert found.level == level
    assert level_of(found, words) == level


@pytest.mark.parametrize(("noise", "level"), [(5, "green"), (6.5, "amber"), (11, "red")])
def test_noise(make_volume, noise, level):
    assert level_of(judge(ISO2, make_volume((30, 30, 30), (2, 2, 2)), facts(noise=noise)), "Noise of") == level


@pytest.mark.parametrize(
    ("known", "level", "words"),
    [
        (facts("T1w", measured="T1w"), "green", "as in training"),
        (facts("T2w"), "amber", "T2w (from the file name), but iso-x2 was trained on T1w"),
        (facts("T1ce"), "amber", "T1ce"),
        (facts("", source="from its intensities"), "amber", "not clear"),
        (facts("T1w", measured="T2w"), "amber", "look like T2w"),
    ],
)
def test_contrast(make_volume, known, level, words):
    found = judge(ISO2, make_volume((30, 30, 30), (2, 2, 2)), known)
    assert found.level == level
    assert level_of(found, words) == level


def test_a_card_without_a_domain_is_not_judged_by_it(make_volume):
    bare = Card(name="bare", title="bare", architecture="toy", weights="w", protocol="gaussian")
    assert judge(bare, make_volume((9, 9, 9), (2, 2, 2)), facts("T2w", 9)).level is Level.GREEN
    assert judge(classic("cubic"), make_volume((9, 9, 9), (9, 1, 1)), facts()).reasons == ()


def test_too_few_voxels_and_fewer_than_a_patch(make_volume):
    model = card("patchy", recipe={"patches": {"size": 24}})
    assert level_of(judge(model, make_volume((30, 20, 30), (2, 2, 2))), "fewer than the 24") is Level.AMBER
    assert level_of(judge(model, make_volume((30, 3, 30), (2, 2, 2))), "too few") is Level.RED
    assert judge(model, make_volume((24, 24, 24), (2, 2, 2))).level is Level.GREEN


def test_how_the_input_was_made_counts_before_its_voxels(make_volume):
    volume = make_volume((48, 48, 48))
    low = degrade(volume, Degradation(protocol="kspace"))
    assert judge(ISO2, low).level is Level.RED
    assert "undoes 3d degradation" in judge(ISO2, low).reasons[0].text
    assert level_of(judge(PLANE2, low), "trained on bicubic, the input is kspace") is Level.AMBER
    assert judge(PLANE2, low, protocol="bicubic").level is Level.GREEN
    assert judge(ISO2, degrade(volume, Degradation())).level is Level.GREEN


def test_references(make_volume):
    volume = make_volume((30, 30, 30), (3.6, 3.6, 3))
    t1, flair = (make_volume((9, 9, 9), name=f"sub-1_{name}") for name in ("T1w", "FLAIR"))
    assert judge(GUIDED4, volume, facts("T2w")).level is Level.RED
    assert judge(EITHER4, volume, facts("T2w")).level is Level.GREEN
    assert judge(GUIDED4, volume, facts("T2w"), t1).level is Level.GREEN
    assert level_of(judge(GUIDED4, volume, facts("T2w"), flair), "FLAIR") is Level.AMBER
    assert judge(EITHER4, volume, facts("T2w"), flair).level is Level.GREEN


def test_facts_of_a_real_head_at_low_resolution():
    low = degrade(read_sample("arc2017_T1w"), Degradation(noise=3))
    found = find_facts(low)
    assert found.contrast.name == "T1w"
    assert 3 < found.noise < 4.5  # of the low resolution's range, which blurring made smaller
    assert found.noise_source == "recorded with the input"
    unknown = find_facts(low.replace(record={}))
    assert unknown.noise == pytest.approx(found.noise, rel=0.4)
    assert unknown.noise_source == "estimated"


def test_broken_volumes_are_refused_with_a_sentence(make_volume):
    flat = make_volume((9, 9, 9)).replace(data=np.full((9, 9, 9), 3.0))
    with pytest.raises(InputError, match="same value"):
        find_facts(flat)
    with pytest.raises(InputError, match="sidecar"):
        judge(ISO2, make_volume((9, 9, 9), record={"degradation": "much"}))


# --- the proposal ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voxel", "known", "reference", "wish", "expected"),
    [
        ((2, 2, 2), facts(), None, Wish(), "iso-x2"),
        ((3.3, 3.3, 3.3), facts(), None, Wish(), "iso-x3"),
        ((2.1, 2.1, 2.1), facts(), None, Wish(voxel=0.7), "iso-x3"),
        ((2.1, 2.1, 2.1), facts(), None, Wish(scale=3), "iso-x3"),
        ((2, 2, 1), facts(), None, Wish(axis="S"), "plane-x2"),
        ((1, 1, 4), facts("T2w"), None, Wish(), "thick-x4"),
        ((0.7, 0.7, 6), facts("T2w"), None, Wish(), "thick-x8"),
        ((3.6, 3.6, 3.3), facts("T2w"), None, Wish(), "either-x4"),
        ((3.6, 3.6, 3.3), facts("T2w"), "sub-1_FLAIR", Wish(), "either-x4"),
        ((2, 2, 2), facts("T2w"), None, Wish(), "iso-x2"),
        ((9, 9, 9), facts(), None, Wish(), "inverse"),
        ((2, 2, 2), facts(), None, Wish(scale=7), "inverse"),
    ],
)
def test_what_is_proposed(make_volume, voxel, known, reference, wish, expected):
    second = make_volume((9, 9, 9), name=reference) if reference else None
    found = choose(ZOO, make_volume((40, 40, 40), voxel), known, second, wish)
    assert found.model == expected
    assert expected in found.why
    assert "\n" not in found.why


def test_of_two_that_use_the_reference_the_better_table_decides(make_volume):
    def scored(model, gain):
        line = Quality(subject="a", convention="mrsr-1", protocol="kspace x4", noise=0, psnr={"cubic": 20, model.name: 20 + gain}, ssim={})
        return model.model_copy(update={"quality": (line,)})

    volume, t1 = make_volume((40, 40, 40), (3.6, 3.6, 3.3)), make_volume((9, 9, 9), name="sub-1_T1w")
    for guided, either, expected in ((3, 2, "guided-x4"), (2, 3, "either-x4")):
        zoo = [scored(EITHER4, either), scored(GUIDED4, guided), classic("cubic")]
        found = choose(zoo, volume, facts("T2w"), t1)
        assert found.model == expected
        assert "reference sub-1_T1w" in found.why


@pytest.mark.parametrize("known", [facts(), facts("T2w"), facts(""), facts(noise=20)])
@pytest.mark.parametrize("voxel", [(0.5, 0.5, 4), (1, 1, 1), (2, 2, 2), (4, 4, 4), (2, 2, 1), (0.4, 0.4, 0.4), (1, 3, 3)])
def test_the_light_agrees_with_the_proposal(make_volume, voxel, known):
    volume = make_volume((40, 40, 40), voxel)
    found = choose(ZOO, volume, known)
    levels = {model.name: judge(model, volume, known).level for model in ZOO if model.learned}
    assert found.verdict.level is not Level.RED
    if Level.GREEN in levels.values():
        assert levels[found.model] is Level.GREEN
    if set(levels.values()) == {Level.RED}:
        assert found.model == "inverse"
        assert "classic" in found.why
        assert "no network fits" in found.why


def test_thick_slices_without_a_network_are_told_to_the_classic_method(make_volume):
    found = choose([ISO2, classic("inverse", True)], make_volume((40, 40, 40), (0.6, 0.6, 4)), facts())
    assert (found.model, found.protocol) == ("inverse", "slice-profile")
    assert "6.7 times as thick" in found.why
    with pytest.raises(InputError, match="No model fits"):
        choose([], make_volume((9, 9, 9)), facts())


@pytest.mark.parametrize(
    ("file", "degradation", "expected", "level"),
    [
        ("t1_3d/test/sub-nvn/sub-nvn_T1w.nii.gz", Degradation(), "iso-x2", "green"),
        ("t1_3d/test/sub-nvn/sub-nvn_T1w.nii.gz", Degradation(protocol="slice-profile", scale=4), "thick-x4", "green"),
        ("t2_3d/test/sub-arc2208/sub-arc2208_T2w.nii.gz", Degradation(protocol="slice-profile", scale=8), "thick-x8", "green"),
        ("multi_thick/test/sub-msl04/sub-msl04_ses-1_T2w.nii.gz", None, "thick-x4", "green"),
    ],
)
def test_real_volumes(shared_data, file, degradation, expected, level):
    volume = read_volume(shared_data(file))
    low = degrade(volume, degradation) if degradation else volume
    found = choose(ZOO, low, find_facts(low))
    assert (found.model, found.verdict.level) == (expected, level)
