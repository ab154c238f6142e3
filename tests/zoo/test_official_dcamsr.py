from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create
from napari_mrsr.zoo.official import dcamsr as official

E1, F1 = "trans_lv1.0.epa_block.E.weight", "trans_lv1.0.epa_block.F.weight"


def shapes(text):
    """Input size to names and shapes."""
    found = {}
    for line in text.splitlines():
        if header := re.match(r"# .*input_size=(\d+)", line):
            state = found.setdefault(int(header[1]), {})
        elif line and not line.startswith("#"):
            name, sizes = re.match(r"(\S+) \(([\d, ]*)\)", line).groups()
            state[name] = tuple(int(n) for n in sizes.split(",") if n.strip())
    return found


def stand_ins(listed):
    """Tensors of these shapes that take no memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape in listed.items()}


@pytest.fixture(scope="module")
def published(parity_file):
    return shapes(parity_file("dcamsr_official_keys.txt").read_text())


@pytest.fixture
def weights(parity_weights):
    return parity_weights("dcamsr_32_keys.txt", "dcamsr32")


def loaded_on_meta(state, **given):
    with torch.device("meta"):
        net = create("dcamsr", **official.options(state, **given))
    net.load_state_dict(official.convert(state), strict=True, assign=True)
    return net


@pytest.mark.parametrize("prefix", ["", "network."])
@pytest.mark.parametrize(("size", "parameters"), [(256, 9_286_705), (320, 12_383_281)])
def test_published_files_fit(published, size, parameters, prefix):
    state = {prefix + name: tensor for name, tensor in stand_ins(published[size]).items()}
    assert len(state) == 254
    assert official.recognise(state)
    assert official.options(state, scale=4) == {
        "scale": 4,
        "size": size,
        "channels": 64,
        "heads": 8,
        "projection": 64,
        "encoder_blocks": (4, 4, 4),
        "decoder_blocks": (2, 2, 2, 12, 8, 4),
    }
    net = loaded_on_meta(state, scale=4)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.size == (size, size)


@pytest.mark.parametrize("prefix", ["", "network."])
def test_values_arrive_where_they_belong(weights, parity_file, prefix):
    expected = np.load(parity_file("dcamsr_32_x2.npz"))
    state = {prefix + name: tensor for name, tensor in weights.items()}
    net = create("dcamsr", **official.options(state, scale=2)).eval()
    net.load_state_dict(official.convert(state), strict=True)
    with torch.no_grad():
        out = net(torch.from_numpy(expected["lr"]), torch.from_numpy(expected["ref"]))
    assert np.abs(out.numpy() - expected["out"]).max() < 1e-5


@pytest.mark.parametrize("gone", [".E.", ".F."])
def test_one_name_of_the_shared_projection_is_enough(weights, gone):
    state = {name: tensor for name, tensor in weights.items() if gone not in name}
    assert len(state) == len(weights) - 6
    ours = official.convert(weights)
    assert official.options(state, scale=2) == official.options(weights, scale=2)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in official.convert(state).items())


@pytest.mark.parametrize("name", [F1, "trans_lv3.0.epa_block.F.bias", "trans_lv2.0.epa_block.E.bias"])
def test_unequal_projections_are_refused(weights, name):
    with pytest.raises(InputError, match=r"\.E\..*\.F\..*differ"):
        official.convert({**weights, name: weights[name] + 1e-6})


def test_scale_must_be_told(weights):
    with pytest.raises(InputError, match="give scale"):
        official.options(weights)


def test_size_of_slices_that_are_not_square(published):
    height, width = 16, 48
    listed = published[256] | {
        f"trans_lv{level + 1}.0.epa_block.{name}.weight": (64, height * width // 4**level) for level in range(3) for name in "EF"
    }
    state = stand_ins(listed)
    with pytest.raises(InputError, match="768 pixels that are not square"):
        official.options(state, scale=2)
    for bad in (16, (16, 40), (16, 48, 1)):
        with pytest.raises(InputError, match="768 pixels, which size"):
            official.options(state, scale=2, size=bad)
    assert official.options(state, scale=2, size=[16, 48])["size"] == (16, 48)
    assert loaded_on_meta(state, scale=2, size=(16, 48)).size == (16, 48)


def test_given_size_wins_where_a_square_would_fit_too(weights):
    assert official.options(weights, scale=2)["size"] == 32
    assert official.options(weights, scale=2, size=32)["size"] == 32
    assert official.options(weights, scale=2, size=(16, 64))["size"] == (16, 64)


def test_other_options_pass_and_shapes_decide_the_rest(weights):
    found = official.options(weights, scale=3, exact_layout=False, other_sizes="resample", channels=8)
    assert (found["scale"], found["exact_layout"], found["other_sizes"], found["channels"]) == (3, False, "resample", 64)


def test_other_layouts_are_read_from_the_shapes(weights):
    state = {
        name: tensor for name, tensor in weights.items() if not re.match(r"(enc\.blk_L2\.[23]|decoder\.blk_(x1\.([5-9]|1\d)|L3\.1|x4\.3))\.", name)
    }
    for level in (1, 2, 3):
        for name in ("temperature", "temperature2"):
            state[f"trans_lv{level}.0.epa_block.{name}"] = torch.ones(4, 1, 1)
        for name in ("E", "F"):
            for part in ("weight", "bias"):
                key = f"trans_lv{level}.0.epa_block.{name}.{part}"
                state[key] = state[key][:10]
    found = official.options(state, scale=2)
    assert found["encoder_blocks"] == (4, 2, 4)
    assert found["decoder_blocks"] == (1, 2, 2, 5, 8, 3)
    assert (found["heads"], found["projection"]) == (4, 10)
    create("dcamsr", **found).load_state_dict(official.convert(state), strict=True)


def test_missing_and_foreign_tensors_are_named_on_loading(weights):
    net = create("dcamsr", **official.options(weights, scale=2))
    foreign = official.convert({**weights, "trans_lv1.1.norm.weight": torch.ones(64), "pos_embed": torch.ones(1)})
    with pytest.raises(RuntimeError, match=r"Unexpected.*trans_lv1\.1\.norm\.weight.*pos_embed"):
        net.load_state_dict(foreign, strict=True)
    del weights["decoder.conv_out.bias"]
    with pytest.raises(RuntimeError, match=r"Missing.*decoder\.out\.bias"):
        net.load_state_dict(official.convert(weights), strict=True)


def test_incomplete_files_are_said(weights):
    for names in ((E1, F1), ("trans_lv1.0.epa_block.temperature",), ("enc.conv_L1.weight",)):
        with pytest.raises(InputError, match=f"has no {re.escape(names[0])}"):
            official.options({name: tensor for name, tensor in weights.items() if name not in names}, scale=2)
    with pytest.raises(InputError, match="has 1 axes"):
        official.options({**weights, "trans_lv1.0.epa_block.temperature": torch.ones(8)}, scale=2)


@pytest.mark.parametrize("keys", ["transmrsr_official_keys.txt", "styleswin_stage1_official_keys.txt"])
def test_other_networks_are_not_recognised(parity_file, keys):
    names = [line.split(" ")[0] for line in parity_file(keys).read_text().splitlines() if not line.startswith("#")]
    assert not official.recognise(dict.fromkeys(names))
    assert not official.recognise({})


def test_our_own_files_are_not_taken_for_official_ones(weights):
    assert not official.recognise(official.convert(weights))
