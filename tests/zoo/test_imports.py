from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from napari_mrsr.errors import InputError, OutputError
from napari_mrsr.networks import create
from napari_mrsr.zoo import Card, get_card, import_checkpoint, list_models, load_network, load_official, save_weights, sha256_of
from napari_mrsr.zoo import imports as imports_module
from napari_mrsr.zoo.cards import read_card

SMALL = {"channels": 4, "blocks": 2, "ca_reduction": 2}


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The user's model folder; not there yet."""
    monkeypatch.setattr("napari_mrsr.zoo.models.user_weights_folder", lambda: tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def dcamsr(parity_weights, tmp_path, folder):
    """A Lightning file of the public code."""
    state = parity_weights("dcamsr_32_keys.txt", "dcamsr32")
    path = tmp_path / "Epoch=49 (best).ckpt"
    torch.save({"epoch": 49, "state_dict": {f"network.{k}": v for k, v in state.items()}}, path)
    return path


@pytest.fixture
def transmrsr(parity_weights, tmp_path, folder):
    path = tmp_path / "latest.pth"
    torch.save({"net_G_I": parity_weights("transmrsr_tiny64_keys.txt", "transmrsr_tiny64"), "epoch": 200}, path)
    return path


@pytest.fixture
def ours(tmp_path, folder):
    """Write a small model of this program into another folder."""

    def model(name="mine-x2", **changes):
        torch.manual_seed(0)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        path = save_weights(create("cftn", 2, **SMALL).state_dict(), elsewhere / f"{name}.safetensors", {"name": name}, overwrite=True)
        values = {"name": name, "title": "Mine", "architecture": "cftn", "options": SMALL, "scale": 2, "weights": path.name, "licence": "MIT"}
        card = Card(**{**values, "sha256": sha256_of(path), "protocol": "gaussian", **changes})
        path.with_suffix(".json").write_text(card.model_dump_json())
        return path

    return model


def files(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def refused(folder, fragment, *arguments, error=InputError, **options):
    """One sentence, and the folder is as it was."""
    before = {p.name: p.read_bytes() for p in folder.iterdir()} if folder.is_dir() else {}
    with pytest.raises(error) as caught:
        import_checkpoint(*arguments, **options)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before if folder.is_dir() else not before
    return str(caught.value)


def test_an_official_checkpoint_becomes_a_model(dcamsr, folder, parity_file):
    card = import_checkpoint(dcamsr, scale=2)
    assert card.name == "epoch-49-best"
    assert files(folder) == ["epoch-49-best.json", "epoch-49-best.safetensors"]
    assert get_card("epoch-49-best") == card
    assert (card.architecture, card.scale, card.protocol, card.reference) == ("dcamsr", 2, "kspace", "optional")
    assert card.title == "DCAMSR x2"
    assert card.options["size"] == 32
    assert "scale" not in card.options
    assert card.sha256 == sha256_of(folder / card.weights)
    assert card.size == (folder / card.weights).stat().st_size
    assert card.licence == "as the source's"
    assert card.domain.contrasts == ()
    assert card.data == ()
    assert hashlib.sha256(dcamsr.read_bytes()).hexdigest() in card.training
    assert dcamsr.name in card.training
    assert dcamsr.name in card.summary
    assert any("not known" in line for line in card.limits)
    assert any("kspace" in line and "factor of 2" in line for line in card.limits)
    network = load_network(card)
    assert sum(p.numel() for p in network.parameters()) == card.parameters
    arrays = np.load(parity_file("dcamsr_32_x2.npz"))
    with torch.no_grad():
        found = network(torch.from_numpy(arrays["lr"]), torch.from_numpy(arrays["ref"]))
    assert np.abs(found.numpy() - arrays["out"]).max() < 1e-5


def test_the_weights_say_where_they_come_from(dcamsr, folder):
    import_checkpoint(dcamsr, name="public", scale=2)
    with safe_open(folder / "public.safetensors", framework="pt") as tensors:
        about = json.loads(tensors.metadata()["napari_mrsr"])
    assert about == {"name": "public", "architecture": "dcamsr", "source": dcamsr.name}


def test_centroids_go_into_the_weights(transmrsr, folder, parity_file, tmp_path):
    arrays = np.load(parity_file("transmrsr_tiny64.npz"))
    np.save(tmp_path / "centers.npy", arrays["centers"])
    card = import_checkpoint(transmrsr, name="own-transmrsr", scale=4, truncation="farthest", centroids=tmp_path / "centers.npy")
    assert (card.architecture, card.scale, card.protocol, card.reference) == ("transmrsr", 4, "slice-profile", "none")
    assert (card.options["clusters"], card.options["truncation"]) == (8, "farthest")
    assert "centroids" not in card.options
    (tmp_path / "centers.npy").unlink()
    transmrsr.unlink()
    with torch.no_grad():
        found = load_network(get_card("own-transmrsr")).body(torch.from_numpy(arrays["x"]))
    assert np.abs(found.numpy() - arrays["out_trunc_official_argmax"]).max() < 2e-4


def test_a_factor_that_is_not_told_is_not_invented(transmrsr, folder):
    """The interpolated input of TransMRSR fits any factor."""
    card = import_checkpoint(transmrsr)
    assert card.scale is None
    assert card.title == "TransMRSR"
    assert any("factor it was trained for, which is not known" in line for line in card.limits)
    assert load_network(card).size == 64


def test_the_scale_of_dcamsr_is_needed(dcamsr, folder):
    assert refused(folder, "give scale", dcamsr).startswith(dcamsr.name)


def test_another_folder_can_be_chosen(dcamsr, folder, tmp_path):
    card = import_checkpoint(str(dcamsr), "public", str(tmp_path / "deep" / "folder"), scale=3)
    assert card.folder == str(tmp_path / "deep" / "folder")
    assert files(tmp_path / "deep" / "folder") == ["public.json", "public.safetensors"]
    assert not folder.exists()


def test_official_safetensors_are_read(parity_weights, tmp_path, folder):
    state = parity_weights("dcamsr_32_keys.txt", "dcamsr32")
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "public.safetensors")
    card = import_checkpoint(tmp_path / "public.safetensors", scale=2)
    expected = load_official(state, scale=2).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in load_network(card).state_dict().items())


