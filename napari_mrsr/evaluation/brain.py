"""Where the brain is: an automatic mask for T1, T2 and FLAIR, with or without scalp, as a start for editing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import ConvexHull

from napari_mrsr.errors import InputError
from napari_mrsr.evaluation.align import require_finite
from napari_mrsr.intensity import foreground_mask, require_content
from napari_mrsr.volume import Volume

Array = NDArray[Any]
Mask = NDArray[np.bool_]

SPACING = 2.0
"""mm between the samples the surface is fitted on."""
POINTS, STEPS = 1500, 800
INWARD, NEAR = 20, 10
"""mm below the surface that are searched for the darkest and the brightest tissue."""
FRACTION, STEP = 0.5, 0.05
CURVATURE = 6.0, 15.0
"""Radii in mm between which the surface is smoothed little and fully; larger than BET's 3.33 and 10, or it leaks along the orbits of T2."""
ZONE, RADIUS = 110.0, 95.0
"""mm below the top of the head that the brain is looked for in (faces and necks are bright too), and the largest radius of a head."""
FILLED, LEAST = 0.95, 0.2
"""An image with more foreground than this holds no air and no scalp; a surface with less than this share of the head is no brain."""
STRIPPED, SHELL = 0.05, 4.0
"""An image with less than this share of its foreground more than so many mm outside the surface has no scalp."""


def brain_mask(volume: Volume) -> Volume:
    """Brain with its fluid spaces, by a surface that grows until it meets the dark skull (BET: Smith, Human Brain Mapping 2002).

    A mesh inside the head is pushed outwards where the tissue below it is bright, inwards where it is dark, and kept smooth; edges of the field
    of view end it. Where next to nothing lies outside the surface (skull-stripped images, pieces of a brain) the foreground is the mask. No
    learning, no randomness; a few seconds. A start for editing: orbits may be let in on T2, strong shading lets in scalp, and fluid-filled
    lesions that touch the skull may be left out on T1.

    Parameters
    ----------
    volume : Volume
        Head in scanner units, top of the head in the field of view or cut straight.

    Returns
    -------
    Volume
        uint8, 1 inside, same lattice.

    Raises
    ------
    InputError
        If the image is constant, holds NaN or infinite values, or no brain is found.
    """
    require_finite(volume)
    require_content(volume.data, volume.name)
    image = _to_coarse(volume.data, volume.voxel_size)
    head = foreground_mask(image)
    inside = head if head.mean() > FILLED else _fill(_fit(image), image.shape)
    if inside.sum() < LEAST * head.sum():
        raise InputError(f"No brain was found in {volume.name}; paint a mask as a Labels layer instead.")
    outside = head & (ndimage.distance_transform_edt(~inside, sampling=SPACING) > SHELL)
    stripped = outside.sum() <= STRIPPED * head.sum()
    mask = foreground_mask(volume.data) if stripped else _to_fine(inside, volume.shape, volume.voxel_size)
    litres = float(mask.sum() * np.prod(volume.voxel_size) / 1e6)
    entry = {"kind": "brain mask", "image": volume.name, "skull_stripped": bool(stripped), "litres": round(litres, 3)}
    return volume.replace(data=mask.astype(np.uint8), name=f"{volume.name} brain", record={"mask": entry})


@dataclass(frozen=True, eq=False)
class _Sphere:
    """Even points on the unit sphere, outward triangles between them, and the mean over neighbours as a matrix."""

    points: Array
    triangles: NDArray[np.int_]
    neighbours: Any


