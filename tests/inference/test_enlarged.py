from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_mrsr.degradation import get_protocol
from napari_mrsr.grid import SamplingGrid
from napari_mrsr.inference.enlarged import Enlarged
from napari_mrsr.networks import create


@pytest.mark.parametrize("protocol", ["slice-profile", "gaussian", "kspace"])
def test_blocks_are_those_of_the_whole(smooth_array, protocol):
    data = smooth_array((11, 9, 7)).astype(np.float32)
    grid = SamplingGrid.from_coarse(data.shape, get_protocol(protocol).scale_per_axis(3, 2), get_protocol(protocol).alignment)
    cubic = create("cubic", 3, protocol=protocol, slice_axis=2, grid=grid)
    whole = cubic(torch.from_numpy(data)[None, None])[0, 0].numpy()
    enlarged = Enlarged(data, [None if m is None else m.astype(np.float32) for m in cubic.matrices(grid)])
    full = tuple(slice(0, n) for n in whole.shape)
    block = (slice(2, 9), slice(0, whole.shape[1]), slice(4, 7))
    np.testing.assert_allclose(enlarged[full], whole, atol=1e-3)
    np.testing.assert_allclose(enlarged[block], whole[block], atol=1e-3)
    assert enlarged[block].dtype == np.float32
    for axes in ((0,), (1, 2), (0, 1, 2)):
        np.testing.assert_allclose(enlarged.flipped(axes)[block], np.flip(whole, axes)[block], atol=1e-3)
