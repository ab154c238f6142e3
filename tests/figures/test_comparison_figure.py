from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.errors import InputError
from napari_mrsr.evaluation import compare
from napari_mrsr.evaluation.align import resample_onto
from napari_mrsr.figures import comparison_figure
from napari_mrsr.intensity import foreground_mask
from napari_mrsr.volume import Box, Volume

MM = 25.4


@pytest.fixture(scope="module")
def head(make_affine, smooth_array):
    """A textured ellipsoid in air on anisotropic voxels."""
    shape = (44, 52, 36)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    ball = np.linalg.norm((index - (np.array(shape) - 1) / 2) / np.array([18, 22, 15]), axis=-1) < 1
    return Volume(np.where(ball, 300 + smooth_array(shape, 1.5), 0), make_affine((1.0, 1.0, 1.4)), name="hr")


@pytest.fixture(scope="module")
def lr(head):
    return degrade(head, Degradation(scale=2))


@pytest.fixture(scope="module")
def candidates(head, lr):
    rng = np.random.default_rng(0)
    return [resample_onto(head, lr).replace(name="cubic"), head.replace(data=head.data + rng.normal(0, 10, head.shape), name="SR")]


@pytest.fixture(scope="module")
def figure(lr, candidates, head):
    return comparison_figure(lr, candidates, head)


def panels(figure, row):
    """Axes of a row by the name of their column."""
    return {a.get_label().split(": ")[1]: a for a in figure.axes if a.get_label().startswith(f"{row}: ")}


def texts(figure):
    figure.draw_without_rendering()
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def boxes(figure):
    return [(t, t.get_window_extent(figure.canvas.get_renderer())) for t in texts(figure)]


def shown(axes):
    """Pixels of one panel as drawn without letters and lines, (rows, columns) grey values, first row on top."""
    for artist in (*axes.texts, *axes.lines, *axes.patches):
        artist.set_visible(False)
    figure = axes.figure
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float).mean(-1)
    box = axes.get_window_extent()
    height = pixels.shape[0]
    return pixels[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)]


# --- layout --------------------------------------------------------------------------------------------------------------------------


def test_columns_and_rows(figure):
    assert list(panels(figure, "image")) == list(panels(figure, "zoom")) == ["LR", "cubic", "SR", "HR"]
    assert list(panels(figure, "error")) == ["cubic", "SR", "colour bar"]
    lefts = [[a.get_position().x0 for a in panels(figure, row).values()] for row in ("image", "zoom")]
    assert lefts[0] == sorted(lefts[0]) == lefts[1]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_text_is_whole_and_apart(lr, candidates, head, count, plane):
    names = ["cubic", "a very long name of a network of which much was written", "SR $x_2$", "back-projection"]
    some = [candidates[i % 2].replace(name=name) for i, name in enumerate(names[:count])]
    figure = comparison_figure(lr, some, head, plane=plane)
    width, height = figure.get_size_inches() * MM
    assert width <= 180 + 1e-6
    assert height <= 240
    found = boxes(figure)
    page = figure.bbox
    for text, box in found:
        assert text.get_fontsize() >= 7
        assert box.x0 >= page.x0, text
        assert box.x1 <= page.x1, text
        assert box.y0 >= page.y0, text
        assert box.y1 <= page.y1, text
    for i, (one, a) in enumerate(found):
        for other, b in found[i + 1 :]:
            assert not a.overlaps(b), (one, other)


def test_long_names_can_be_told_apart(lr, candidates, head):
    names = ["sub-arc2017_T1w cubic gaussian x2 (resampled)", "sub-arc2017_T1w back-projection gaussian x2 (resampled)"]
    figure = comparison_figure(lr, [c.replace(name=n) for c, n in zip(candidates, names, strict=True)], head)
    titles = [t.get_text() for t in figure.texts if t.get_fontweight() == "bold"]
    assert titles == ["LR", "cubic", "back-projection", "HR"]
    alike = ["x" * 60, "x" * 30 + "y" + "x" * 30]
    figure = comparison_figure(lr, [c.replace(name=n) for c, n in zip(candidates, alike, strict=True)], head)
    titles = [t.get_text() for t in figure.texts if t.get_fontweight() == "bold"]
    assert [t[:2] for t in titles[1:3]] == ["1:", "2:"]


def test_letters_lie_inside_their_panels(figure):
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    for row in ("image", "zoom"):
        for axes in panels(figure, row).values():
            frame = axes.get_window_extent()
            for text in axes.texts:
                box = text.get_window_extent(renderer)
                assert frame.x0 <= box.x0
                assert box.x1 <= frame.x1
                assert frame.y0 <= box.y0
                assert box.y1 <= frame.y1


