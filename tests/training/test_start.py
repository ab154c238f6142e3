from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_mrsr.errors import InputError
from napari_mrsr.io import write_volume
from napari_mrsr.networks import create
from napari_mrsr.training.loop import StepDone, TrainingDone, train
from napari_mrsr.training.recipe import NetworkPart, Recipe
from napari_mrsr.training.start import find_start
from napari_mrsr.zoo import get_card, sha256_of

CARD = get_card("cftn-x2")
NETWORK = NetworkPart(name="cftn", scale=2, options=CARD.options)


def test_a_model_of_the_list_by_name():
    start = find_start("cftn-x2", NETWORK)
    assert (start.name, start.sha256) == ("cftn-x2", CARD.sha256)
    network = create("cftn", 2, **CARD.options)
    start.load(network)
    expected = load_file(start.path)
    assert all(torch.equal(v, expected[k].float()) for k, v in network.state_dict().items())


def test_a_file_with_its_card(tmp_path):
    source = find_start("cftn-x2", NETWORK).path
    shutil.copy(source, tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match=r"mine.safetensors has no card: mine.json must lie beside it"):
        find_start(str(tmp_path / "mine.safetensors"), NETWORK)
    shutil.copy(source.with_suffix(".json"), tmp_path / "mine.json")
    start = find_start(str(tmp_path / "mine.safetensors"), NETWORK)
    assert start.path == tmp_path / "mine.safetensors"
    assert start.sha256 == sha256_of(source)


def test_options_that_are_the_defaults_need_not_be_named():
    fewer = {k: v for k, v in CARD.options.items() if k != "mfem"}
    for options in (fewer, {**CARD.options, "slope": 0.2, "safm": True}):
        assert find_start("cftn-x2", NETWORK.model_copy(update={"options": options})).sha256 == CARD.sha256
    with pytest.raises(InputError, match="safm True instead of False"):
        find_start("cftn-x2", NETWORK.model_copy(update={"options": {**CARD.options, "safm": False}}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "fdvit"}, "cftn-x2 is cftn, the recipe trains fdvit; start from a model of the same network."),
        ({"scale": 3}, "cftn-x2 enlarges by 2, the recipe by 3; start from a model of the same factor."),
        ({"options": {**CARD.options, "channels": 7}}, "network.options than the recipe's: channels "),
    ],
)
def test_another_network_is_refused(changes, sentence):
    with pytest.raises(InputError) as caught:
        find_start("cftn-x2", NETWORK.model_copy(update=changes))
    assert sentence in str(caught.value)


def test_a_method_without_weights_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="cubic has no weights to start from"):
        find_start("cubic", NETWORK)
    with pytest.raises(InputError, match="Unknown model 'mine'"):
        find_start("mine", NETWORK)
    with pytest.raises(InputError, match="does not exist"):
        find_start(str(tmp_path / "mine.safetensors"), NETWORK)


@pytest.fixture
def own(tmp_path, make_volume):
    """A tiny model as files, and a recipe that starts from it."""
    options = {"channels": 4, "blocks": 2, "ca_reduction": 2, "init": "residual"}
    torch.manual_seed(3)
    save_file(create("cftn", 2, **options).state_dict(), tmp_path / "own.safetensors")
    card = CARD.model_copy(update={"name": "own", "options": options, "weights": "own.safetensors", "sha256": "", "quality": ()})
    (tmp_path / "own.json").write_text(json.dumps(card.model_dump(mode="json")))
    for number, name in enumerate(("train/sub-ann", "val/sub-cy")):
        (tmp_path / name).parent.mkdir()
        write_volume(make_volume((33, 34, 35), sigma=1.5, seed=number), tmp_path / f"{name}_T1w.nii.gz")
    return Recipe.model_validate(
        {
            "name": "tuned",
            "network": {"name": "cftn", "options": options},
            "degradation": {"protocol": "gaussian", "scale": 2},
            "data": {"root": str(tmp_path), "train": ["train"], "validation": ["val"]},
            "patches": {"size": 6, "batch": 2, "margin": 3},
            "optimiser": {"learning_rate": 1e-9},
            "steps": 2,
            "validate_every": 1,
            "validation_crop": 10,
            "start": str(tmp_path / "own.safetensors"),
        }
    )


def test_training_begins_with_the_weights(own, tmp_path):
    events = list(train(own, accelerator="cpu"))
    done = events[-1]
    assert isinstance(done, TrainingDone)
    begun = load_file(tmp_path / "own.safetensors")
    assert all(torch.allclose(done.weights[k], v, atol=1e-6) for k, v in begun.items())
    assert done.start.sha256 == sha256_of(tmp_path / "own.safetensors")
    scratch = list(train(own.model_copy(update={"start": None}), accelerator="cpu"))
    assert not all(torch.allclose(scratch[-1].weights[k], v, atol=1e-6) for k, v in begun.items())


def test_changed_starting_weights_are_noticed_when_going_on(own, tmp_path):
    checkpoint = tmp_path / "state.pt"
    for event in train(own, checkpoint, accelerator="cpu"):
        if isinstance(event, StepDone) and event.step == 2:
            break
    path = tmp_path / "own.safetensors"
    save_file({k: v + 1 for k, v in load_file(path).items()}, path)
    with pytest.raises(InputError, match="The starting weights changed since this training began; begin anew"):
        list(train(own, checkpoint, True, accelerator="cpu"))