def test_a_model_from_elsewhere_is_copied(ours, folder):
    path = ours()
    card = import_checkpoint(path)
    assert card.name == "mine-x2"
    assert card.licence == "MIT"
    assert files(folder) == ["mine-x2.json", "mine-x2.safetensors"]
    assert (folder / "mine-x2.safetensors").read_bytes() == path.read_bytes()
    assert card == read_card(path.with_suffix(".json")).model_copy(update={"folder": str(folder), "size": path.stat().st_size})
    assert load_network(get_card("mine-x2")).tail.in_channels == 4


def test_a_model_from_elsewhere_can_be_renamed_and_named_by_its_card(ours, folder):
    path = ours()
    assert import_checkpoint(path, name="theirs").weights == "theirs.safetensors"
    assert import_checkpoint(path.with_suffix(".json")).name == "mine-x2"
    assert files(folder) == ["mine-x2.json", "mine-x2.safetensors", "theirs.json", "theirs.safetensors"]
    assert {"theirs", "mine-x2"} <= {card.name for card in list_models()}


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"sha256": "0" * 64}, "damaged or was changed"),
        ({"options": {**SMALL, "channels": 8}}, "another width or scale"),
        ({"options": {**SMALL, "blocks": 3}}, "another network"),
        ({"options": {**SMALL, "colour": "red"}}, "colour"),
        ({"architecture": "espcn"}, "Unknown network 'espcn'"),
        ({"weights": "other.safetensors"}, "is not the card of mine-x2.safetensors"),
        ({"weights": ""}, "is not the card of mine-x2.safetensors"),
        ({"weights": "../mine-x2.safetensors"}, "is not the card of mine-x2.safetensors"),
    ],
)
def test_models_that_do_not_fit_their_card_are_refused(ours, folder, changes, fragment):
    refused(folder, fragment, ours(**changes))


def test_a_broken_card_is_named(ours, folder):
    path = ours()
    path.with_suffix(".json").write_text("{}")
    refused(folder, "Model card mine-x2.json, field name", path)


def test_a_card_without_weights_is_refused(ours, folder):
    path = ours(weights="")
    refused(folder, "there is nothing to import", path.with_suffix(".json"))


def test_options_do_not_go_with_a_card(ours, folder):
    refused(folder, "leave scale out", ours(), scale=2)


def test_our_weights_without_their_card_are_named(ours, folder):
    path = ours()
    path.with_suffix(".json").unlink()
    refused(folder, "mine-x2.json is missing; put it beside the weights", path)


def test_a_training_checkpoint_gets_its_command(tmp_path, folder):
    state = create("cftn", 2, **SMALL).state_dict()
    parts = {"seconds": 1.0, "best_score": 30.0, "players": {"network": {"network": state, "optimiser": {}}}, "rng": torch.get_rng_state()}
    content = {"recipe": {"name": "mine"}, "stage": "super-resolution", "hash": "abc", "step": 3, "best": state, "averaged": state, **parts}
    torch.save(content, tmp_path / "mine-abc.pt")
    text = refused(folder, "is a training checkpoint of napari-mrsr (mine)", tmp_path / "mine-abc.pt")
    assert "napari-mrsr train RECIPE --resume" in text


