"""Difference maps of the slice on view: pairs of images on one lattice, made ready once, cut lazily."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Layer
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import align, require_finite
from napari_mrsr.evaluation.fit import Fit, is_empty, spline_slice, spline_weights
from napari_mrsr.evaluation.maps import DIFFERENCES, difference_slice, shared_limits
from napari_mrsr.gui.dock import in_background
from napari_mrsr.gui.session import Session
from napari_mrsr.intensity import intensity_range
from napari_mrsr.planes import Picture, Plane, Section, Space, cut
from napari_mrsr.volume import Volume

SAMPLED = (0.35, 0.5, 0.65)
"""Depths, as shares of the volume, of the slices that the shared range of a map is taken from."""

Key = tuple[str, str, bytes]


@dataclass(frozen=True, eq=False)
class Pair:
    """Reference and candidate, or the sentence that says why they cannot be compared; neither while that is being found out.

    Attributes
    ----------
    reference, candidate : Volume or None
        On one lattice, unless there are weights.
    weights : three arrays or None
        From the candidate's samples to the reference's lattice (:func:`~napari_mrsr.evaluation.fit.spline_weights`).
    problem : str
    data_range : float
        R of ``mrsr-1``.
    """

    reference: Volume | None = None
    candidate: Volume | None = None
    weights: tuple[NDArray[np.float32], ...] | None = None
    problem: str = ""
    data_range: float = 1.0

    def flat(self, space: Space, plane: Plane, depth: float) -> tuple[Section, NDArray[Any]] | None:
        """Slice of the reference, and that of the candidate on the same lattice; None where the plane misses them."""
        assert self.reference is not None
        assert self.candidate is not None
        truth = cut(self.reference, space, plane, depth)
        if truth is None or truth.index is None or self.weights is None:
            image = cut(self.candidate, space, plane, depth)
            return None if truth is None or image is None else (truth, image.picture.data)
        return truth, spline_slice(self.candidate.data, self.weights, plane.slice_axis, truth.index)


class Differences(QObject):
    """Pairs of images of a session, on the reference's lattice.

    Pairs are made in the background, and `ready` is called then. Lattices that coincide up to whole voxels share the images' memory. Other
    candidates are resampled as :func:`napari_mrsr.evaluation.align.align` does: slice by slice as they are looked at, or, where they are rotated
    against the reference, once as a whole.
    """

    def __init__(self, session: Session, ready: Callable[[], None], parent: QObject) -> None:
        super().__init__(parent)
        self._session, self._ready = session, ready
        self._limits: dict[Key, tuple[list[Pair], tuple[float, float] | None]] = {}
        self._range: tuple[weakref.ref[Any] | None, float] = (None, 1.0)
        self._lock = threading.Lock()
        self._pairs: weakref.WeakKeyDictionary[Layer, dict[int, tuple[Volume, Volume, bool, Pair]]] = weakref.WeakKeyDictionary()

    def pair(self, reference: Layer, candidate: Layer, space: Space) -> Pair:
        """Two layers on one lattice, to be cut along the axes of `space`."""
        try:
            truth, image = self._session.volume(reference), self._session.volume(candidate)
        except InputError as error:
            return Pair(problem=str(error))
        known = self._pairs.setdefault(candidate, {}).get(id(reference))
        sliced = space.follows(truth)
        if known is not None and _same(known[0], truth) and _same(known[1], image) and known[2] == sliced:
            return known[3]
        pair = Pair()
        self._pairs[candidate][id(reference)] = truth, image, sliced, pair
        self._start(truth, image, sliced, candidate, id(reference))
        return pair

    def section(self, pair: Pair, kind: str, space: Space, plane: Plane, depth: float) -> Section | None:
        """Difference map of one slice; None where the plane misses the pair, or it is not ready."""
        if pair.reference is None or pair.candidate is None:
            return None
        found = pair.flat(space, plane, depth)
        if found is None:
            return None
        truth, image = found
        place = truth.picture.place
        shape = truth.picture.data.shape
        spacing = place.width / shape[0], place.height / shape[1]
        values = difference_slice(kind, truth.picture.data, image, spacing, pair.data_range)
        return Section(Picture(values, place), truth.index)

    def limits(self, pairs: list[Pair], kind: str, space: Space, plane: Plane) -> tuple[float, float] | None:
        """One window for a kind of map of several pairs, from a few slices of each; the one before, or None, while it is being found."""
        pairs = [pair for pair in pairs if pair.reference is not None]
        key = kind, plane.name, space.rotation.tobytes()
        known, found = self._limits.get(key, ([], None))
        if pairs != known:
            self._limits[key] = pairs, found
            put = partial(self._put, key, pairs)
            in_background(self._find, pairs, kind, space, plane, done=put, failed=lambda _: put((0.0, 1.0)), owner=self)
        return found

    def forget(self) -> None:
        """Let go of pairs that may have gone; windows stand until there are others."""
        self._limits = {key: ([], found) for key, (_, found) in self._limits.items()}

    def _find(self, pairs: list[Pair], kind: str, space: Space, plane: Plane) -> tuple[float, float]:
        maps = []
        for pair in pairs:
            assert pair.reference is not None
            low, high = space.extent(pair.reference)[:, plane.slice_axis]
            sections = (self.section(pair, kind, space, plane, low + share * (high - low)) for share in SAMPLED)
            maps += [section.picture.data for section in sections if section is not None]
        return shared_limits(maps, DIFFERENCES[kind].signed)

    def _put(self, key: Key, pairs: list[Pair], found: tuple[float, float]) -> None:
        if self._limits[key][0] == pairs:
            self._limits[key] = pairs, found
            self._ready()

    def _start(self, truth: Volume, image: Volume, sliced: bool, layer: Layer, key: int) -> None:
        def done(pair: Pair) -> None:
            self._pairs.setdefault(layer, {})[key] = truth, image, sliced, pair
            self._ready()

        in_background(self._made, truth, image, sliced, done=done, failed=lambda sentence: done(Pair(problem=sentence)), owner=self)

    def _made(self, truth: Volume, image: Volume, sliced: bool) -> Pair:
        require_finite(truth)
        require_finite(image)
        data_range = self._data_range(truth)
        fit = Fit.of(truth, image)
        block = fit.block(truth.shape)
        if is_empty(block):
            return Pair(problem=f"{image.name} and {truth.name} do not overlap.")
        if fit.offset is not None:
            x, y, z = fit.source_block(block)
            return Pair(truth.crop(block), image.crop((x, y, z)), data_range=data_range)
        inner = truth.crop(block)
        if not (sliced and fit.straight):
            return _aligned(truth, image, data_range)
        matrix = np.linalg.inv(image.affine) @ inner.affine
        return Pair(inner, image, spline_weights(matrix, inner.shape, image.shape), data_range=data_range)

    def _data_range(self, truth: Volume) -> float:
        with self._lock:  # pairs with one reference wait for one answer
            data, found = self._range
            if data is None or data() is not truth.data:
                found = intensity_range(truth.data)
                self._range = weakref.ref(truth.data), found
            return found


def _same(one: Volume, other: Volume) -> bool:
    return one.data is other.data and np.array_equal(one.affine, other.affine)


def _aligned(truth: Volume, image: Volume, data_range: float) -> Pair:
    aligned = align(truth, [image])
    moved = aligned.candidates[0]
    if aligned.covered is not None:
        moved = moved.replace(data=np.where(aligned.covered, moved.data, aligned.reference.data))
    return Pair(aligned.reference, moved, data_range=data_range)
