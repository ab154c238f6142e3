from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_stages import FDVIT, KINDS, TRANSMRSR, losses, of

from napari_mrsr.errors import InputError
from napari_mrsr.training.jobs import write_model
from napari_mrsr.training.loop import StageDone, StageScored, StageStarted, StepDone, TrainingDone, train
from napari_mrsr.training.stages import all_splits, make_stage, stage_names
from napari_mrsr.training.stages.transmrsr import sliced_distance
from napari_mrsr.zoo import load_network, sha256_of
from napari_mrsr.zoo.cards import read_card

# --- a whole run ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_stages_come_in_order_and_leave_files(recipe, undisturbed, kind):
    folder, events = undisturbed(kind)
    plan = recipe(kind)
    names = stage_names(plan)
    assert [(e.name, e.index, e.count) for e in of(events, StageStarted)] == [(name, i, len(names)) for i, name in enumerate(names)]
    done = events[-1]
    assert isinstance(done, TrainingDone)
    finished = of(events, StageDone)
    assert [e.name for e in finished] == list(names[:-1])
    assert done.stages == {e.name: e.sha256 for e in finished}
    for event in finished:
        assert event.path.parent == folder
        assert event.path.name.startswith(f"{event.name}-")
        assert sha256_of(event.path) == event.sha256
    left = {p.name for p in folder.iterdir()}
    assert left == {"logs", "state.pt", *(e.path.name for e in finished)}  # states of finished stages are gone
    assert all(np.isfinite(list(terms.values())).all() for terms in losses(events).values())


def test_terms_of_fdvit(undisturbed):
    _, events = undisturbed("fdvit")
    terms = {stage: set(values) for (stage, step), values in losses(events).items() if step == 1}
    assert terms == {
        "vit": {"cross entropy"},
        "disentangle": {"discriminator", "reconstruction", "adversarial", "swap"},
        "super-resolution": {"discriminator", "adversarial", "vit", "structure", "texture", "pixel"},
    }
    scored = of(events, StageScored)
    assert scored[0].measure == "accuracy (%) among T1w, T2w"
    assert [e.step for e in scored] == [3, 6, 3, 6]


def test_the_models_file_holds_what_the_stages_learnt(undisturbed):
    _, events = undisturbed("fdvit")
    weights = events[-1].weights
    for event in of(events, StageDone):
        prefix = {"vit": "vit.", "disentangle": "encoder."}[event.name]
        learnt = load_file(event.path)
        own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        assert own.keys() == learnt.keys()
        assert all(torch.equal(own[k], learnt[k]) for k in own)


def test_terms_of_transmrsr(undisturbed):
    _, events = undisturbed("transmrsr")
    found = losses(events)
    assert set(found["prior", 1]) == {"discriminator", "R1", "generator"}
    assert set(found["prior", 2]) == {"discriminator", "generator"}
    assert set(found["super-resolution", 1]) == {"l1"}
    assert not any(stage == "centroids" for stage, _ in found)


def test_the_network_begins_with_the_prior(recipe, undisturbed):
    _, events = undisturbed("transmrsr")
    files = {e.name: load_file(e.path) for e in of(events, StageDone)}
    results = {e.name: type("R", (), {"tensors": files[e.name], "sha256": e.sha256})() for e in of(events, StageDone)}
    stage = make_stage("super-resolution", recipe("transmrsr"), results, None)
    for name, value in stage.network.decoder.state_dict().items():
        assert torch.equal(value, files["prior"][f"decoder.{name}"])
    assert torch.equal(stage.network.centroids, files["centroids"]["centroids"])
    assert stage.network.centroids.shape == (3, 8)
    assert torch.equal(events[-1].weights["centroids"], files["centroids"]["centroids"])


@pytest.mark.parametrize(("stage", "term"), [(0, "cross entropy"), (1, "reconstruction")])
def test_losses_fall(recipe, tmp_path, stage, term):
    part = {**FDVIT["stages"][stage], "steps": 40, "validate_every": 40}
    plan = recipe("fdvit", stages=[part], loss={"pixel": "l1"})
    events = train(plan, tmp_path / "state.pt", accelerator="cpu", stage=part["name"])
    values = [e.losses[term] for e in events if isinstance(e, StepDone)]
    assert np.mean(values[-8:]) < 0.9 * np.mean(values[:8])


def test_the_prior_comes_closer_to_real_slices(recipe, tmp_path):
    optimiser = {"learning_rate": 0.005, "betas": [0.0, 0.99], "ema": 0.5}
    part = {**TRANSMRSR["stages"][0], "steps": 30, "validate_every": 6, "r1": 1.0, "generator_rate": 1.0, "optimiser": optimiser}
    events = list(train(recipe("transmrsr", stages=[part]), tmp_path / "state.pt", accelerator="cpu", stage="prior"))
    scores = [e.score for e in of(events, StageScored)]
    assert max(scores) > scores[0] + 100
    assert events[-1].score == max(scores)