def test_the_first_stage_is_no_model(parity_weights, tmp_path, folder):
    state = parity_weights("styleswin_tiny64_keys.txt", "styleswin_tiny64")
    generator = {k: v for k, v in state.items() if k.split(".")[0] in ("style", "input", "layers", "to_rgbs")}
    torch.save({"g_ema": generator}, tmp_path / "900000.pt")
    refused(folder, "super-resolves nothing by itself", tmp_path / "900000.pt")


def test_damaged_and_other_files_leave_nothing(dcamsr, folder, tmp_path):
    short = tmp_path / "short.ckpt"
    short.write_bytes(dcamsr.read_bytes()[:1000])
    refused(folder, "short.ckpt is not a PyTorch file", short, scale=2)
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "other.pth")
    refused(folder, "other.pth holds no weights of the public", tmp_path / "other.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    refused(folder, "cut.safetensors is not", tmp_path / "cut.safetensors")
    refused(folder, "does not exist", tmp_path / "none.pth")
    refused(folder, "is a folder", tmp_path)
    (tmp_path / "brain.nii").write_bytes(b"x")
    refused(folder, "brain.nii is no weights file", tmp_path / "brain.nii")


def test_options_without_json_form_are_refused(dcamsr, folder):
    refused(folder, "cannot be written into a model card", dcamsr, scale=2, overlap=np.float32(0.25))


@pytest.mark.parametrize("name", ["cubic", "cftn-x2"])
def test_models_that_come_with_the_program_are_not_replaced(dcamsr, folder, name):
    for overwrite in (False, True):
        refused(folder, f"There is a model {name} already, which cannot be replaced", dcamsr, name=name, overwrite=overwrite, scale=2)


def test_the_users_models_are_replaced_only_when_told(dcamsr, ours, folder):
    import_checkpoint(ours(), name="public")
    refused(folder, "There is a model public already; give another name, or allow overwriting", dcamsr, name="public", scale=2)
    card = import_checkpoint(dcamsr, name="public", overwrite=True, scale=2)
    assert files(folder) == ["public.json", "public.safetensors"]
    assert get_card("public").architecture == card.architecture == "dcamsr"
    load_network(get_card("public"))


def test_a_users_model_in_another_folder_is_not_shadowed(dcamsr, ours, folder, tmp_path):
    import_checkpoint(ours(), name="public")
    with pytest.raises(InputError, match="cannot be replaced"):
        import_checkpoint(dcamsr, "public", tmp_path / "there", overwrite=True, scale=2)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_other_files_in_the_folder_are_kept(dcamsr, folder, suffix):
    folder.mkdir()
    name = "public.safetensors" if suffix == "safetensors" else "public.json"
    content = b"mine" if suffix == "safetensors" else Card(name="another", title="a", architecture="cftn").model_dump_json().encode()
    (folder / name).write_bytes(content)
    refused(folder, "exists already and is kept", dcamsr, name="public", scale=2, error=OutputError)


@pytest.mark.parametrize("name", ["", "---", "a b", "Capital", "../up", "a/b", "x" * 65, ".hidden", "ö"])
def test_unusable_names_are_refused(dcamsr, folder, name):
    refused(folder, "cannot name a model", dcamsr, name=name, scale=2)


def test_names_made_of_file_names_are_safe(dcamsr, folder, tmp_path):
    for stem, expected in (("  Mein Netz (2)", "mein-netz-2"), ("a" * 200, "a" * 64), ("v1.2_final", "v1.2_final")):
        path = tmp_path / f"{stem}.ckpt"
        shutil.copyfile(dcamsr, path)
        assert import_checkpoint(path, scale=2).name == expected
    shutil.copyfile(dcamsr, tmp_path / "()().ckpt")
    refused(folder, "give a name", tmp_path / "()().ckpt", scale=2)


@pytest.mark.parametrize("stage", ["save_weights", "write_json"])
@pytest.mark.parametrize("replaces", [False, True])
def test_a_failing_disk_leaves_all_as_it_was(dcamsr, ours, folder, monkeypatch, stage, replaces):
    if replaces:
        import_checkpoint(ours(), name="public")

    def fail(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(imports_module, stage, fail)
    folder.mkdir(exist_ok=True)
    refused(folder, "No space left on device", dcamsr, name="public", scale=2, overwrite=replaces, error=OutputError)
