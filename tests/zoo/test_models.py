from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.zoo import WEIGHTS, Card, get_card, list_models, load_network, save_weights, sha256_of, user_weights_folder

OPTIONS = {"channels": 4, "blocks": 2, "ca_reduction": 2}
CLASSIC = ["nearest", "cubic", "lanczos", "zero-fill", "back-projection"]


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The user's model folder, empty."""
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def add(folder):
    """Put a small CFTN into it."""

    def model(name="mine", options=OPTIONS, **changes):
        torch.manual_seed(0)
        path = save_weights(create("cftn", 2, **OPTIONS).state_dict(), folder / f"{name}.safetensors", {}, overwrite=True)
        values = {"name": name, "title": name, "architecture": "cftn", "options": options, "scale": 2, "weights": path.name}
        card = Card(**{**values, "sha256": sha256_of(path), **changes})
        (folder / f"{name}.json").write_text(card.model_dump_json())
        return card

    return model


def test_the_classic_methods_are_listed_last_and_once(folder):
    names = [card.name for card in list_models()]
    assert names[-5:] == CLASSIC
    assert len(set(names)) == len(names)
    for card in list_models()[-5:]:
        assert not card.learned
        assert card.title
        assert card.summary
        assert not get_architecture(card.architecture).learned
    assert [c.name for c in list_models() if c.uses_noise and not c.learned] == ["back-projection"]


def test_the_users_own_models_appear(add):
    add("mine")
    add("another")
    names = [card.name for card in list_models()]
    assert {"mine", "another"} <= set(names)
    assert names.index("mine") < names.index("nearest")
    assert get_card("mine").learned


def test_a_shipped_model_is_not_replaced_by_a_user_file_of_its_name(add, monkeypatch, tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    add("mine", title="shipped one")
    shutil.move(tmp_path / "mine.json", shipped / "mine.json")
    monkeypatch.setattr("napari_mrsr.zoo.models.WEIGHTS", shipped)
    add("mine", title="user one")
    assert get_card("mine").title == "shipped one"


def test_no_user_folder_is_no_problem(monkeypatch, tmp_path):
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path / "nothing")
    assert [c.name for c in list_models()][-5:] == CLASSIC
    assert not (tmp_path / "nothing").exists()


def test_unknown_names_get_the_list(folder):
    with pytest.raises(InputError, match=r"Unknown model 'espcn': use one of .*nearest, cubic, lanczos") as caught:
        get_card("espcn")
    assert "\n" not in str(caught.value)


def test_loading_fills_the_network_and_sets_its_windows(add):
    card = add(window=8)
    network = load_network(get_card(card.name))
    assert not network.training
    torch.manual_seed(0)
    expected = create("cftn", 2, **OPTIONS).state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(value, expected[key])
    assert {m.cell for m in network.modules() if hasattr(m, "cell")} == {8}
    add(window=None)
    assert {m.cell for m in load_network(get_card(card.name)).modules() if hasattr(m, "cell")} == {None}


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"sha256": "0" * 64}, "damaged or was changed"),
        ({"weights": "nothing.safetensors"}, "does not exist"),
        ({"options": {**OPTIONS, "channels": 8}}, "another width or scale"),
        ({"options": {**OPTIONS, "blocks": 3}}, "belongs to another network"),
        ({"options": {**OPTIONS, "colour": "red"}}, "CFTN"),
        ({"options": {**OPTIONS, "channels": "many"}}, "CFTN"),
        ({"options": {**OPTIONS, "channels": -4}}, "CFTN"),
        ({"options": {**OPTIONS, "ca_reduction": 0}}, "CFTN"),
        ({"scale": 7}, "CFTN is defined for factors"),
        ({"architecture": "espcn"}, "Unknown network 'espcn'"),
        ({"architecture": "cubic"}, "another network|Cubic"),
    ],
)
def test_cards_that_do_not_fit_their_weights_are_refused(add, changes, fragment):
    add(**changes)
    with pytest.raises(InputError, match=fragment) as caught:
        load_network(get_card("mine"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.json")), ids=lambda p: p.stem)
def test_shipped_models_load(path, folder):
    card = get_card(path.stem)
    network = load_network(card)
    assert sum(p.numel() for p in network.parameters()) == card.parameters


def test_listing_loads_no_torch(tmp_path):
    folder = tmp_path / "napari-mrsr" / "weights"
    folder.mkdir(parents=True)
    card = Card(name="mine", title="Mine", architecture="cftn", weights="mine.safetensors")
    (folder / "mine.json").write_text(card.model_dump_json())
    code = """
import sys
from napari_mrsr.zoo import get_card, list_models
names = [card.name for card in list_models()]
get_card("cubic")
print(*names)
sys.exit("torch" in sys.modules or "safetensors" in sys.modules)
"""
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if sys.platform == "linux":
        assert "mine" in done.stdout.split()


def test_the_user_folder_is_not_made_by_asking():
    assert user_weights_folder().parts[-2:] == ("napari-mrsr", "weights")


def test_a_broken_card_does_not_hide_the_others(add, folder, caplog):
    add("mine")
    (folder / "broken.json").write_text('{"name": "broken"}')
    with caplog.at_level("WARNING"):
        names = [card.name for card in list_models()]
    assert "mine" in names
    assert "broken" not in names
    assert "Model card broken.json, field title" in caplog.text
    with pytest.raises(InputError, match=r"Model card broken\.json, field title"):
        get_card("broken")


def test_windows_are_set_on_networks_that_have_them(folder):
    options = {"size": 16, "channels": 8, "heads": 2, "projection": 4, "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1, 1, 1, 1)}
    path = save_weights(create("dcamsr", 2, **options).state_dict(), folder / "d.safetensors", {})
    card = Card(name="d", title="d", architecture="dcamsr", options=options, scale=2, weights=path.name, window=5, folder=str(folder))
    with pytest.raises(InputError, match="field window"):
        load_network(card)


def test_batch_norm_counters_are_whole_numbers(folder):
    network = create("fdvit", 2, channels=4, blocks=1)
    network.train()(torch.rand(2, 1, 8, 8))
    path = save_weights(network.state_dict(), folder / "f.safetensors", {})
    card = Card(name="f", title="f", architecture="fdvit", options={"channels": 4, "blocks": 1}, scale=2, weights=path.name, folder=str(folder))
    again = load_network(card)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True))
