from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from napari_mrsr.degradation import Degradation
from napari_mrsr.errors import InputError
from napari_mrsr.networks import create
from napari_mrsr.training.recipe import Recipe, load_recipe
from napari_mrsr.training.stages import stage_names

RECIPES = sorted((Path(__file__).resolve().parents[2] / "resources" / "recipes").glob("*.yaml"))
CONTENT = {
    "name": "tiny",
    "network": {"name": "cftn"},
    "degradation": {"protocol": "gaussian", "scale": 2},
    "data": {"train": ["train"], "validation": ["val"]},
}


@pytest.fixture
def write(tmp_path):
    """Write CONTENT with changes, given as dotted names."""

    def recipe(**changes):
        content = yaml.safe_load(yaml.safe_dump(CONTENT))
        for name, value in changes.items():
            place = content
            *parents, last = name.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return recipe


def test_a_recipe_survives_its_file(write):
    recipe = load_recipe(write(**{"patches.size": 12, "optimiser.learning_rate": 0.01, "steps": 7}))
    assert (recipe.patches.size, recipe.optimiser.learning_rate, recipe.steps) == (12, 0.01, 7)
    assert recipe.degradation == Degradation(protocol="gaussian", scale=2)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")).hash == recipe.hash


def test_changes_replace_the_files_values(write, tmp_path):
    path = write(steps=7)
    recipe = load_recipe(path, root=tmp_path / "elsewhere", steps=9, seed=None)
    assert (recipe.data.root, recipe.steps, recipe.seed) == (str(tmp_path / "elsewhere"), 9, 0)
    assert load_recipe(path).data.root == "."


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"patches.shape": 3}, "patches.shape"),
        ({"steps": "many"}, "steps"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"network": "cftn"}, "network"),
        ({"network.scale": 1.5}, "network.scale"),
        ({"data.train": "train"}, "data.train"),
        ({"data": ["train"]}, "data"),
        ({"optimiser.name": "sgd"}, "optimiser.name"),
        ({"optimiser.learning_rate": 0}, "optimiser.learning_rate"),
        ({"optimiser.betas": [0.9]}, "optimiser.betas"),
        ({"loss.pixel": "l3"}, "loss.pixel"),
        ({"augmentation.noise_probability": 1.5}, "augmentation.noise_probability"),
        ({"degradation.noise": -1}, "degradation.noise"),
        ({"degradation.factor": 2}, "degradation.factor"),
        ({"degradation.axis": "Z"}, "degradation"),
        ({"degradation.protocol": "blur"}, "degradation"),
        ({"degradation.scale": 7}, "degradation"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(write, change, field):
    with pytest.raises(InputError) as caught:
        load_recipe(write(**change))
    assert str(caught.value).startswith(f"tiny.yaml, field {field}")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_missing_field_is_named(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\n")
    with pytest.raises(InputError, match=r"tiny\.yaml, field network: "):
        load_recipe(path)


@pytest.mark.parametrize("content", [b"a: [1, 2", b"a: b: c", b"\t- x", b"\xff\xfe\x00\x01", b"!!python/object/apply:os.system ['true']"])
def test_what_is_no_yaml_is_named(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.yaml") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just words", "42"])
def test_what_is_no_table_is_named(tmp_path, content):
    path = tmp_path / "list.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"list\.yaml is not a recipe"):
        load_recipe(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_recipe(tmp_path / "nothing.yaml")


def test_the_hash_knows_what_changes_the_weights(write):
    plain = load_recipe(write()).hash
    same = [{"data.root": "/elsewhere"}, {"summary": "words"}, {"data.contrasts": ["T1w"]}]
    other = [{"seed": 1}, {"steps": 7}, {"patches.size": 12}, {"network.scale": 3}, {"degradation.scale": 3}, {"data.train": ["more"]}]
    assert {load_recipe(write(**c)).hash for c in same} == {plain}
    hashes = [load_recipe(write(**c)).hash for c in other]
    assert len({plain, *hashes}) == len(other) + 1
    assert len(plain) == 12


FORMER = """
name: dcamsr-x2
network:
  name: dcamsr
  scale: 2
  options:
    size: 64
    channels: 32
    heads: 4
    projection: 32
    encoder_blocks: [2, 2, 2]
    decoder_blocks: [1, 1, 1, 4, 3, 2]
    dropout: 0.0
    exact_layout: false
    rescale_lr: true
    upsampling: lattice
    noise_channel: true
    init: residual
degradation: {protocol: kspace, scale: 2}
data:
  train: [multi_thick/train/*/*_T2w.nii.gz, multi_1mm/train/*/*_T2w.nii.gz, brats_like/train/*/*_T2w.nii.gz]
  validation: [multi_thick/val/*/*_T2w.nii.gz]
  references: [T1w, FLAIR]
  in_plane: 0.9
patches: {size: 32, batch: 8}
augmentation:
  contrast_probability: 0.2
  contrast_gamma: [0.7, 1.5]
  intensity: 0.1
  noise: 5.0
  noise_probability: 0.3
  reference_dropout: 0.25
optimiser:
  name: adamw
  learning_rate: 0.001
  betas: [0.9, 0.99]
  weight_decay: 0.0001
  schedule: cosine
  warmup: 100
  clip: 0.5
  ema: 0.995
loss: {pixel: charbonnier}
steps: 3200
validate_every: 200
seed: 0
"""
"""A recipe as it was trained in 2026, with options that came after the very first."""


def test_hashes_of_trained_recipes_stay(tmp_path):
    """New options must not change what checkpoints and cards are known by."""
    (path,) = (p for p in RECIPES if p.stem == "cftn_x2_compact")
    assert load_recipe(path).hash == "c9e16687ab19"
    (tmp_path / "former.yaml").write_text(FORMER)
    assert load_recipe(tmp_path / "former.yaml").hash == "081ee23b088f"


def test_options_count_once_they_are_used(write):
    plain = load_recipe(write()).hash
    used = [{"start": "cftn-x2"}, {"precision": "bf16-mixed"}, {"patience": 3}, {"loss.kind": "transmrsr"}, {"stages": [{"name": "vit"}]}]
    unused = [{"start": None}, {"precision": "32-true"}, {"patience": 0}, {"loss.kind": "pixel"}, {"stages": []}, {"storage": "float16"}]
    assert {load_recipe(write(**c)).hash for c in unused} == {plain}
    assert len({plain, *(load_recipe(write(**c)).hash for c in used)}) == len(used) + 1


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"name": "organ"}, "stages.0"),
        ({"steps": 3}, "stages.0"),
        ({"name": "vit", "pretext": "colour"}, "stages.0.vit.pretext"),
        ({"name": "vit", "batch": 1}, "stages.0.vit.batch"),
        ({"name": "prior", "r2": 1}, "stages.0.prior.r2"),
        ({"name": "centroids", "steps": 5}, "stages.0.centroids.steps"),
    ],
)
def test_a_wrong_stage_is_named(write, part, field):
    with pytest.raises(InputError) as caught:
        load_recipe(write(stages=[part]))
    assert str(caught.value).startswith(f"tiny.yaml, field {field}:")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_load_and_build_their_network(path):
    recipe = load_recipe(path)
    assert recipe.name
    assert recipe.network.scale == recipe.degradation.scale
    Degradation.create(**recipe.degradation.model_dump())
    with torch.device("meta"):
        network = create(recipe.network.name, recipe.network.scale, **recipe.network.options)
    assert sum(p.numel() for p in network.parameters()) > 10_000
    assert stage_names(recipe)[-1] == "super-resolution"


@pytest.mark.parametrize("path", [p for p in RECIPES if p.stem.endswith("_compact")], ids=lambda p: p.stem)
def test_compact_models_are_small_files(path):
    """6 MB each, so that all of them fit into the package."""
    recipe = load_recipe(path)
    with torch.device("meta"):
        network = create(recipe.network.name, recipe.network.scale, **recipe.network.options)
    width = {"float32": 4, "float16": 2}[recipe.storage]
    assert sum(v.numel() * width for v in network.state_dict().values()) < 6e6


def test_there_are_recipes():
    networks = ("cftn", "fdvit", "dcamsr", "cohft", "transmrsr")
    for kind in ("compact", "paper"):
        assert {p.stem.split("_")[0] for p in RECIPES if p.stem.endswith(kind)} == set(networks)