def test_text_outside_panels_does_not_touch_pictures(figure):
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    for text in figure.texts:
        box = text.get_window_extent(renderer)
        assert not any(axes.get_window_extent().overlaps(box) for axes in figure.axes), text


def test_panels_do_not_overlap(figure):
    places = [a.get_window_extent() for a in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(places) for b in places[i + 1 :])


def test_users_matplotlib_settings_do_not_matter(lr, candidates, head, figure):
    expected = [(t.get_text(), t.get_fontsize(), t.get_color()) for t in texts(figure)]
    with mpl.rc_context({"font.size": 30, "text.color": "white", "xtick.color": "white", "ytick.labelsize": 25, "figure.facecolor": "black"}):
        other = comparison_figure(lr, candidates, head)
        assert [(t.get_text(), t.get_fontsize(), t.get_color()) for t in texts(other)] == expected
    assert other.get_facecolor() == (1, 1, 1, 1)


# --- numbers and words ---------------------------------------------------------------------------------------------------------------


def test_scores_and_their_meaning_are_written(lr, candidates, head, figure):
    result = compare(head, candidates)
    words = " ".join(t.get_text() for t in figure.texts)
    for score in result.results:
        assert f"PSNR {score.psnr:.2f} dB SSIM {score.ssim:.4f}" in words
    for part in ("convention mrsr-1", result.mask, f"range: 0 to {result.data_range:.6g}", result.region.description, result.ssim):
        assert part in words
    assert "1×1×1.4 mm" in words
    assert "2×2×2.8 mm" in words


def test_given_scores_are_used(lr, candidates, head):
    figure = comparison_figure(lr, candidates, head, comparison=compare(head, candidates, convention="volume-max"))
    assert "convention volume-max" in " ".join(t.get_text() for t in figure.texts)


def test_identical_candidate(lr, head):
    figure = comparison_figure(lr, [head.replace(name="SR")], head)
    assert "PSNR ∞ dB" in " ".join(t.get_text() for t in figure.texts)
    assert panels(figure, "error")["SR"].images[0].get_clim()[1] > 0


def test_images_share_one_window_and_errors_one_range(figure, candidates, head):
    top = np.percentile(head.data[foreground_mask(head.data)], 99.5)
    for row in ("image", "zoom"):
        for axes in panels(figure, row).values():
            assert axes.images[0].get_clim() == pytest.approx((0, top), rel=1e-5)
    errors = panels(figure, "error")
    assert errors["cubic"].images[0].get_clim() == errors["SR"].images[0].get_clim()
    assert errors["cubic"].images[0].get_cmap().name == "inferno"
    drawn = errors["SR"].images[0].get_array()
    index = 17
    assert pytest.approx(np.abs(candidates[1].data - head.data)[:, :, index], abs=1e-3) == drawn.T


# --- geometry ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_proportions_are_physical(lr, candidates, head, plane):
    figure = comparison_figure(lr, candidates, head, plane=plane)
    for row in ("image", "zoom", "error"):
        for name, axes in panels(figure, row).items():
            if name != "colour bar":
                box = axes.get_window_extent()
                across, up = abs(np.subtract(*axes.get_xlim())), abs(np.subtract(*axes.get_ylim()))
                assert across / box.width == pytest.approx(up / box.height)
    limits = {(a.get_xlim(), a.get_ylim()) for a in panels(figure, "image").values()}
    assert len(limits) == 1


@pytest.mark.parametrize(("plane", "letters"), [("axial", "RLPA"), ("coronal", "RLIS"), ("sagittal", "APIS")])
@pytest.mark.parametrize("show", ["radiological", "neurological"])
def test_orientation_letters(lr, candidates, head, plane, letters, show):
    if show == "neurological":
        letters = letters[1] + letters[0] + letters[2:]
    figure = comparison_figure(lr, candidates, head, plane=plane, show=show)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    for axes in panels(figure, "image").values():
        frame = axes.get_window_extent()
        places = {}
        for text in axes.texts:
            box = text.get_window_extent(renderer)
            places[text.get_text()] = ((box.x0 + box.x1) / 2 - frame.x0) / frame.width, ((box.y0 + box.y1) / 2 - frame.y0) / frame.height
        left, right, bottom, top = letters
        assert places[left][0] < 0.1 < 0.9 < places[right][0]
        assert places[bottom][1] < 0.1 < 0.9 < places[top][1]