def test_the_priors_discriminator_learns(recipe, tmp_path):
    """Against a generator that stands still."""
    part = {**TRANSMRSR["stages"][0], "steps": 16, "validate_every": 16, "generator_rate": 1e-9}
    events = train(recipe("transmrsr", stages=[part]), tmp_path / "state.pt", accelerator="cpu", stage="prior")
    values = [e.losses["discriminator"] for e in events if isinstance(e, StepDone)]
    assert np.mean(values[-4:]) < 0.7 * np.mean(values[:4])


def test_masked_patches_are_a_pretext_too(recipe, tmp_path):
    part = {"name": "vit", "size": 16, "batch": 4, "steps": 40, "validate_every": 20, "pretext": "masked", "optimiser": {"learning_rate": 0.003}}
    events = list(train(recipe("fdvit", stages=[part], loss={"pixel": "l1"}), tmp_path / "state.pt", accelerator="cpu", stage="vit"))
    values = [e.losses["hidden patches"] for e in events if isinstance(e, StepDone)]
    assert np.mean(values[-8:]) < 0.7 * np.mean(values[:8])
    first, last = of(events, StageScored)
    assert last.score > first.score
    assert last.measure == "PSNR of hidden patches (dB)"


def test_a_trained_model_shows_what_its_stages_learnt(undisturbed, tmp_path):
    files = write_model(undisturbed("fdvit")[1][-1], tmp_path, overwrite=False)
    card = read_card(files[1])
    titles = {info.name for info in load_network(card).maps()}
    assert titles == {"structure-lr", "structure-sr", "structure-distance", "vit-rollout", "vit-attention-1"}
    sums = undisturbed("fdvit")[1][-1].stages
    assert f"stage vit, pretext class: 6 steps, sha256 {sums['vit']}; stage disentangle: 6 steps" in card.training
    assert "loss with a pixel term (weight 1), which the paper's has not" in card.training
    assert {(d.file, d.use) for d in card.data} == {
        *((f"sub-{name}_{contrast}.nii.gz", "train") for name in ("ann", "bob") for contrast in ("T1w", "T2w")),
        *((f"sub-cy_{contrast}.nii.gz", "validation") for contrast in ("T1w", "T2w")),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_stages_train_in_reduced_precision(recipe, kind):
    stages = [{**part, "steps": 1} if part["name"] != "centroids" else part for part in KINDS[kind]["stages"]]
    events = list(train(recipe(kind, precision="bf16-mixed", stages=stages, steps=1), accelerator="cpu"))
    assert all(np.isfinite(list(terms.values())).all() for terms in losses(events).values())
    assert {v.dtype for v in events[-1].weights.values()} <= {torch.float32, torch.int64}


# --- what is refused before the first step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "fragment"),
    [
        ("fdvit", {"stages": [{"name": "prior"}]}, "Stage prior belongs to transmrsr; the recipe trains fdvit"),
        ("fdvit", {"stages": [{"name": "vit"}, {"name": "vit"}]}, "the stage vit twice"),
        ("fdvit", {"stages": [{"name": "vit", "size": 15}]}, "size must be a multiple of 2, not 15"),
        ("fdvit", {"stages": [{"name": "vit", "train": ["train/*_T1w.nii.gz"], "size": 16}]}, "all volumes are of class T1w"),
        ("fdvit", {"stages": [{"name": "vit", "train": ["val"]}]}, "same person"),
        ("fdvit", {"stages": [], "loss": {"kind": "fdvit", "weights": {"colour": 1}}}, "colour is no term of FD-ViT's loss"),
        ("fdvit", {"loss": {"kind": "transmrsr"}, "stages": []}, "loss.kind transmrsr belongs to the network of that name"),
        ("transmrsr", {"stages": [{"name": "centroids"}]}, "needs the stage prior before it"),
        ("transmrsr", {"stages": [{"name": "prior", "size": 64}]}, "its size 64 must be the network's, 32"),
        ("transmrsr", {"stages": [], "loss": {"kind": "transmrsr", "weights": {"pixel": 1}}}, "pixel is no term of TransMRSR's loss"),
        ("transmrsr", {"stages": [], "loss": {"kind": "transmrsr", "vgg": "nothing.pth"}}, "nothing.pth does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(recipe, kind, changes, fragment):
    events = []
    with pytest.raises(InputError) as caught:
        events.extend(train(recipe(kind, **changes), accelerator="cpu"))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not of(events, StepDone)


def test_people_are_kept_apart_over_all_stages(recipe):
    plan = recipe("fdvit", stages=[{"name": "vit", "train": ["val/*_T2w.nii.gz"], "validation": ["train/*_T2w.nii.gz"]}])
    with pytest.raises(InputError, match="The same person is in training and validation"):
        all_splits(plan)


def test_the_distance_of_slices_sees_texture():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(8, 1, 32, 32, generator=generator), 5, 1, 2)
    other = torch.nn.functional.avg_pool2d(torch.rand(8, 1, 32, 32, generator=generator), 5, 1, 2)
    rough = torch.rand(8, 1, 32, 32, generator=generator)
    assert sliced_distance(smooth, smooth) < sliced_distance(other, smooth) < 0.3 * sliced_distance(rough, smooth)
