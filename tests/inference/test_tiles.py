from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_mrsr.inference.tiles import Tile, make_tiles

edges = st.integers(1, 40)


@st.composite
def cuts(draw):
    """A lattice, a region of it, and a way to cut it."""
    shape = draw(st.tuples(*[st.integers(1, 33)] * 3))
    region = []
    for n in shape:
        start = draw(st.integers(0, n - 1))
        region.append(slice(start, draw(st.integers(start + 1, n))))
    return region, shape, draw(st.tuples(edges, edges, edges)), draw(st.integers(0, 12)), draw(st.sampled_from([1, 2, 3, 8]))


@given(cuts())
def test_cores_partition_the_region(cut):
    region, shape, edge, halo, multiple = cut
    visits = np.zeros(shape, int)
    for tile in make_tiles(region, shape, edge, halo, multiple):
        visits[tile.core] += 1
        assert all(0 < c.stop - c.start <= e for c, e in zip(tile.core, edge, strict=True))
    expected = np.zeros(shape, int)
    expected[tuple(region)] = 1
    np.testing.assert_array_equal(visits, expected)


@given(cuts())
def test_margins_are_whole_anchored_and_inside_the_volume(cut):
    region, shape, edge, halo, multiple = cut
    for tile in make_tiles(region, shape, edge, halo, multiple):
        for core, padded, n in zip(tile.core, tile.padded, shape, strict=True):
            assert 0 <= padded.start <= core.start
            assert core.stop <= padded.stop <= n
            assert padded.start % multiple == 0
            assert padded.stop % multiple == 0 or padded.stop == n
            # The margin is there wherever the volume is, and is not larger than anchoring needs.
            assert padded.start == 0 or halo <= core.start - padded.start < halo + multiple
            assert padded.stop == n or halo <= padded.stop - core.stop < halo + multiple


@given(cuts())
def test_inside_finds_the_core_in_the_padded_tile(cut):
    region, shape, edge, halo, multiple = cut
    numbers = np.arange(np.prod(shape)).reshape(shape)
    for tile in make_tiles(region, shape, edge, halo, multiple):
        padded = numbers[tile.padded]
        assert padded.size == tile.voxels
        np.testing.assert_array_equal(padded[tile.inside()], numbers[tile.core])


def test_cores_are_even_and_ordered():
    tiles = make_tiles([slice(0, 10), slice(0, 4), slice(3, 10)], (10, 4, 12), (4, 4, 4), 2, 1)
    assert [tuple((c.start, c.stop) for c in t.core) for t in tiles[:3]] == [
        ((0, 3), (0, 4), (3, 6)),
        ((0, 3), (0, 4), (6, 10)),
        ((3, 6), (0, 4), (3, 6)),
    ]
    lengths = {t.core[0].stop - t.core[0].start for t in tiles}
    assert lengths == {3, 4}


def test_one_tile_where_it_fits():
    tiles = make_tiles([slice(0, 7)] * 3, (7, 7, 7), (7, 9, 100), 3, 8)
    whole = (slice(0, 7),) * 3
    assert tiles == [Tile(whole, whole)]


def test_tiles_are_frozen():
    tile = make_tiles([slice(0, 2)] * 3, (2, 2, 2), (2, 2, 2), 0, 1)[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        tile.core = ()