MARKERS = {"R": (0, 1), "A": (1, 1), "S": (2, 1), "L": (0, -1), "P": (1, -1), "I": (2, -1)}
RADIOLOGICAL = {
    ("axial", "R"): "left",
    ("axial", "L"): "right",
    ("axial", "A"): "top",
    ("axial", "P"): "bottom",
    ("coronal", "R"): "left",
    ("coronal", "S"): "top",
    ("coronal", "I"): "bottom",
    ("sagittal", "A"): "left",
    ("sagittal", "P"): "right",
    ("sagittal", "S"): "top",
}


@pytest.mark.parametrize(("plane", "towards"), RADIOLOGICAL)
def test_a_marker_is_drawn_on_its_side(make_affine, store, plane, towards):
    """A bright spot placed by world coordinates, in a file stored the other way round, appears on the side the letters say."""
    affine = make_affine((1, 1, 1), (5, -4, 3), origin=(-15, -15, -15))
    index = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    axis, sign = MARKERS[towards]
    centre = world.reshape(-1, 3).mean(0)
    centre[axis] += 9 * sign
    data = np.where(np.linalg.norm(world - world.reshape(-1, 3).mean(0), axis=-1) < 15, 100.0, 0) + 0.001 * world[..., 0]
    data[np.linalg.norm(world - centre, axis=-1) < 3] = 1000
    hr = Volume(*store(data, affine, (1, 2, 0), (-1, 1, -1)), name="hr")
    lr = degrade(hr, Degradation(scale=2))
    figure = comparison_figure(lr, [hr.replace(name="SR")], hr, plane=plane)
    side = RADIOLOGICAL[plane, towards]
    for axes in panels(figure, "image").values():
        picture = shown(axes)
        bright = np.nonzero(picture > 0.7 * picture.max())
        up, across = (v.mean() / n for v, n in zip(bright, picture.shape, strict=True))
        place = {"left": across, "right": 1 - across, "top": up, "bottom": 1 - up}
        assert place[side] < 0.35
        assert place["top" if side in ("left", "right") else "left"] == pytest.approx(0.5, abs=0.15)


def test_neurological_is_the_mirror_image(lr, candidates, head):
    a, b = (comparison_figure(lr, candidates, head, show=show) for show in ("radiological", "neurological"))
    left, right = (panels(f, "error")["SR"] for f in (a, b))
    assert left.get_xlim() == right.get_xlim()[::-1]
    assert np.abs(shown(left)[:, ::-1] - shown(right)).mean() < 2


@pytest.mark.parametrize(("protocol", "scale"), [("gaussian", 2), ("gaussian", 3), ("kspace", 3), ("slice-profile", 4)])
@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_lr_shows_its_own_voxels_at_their_place(candidates, head, protocol, scale, plane):
    lr = degrade(head, Degradation(protocol=protocol, scale=scale))
    figure = comparison_figure(lr, candidates, head, plane=plane)
    (image,) = panels(figure, "image")["LR"].images
    slice_axis, across, up = {"axial": (2, 0, 1), "coronal": (1, 0, 2)}[plane]
    assert image.get_interpolation() == "nearest"
    assert image.get_array().shape == (lr.shape[up], lr.shape[across])
    # Voxel edges in mm from the centre of the reference's first voxel.
    edges = [(end - head.affine[:3, 3]) for end in (lr.box().lower, lr.box().upper)]
    expected = [edges[0][across], edges[1][across], edges[0][up], edges[1][up]]
    assert image.get_extent() == pytest.approx(expected, abs=1e-6)
    chosen = int(np.argmax(foreground_mask(head.data).sum((across, up))))
    world = head.affine @ [*(chosen if a == slice_axis else 0 for a in range(3)), 1]
    index = round((np.linalg.inv(lr.affine) @ world)[slice_axis])
    assert np.array_equal(image.get_array().T, np.take(lr.data, index, slice_axis))


def test_lr_on_turned_axes_is_sampled_at_the_reference_voxels(candidates, head, make_affine):
    affine = make_affine((2, 2, 2), (0, 0, 20), origin=(-25, 10, 5))
    data = np.random.default_rng(0).uniform(100, 1000, (24, 28, 26))
    figure = comparison_figure(Volume(data, affine, name="lr"), candidates, head)
    (image,) = panels(figure, "image")["LR"].images
    found = image.get_array().T
    assert found.shape == head.shape[:2]
    for voxel in ((20, 25), (5, 30), (40, 10)):
        place = np.linalg.inv(affine) @ head.affine @ [*voxel, 17, 1]
        assert found[voxel] == data[tuple(np.round(place[:3]).astype(int))]