@cache
def _sphere() -> _Sphere:
    index = np.arange(POINTS) + 0.5
    polar, turn = np.arccos(1 - 2 * index / POINTS), np.pi * (1 + 5**0.5) * index  # golden-angle spiral
    points = np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], 1)
    triangles = ConvexHull(points).simplices
    a, b, c = points[triangles].swapaxes(0, 1)
    inward = (np.cross(b - a, c - a) * a).sum(1) < 0
    triangles[inward] = triangles[inward][:, ::-1]
    edges = np.concatenate([triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    # Every edge belongs to two triangles of opposite sense, so both directions are there.
    graph = sparse.csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(POINTS, POINTS))
    return _Sphere(points, triangles, sparse.diags_array(1 / graph.sum(1)) @ graph)


def _fit(image: Array) -> Array:
    """Surface points in mm from the middle of voxel 0, (POINTS, 3)."""
    dark, bright = (float(v) for v in np.percentile(image, (2, 98)))
    threshold = dark + 0.1 * (bright - dark)
    head = image > threshold
    centre, radius = _start(np.minimum(image, bright) * head)
    grids = np.ogrid[tuple(slice(0, n) for n in image.shape)]
    distance = sum((SPACING * g - c) ** 2 for g, c in zip(grids, centre, strict=True))
    within = head & (distance < radius**2)
    typical = float(np.median(image[within])) if within.any() else bright
    sphere = _sphere()
    points = centre + 0.5 * radius * sphere.points
    depths = np.arange(INWARD)[:, None, None]
    low, high = CURVATURE
    middle, steepness = (1 / low + 1 / high) / 2, 6 / (1 / low - 1 / high)
    for _ in range(STEPS):
        normals, edge = _normals(points, sphere.triangles)
        pull = sphere.neighbours @ points - points
        across = (pull * normals).sum(1, keepdims=True)
        bend = 2 * np.abs(across) / edge**2
        below = ndimage.map_coordinates(image, ((points - depths * normals) / SPACING).reshape(-1, 3).T, order=1, cval=dark).reshape(INWARD, -1)
        darkest = np.clip(below.min(0), dark, typical)
        brightest = np.clip(below[:NEAR].max(0), threshold, typical)
        push = 2 * (darkest - (FRACTION * (brightest - dark) + dark)) / np.maximum(brightest - dark, 1e-6)
        smoothing = (1 + np.tanh(steepness * (bend - middle))) / 2
        points = points + 0.5 * (pull - across * normals) + (smoothing * across + STEP * edge * push[:, None]) * normals
    return points


def _start(weights: Array) -> tuple[Array, float]:
    """Centre of gravity in mm and radius of the upper part of a head."""
    area = (weights > 0).sum((0, 1))
    top = int(np.flatnonzero(area > 0.05 * area.max())[-1])
    weights[:, :, : max(0, top - round(ZONE / SPACING))] = 0
    radius = SPACING * (3 / (4 * np.pi) * (weights > 0).sum()) ** (1 / 3)
    return SPACING * np.array(ndimage.center_of_mass(weights)), float(min(RADIUS, radius))


def _normals(points: Array, triangles: NDArray[np.int_]) -> tuple[Array, float]:
    """Outward unit normals at the points, and the mean length of an edge in mm."""
    a, b, c = points[triangles].swapaxes(0, 1)
    faces = np.cross(b - a, c - a)
    normals = np.stack([np.bincount(triangles.ravel(), np.repeat(faces[:, k], 3), len(points)) for k in range(3)], 1)
    edge = np.sqrt(2 / 3**0.5 * np.linalg.norm(faces, axis=1).mean())
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9), float(edge)


def _fill(points: Array, shape: tuple[int, ...]) -> Mask:
    """Voxels inside a closed surface, folds thinner than 12 mm smoothed off."""
    steps = np.stack([w for w in np.mgrid[0:1:12j, 0:1:12j].reshape(2, -1).T if w.sum() <= 1])
    weights = np.column_stack([1 - steps.sum(1), steps])
    voxels = np.rint(np.einsum("wk,tkx->twx", weights, points[_sphere().triangles]).reshape(-1, 3) / SPACING).astype(int)
    margin = 2
    walls = np.zeros([n + 2 * margin for n in shape], bool)
    walls[tuple(np.clip(voxels + margin, 1, np.array(walls.shape) - 2).T)] = True
    inside = ndimage.binary_opening(np.pad(ndimage.binary_fill_holes(walls), 4, mode="edge"), iterations=3)
    inside = inside[tuple(slice(4 + margin, -4 - margin) for _ in shape)]
    parts, count = ndimage.label(inside)
    return np.asarray(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])) if count > 1 else inside


def _to_coarse(data: Array, voxel_size: tuple[float, ...]) -> NDArray[np.float32]:
    factors = np.array(voxel_size) / SPACING
    smooth = ndimage.gaussian_filter(data.astype(np.float32), np.maximum(0, 0.5 * (1 / factors - 1)))
    shape = tuple(int(n) for n in np.ceil(np.array(data.shape) * factors))
    return np.asarray(ndimage.affine_transform(smooth, 1 / factors, 0.5 / factors - 0.5, shape, order=1, mode="nearest"))


def _to_fine(mask: Mask, shape: tuple[int, ...], voxel_size: tuple[float, ...]) -> Mask:
    factors = np.array(voxel_size) / SPACING
    return np.asarray(ndimage.affine_transform(mask.astype(np.float32), factors, 0.5 * factors - 0.5, shape, order=1, mode="nearest") > 0.5)