def test_position_chooses_the_slice(lr, candidates, head):
    position = head.affine[2, 3] + 1.4 * 9.3
    figure = comparison_figure(lr, candidates, head, position=position)
    (image,) = panels(figure, "image")["HR"].images
    assert np.array_equal(image.get_array().T, head.data[:, :, 9].astype(np.float32))
    assert f"Axial slice at S = {head.affine[2, 3] + 1.4 * 9:.1f} mm" in figure.texts[0].get_text()


def test_zoom_box_in_world_millimetres(lr, candidates, head):
    lower = head.affine[:3, :3] @ [10, 20, 10] + head.affine[:3, 3]
    upper = head.affine[:3, :3] @ [19, 29, 20] + head.affine[:3, 3]
    figure = comparison_figure(lr, candidates, head, zoom=Box(tuple(lower), tuple(upper)))
    for axes in panels(figure, "zoom").values():
        assert axes.get_xlim() == pytest.approx((19.5, 9.5))
        assert axes.get_ylim() == pytest.approx((19.5, 29.5))
    (frame,) = panels(figure, "image")["SR"].patches
    assert frame.get_bbox().bounds == pytest.approx((9.5, 19.5, 10, 10))


def test_default_zoom_finds_the_detail(make_affine):
    data = np.full((60, 60, 12), 500.0)
    data[[0, -1]] = data[:, [0, -1]] = 0
    data[22:30, 34:42] += 200 * np.indices((8, 8)).sum(0)[..., None] % 400
    hr = Volume(data, make_affine(), name="hr")
    figure = comparison_figure(degrade(hr, Degradation(scale=2)), [hr.replace(data=data + 1)], hr)
    axes = panels(figure, "zoom")["HR"]
    right, left = axes.get_xlim()
    bottom, top = axes.get_ylim()
    assert left <= 22
    assert right >= 29
    assert bottom <= 34
    assert top >= 41


def test_region_of_interest_only(lr, candidates, head):
    roi = [c.crop([slice(10, 34), slice(12, 40), slice(8, 28)]) for c in candidates]
    figure = comparison_figure(lr, roi, head)
    image = panels(figure, "image")["HR"].images[0].get_array().T
    assert any(np.array_equal(image, head.data[10:34, 12:40, k].astype(np.float32)) for k in range(8, 28))
    assert "24 x 28 x 20 of the reference's" in " ".join(t.get_text() for t in figure.texts)


# --- bad input -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"plane": "oblique"}, "Unknown plane 'oblique': use one of axial, coronal, sagittal"),
        ({"show": "mirrored"}, "Unknown side convention 'mirrored'"),
        ({"position": 900.0}, r"No axial slice of hr lies at S = 900 mm: its slices run from 7\.1 to 56\.1 mm"),
        ({"zoom": Box((500, 500, 500), (510, 510, 510))}, "lies outside hr"),
    ],
)
def test_bad_options(lr, candidates, head, options, sentence):
    with pytest.raises(InputError, match=sentence):
        comparison_figure(lr, candidates, head, **options)


def test_bad_volumes(lr, candidates, head):
    with pytest.raises(InputError, match="room for 4 candidates, 5 were given"):
        comparison_figure(lr, candidates[:1] * 5, head)
    with pytest.raises(InputError, match="Nothing to compare"):
        comparison_figure(lr, [], head)
    affine = lr.affine.copy()
    affine[:3, 3] += 900
    with pytest.raises(InputError, match="hr and far do not overlap"):
        comparison_figure(lr.replace(affine=affine, name="far"), candidates, head)
    with pytest.raises(InputError, match="scores belong to other volumes"):
        comparison_figure(lr, candidates, head, comparison=compare(head, candidates[:1]))
    with pytest.raises(InputError, match="NaN"):
        comparison_figure(lr.replace(data=np.full(lr.shape, np.nan)), candidates, head)


def test_evaluation_needs_no_matplotlib_and_figures_no_pyplot():
    code = (
        "import sys, napari_mrsr.evaluation; heavy = {'matplotlib', 'torch', 'qtpy', 'napari'} & set(sys.modules); assert not heavy, heavy;"
        "import napari_mrsr.figures; heavy = {'matplotlib.pyplot', 'torch', 'qtpy', 'napari'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
