from __future__ import annotations

import gzip
import itertools
import logging
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from napari_mrsr.errors import InputError, MrsrError, SeveralVolumesError
from napari_mrsr.io import READABLE, read_volume

READ = [
    "derived/4d_one_volume.nii.gz",
    "derived/all_zero.nii.gz",
    "derived/base_int16.nii.gz",
    "derived/bigendian_int16.nii",
    "derived/bool_mask_uint8.nii.gz",
    "derived/constant.nii.gz",
    "derived/float32_negative.nii.gz",
    "derived/float64.nii.gz",
    "derived/int8.nii.gz",
    "derived/left_handed.nii.gz",
    "derived/nifti2.nii.gz",
    "derived/oblique_int16.mgz",
    "derived/qform_only.nii.gz",
    "derived/sform_only.nii.gz",
    "derived/single_slice_3d.nii.gz",
    "derived/thick_4mm_oblique.nii.gz",
    "derived/uint8_slope_inter.nii.gz",
    "derived/uncompressed_int16.nii",
    "derived/units_metre.nii.gz",
    "real/ct_sheared_affine.nii.gz",
    "real/flair_same_as_nrrd.nii.gz",
    "real/freesurfer_labels_int32.mgz",
    "real/freesurfer_norm_LIA_uint8.mgz",
    "real/no_qform_no_sform.nii.gz",
    *(f"real/orient/{code}.nii.gz" for code in ("AIL", "ARI", "IAR", "LIA", "LPS", "PSR", "RAS", "SPL")),
    "real/pair/ras.hdr",
    "real/pair/ras.img",
    "real/slope_2mm_PSR_uint8.nii.gz",
    "real/statmap_signed_float32.nii.gz",
    "real/tiny_7x5x3.nii.gz",
    "real/tiny_uncompressed.nii",
]
SEVERAL = {"derived/4d_three_volumes.nii.gz": 3, "real/asl_4d_int16.nii.gz": 10, "real/vector_4d_float.nii.gz": 3}
REFUSED = {
    "derived/5d.nii.gz": "5 dimensions",
    "derived/broken/bad_magic.nii": "not a readable NIfTI or MGH image",
    "derived/broken/empty.nii.gz": "the file is empty",
    "derived/broken/gz_but_named.nii": "gzip-compressed: rename it",
    "derived/broken/text_named_nii.nii.gz": "not gzip-compressed although its name says so",
    "derived/broken/truncated.nii.gz": "cut off or damaged",
    "derived/float32_nan_inf.nii.gz": "17 voxels are NaN or infinite",
    "derived/rgb24.nii.gz": "RGB colour image",
    "derived/zero_pixdim.nii": "voxel size of 0 x 0 x 0",
    "real/complex64.nii.gz": "complex values",
    "real/slice2d_T1.nii.gz": "2D image (150, 256)",
    "real/slice2d_T2.nii.gz": "2D image (75, 255)",
    "real/tiny.mgh": "matrix is singular",
}
SAME_AS_BASE = ["4d_one_volume.nii.gz", "bigendian_int16.nii", "float64.nii.gz", "nifti2.nii.gz", "oblique_int16.mgz", "qform_only.nii.gz"]
SAME_AS_BASE += ["sform_only.nii.gz", "uncompressed_int16.nii", "units_metre.nii.gz"]


def assert_one_sentence(error, path):
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert Path(path).name.split(".")[0] in text
    assert not re.search(r"Traceback|Exception|[A-Z]\w+Error\b|<class|object at 0x", text)
    assert len(text) < 400


def quiet_load(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nib.load(path)


# --- files from the wild ----------------------------------------------------------------------------------------------------------------


def test_lists_cover_the_folder(shared_data):
    folder = shared_data("odd")
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.endswith(READABLE)}
    assert found == {*READ, *SEVERAL, *REFUSED}


@pytest.mark.parametrize("name", READ)
def test_real_and_odd_files_read_like_nibabel(shared_data, name):
    path = shared_data(f"odd/{name}")
    volume = read_volume(path)
    image = quiet_load(path)
    if len(image.shape) == 4:
        image = image.slicer[..., 0]
    expected = nib.as_closest_canonical(image)
    affine = expected.affine.copy()
    if "units_metre" in name:
        affine[:3] *= 1000
    np.testing.assert_allclose(volume.affine, affine, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(volume.data, np.asanyarray(expected.dataobj), rtol=1e-6, atol=1e-6)
    assert volume.data.dtype.isnative
    assert volume.data.dtype in (np.float32, np.asanyarray(image.dataobj).dtype.newbyteorder("="))
    assert volume.source.axcodes == "".join(nib.aff2axcodes(image.affine))
    assert volume.source.path == str(path)
    assert volume.name == path.name.split(".")[0]
    stored, stored_affine = volume.to_storage()
    np.testing.assert_array_equal(stored, np.asanyarray(image.dataobj).astype(stored.dtype))
    np.testing.assert_allclose(stored_affine[:3, 3], image.affine[:3, 3] * (1000 if "units_metre" in name else 1), atol=1e-9)


@pytest.mark.parametrize("name", SAME_AS_BASE)
def test_one_volume_in_many_formats(shared_data, name):
    base, other = read_volume(shared_data("odd/derived/base_int16.nii.gz")), read_volume(shared_data(f"odd/derived/{name}"))
    np.testing.assert_array_equal(other.data, base.data)
    np.testing.assert_allclose(other.affine, base.affine, atol=2e-3)
    assert other.voxel_size == pytest.approx((0.7, 0.66667, 0.66667), abs=1e-4)


def test_slope_and_intercept_are_applied(shared_data):
    base, scaled = read_volume(shared_data("odd/derived/base_int16.nii.gz")), read_volume(shared_data("odd/derived/uint8_slope_inter.nii.gz"))
    assert scaled.data.max() == pytest.approx(1227.25)
    assert scaled.data.min() == pytest.approx(12.25)
    assert np.corrcoef(base.data.ravel(), scaled.data.ravel())[0, 1] > 0.9999


def test_eight_storage_orders_are_one_volume(shared_data):
    volumes = [read_volume(shared_data(name := f"odd/{n}")) for n in READ if "/orient/" in n]
    assert len(volumes) == 8
    assert {v.source.axcodes for v in volumes} == {"AIL", "ARI", "IAR", "LIA", "LPS", "PSR", "RAS", "SPL"}
    for volume in volumes[1:]:
        np.testing.assert_array_equal(volume.data, volumes[0].data)
        np.testing.assert_allclose(volume.affine, volumes[0].affine, atol=1e-3)
    assert name.endswith("SPL.nii.gz")


def test_mirrored_affine_moves_left_to_right(shared_data):
    base, mirrored = (read_volume(shared_data(f"odd/derived/{n}.nii.gz")) for n in ("base_int16", "left_handed"))
    np.testing.assert_array_equal(mirrored.data, base.data[::-1])
    assert mirrored.source.axcodes == "RPS"


def test_header_and_image_of_a_pair_both_open(shared_data):
    a, b = (read_volume(shared_data(f"odd/real/pair/ras.{s}")) for s in ("hdr", "img"))
    np.testing.assert_array_equal(a.data, b.data)
    np.testing.assert_array_equal(a.affine, b.affine)


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_files_are_refused_with_one_sentence(shared_data, name):
    path = shared_data(f"odd/{name}")
    with pytest.raises(InputError, match=re.escape(REFUSED[name])) as caught:
        read_volume(path)
    assert_one_sentence(caught.value, path)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", SEVERAL)
def test_several_volumes_are_asked_for_by_index(shared_data, name):
    path = shared_data(f"odd/{name}")
    with pytest.raises(SeveralVolumesError, match=f"holds {SEVERAL[name]} volumes; choose one by its index, 0 to {SEVERAL[name] - 1}") as caught:
        read_volume(path)
    assert caught.value.count == SEVERAL[name]
    assert_one_sentence(caught.value, path)
    last = SEVERAL[name] - 1
    volume = read_volume(path, index=last)
    expected = nib.as_closest_canonical(quiet_load(path).slicer[..., last])
    np.testing.assert_allclose(volume.data, np.asanyarray(expected.dataobj), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, expected.affine)
    assert volume.name.endswith(f"[{last}]")
    for wrong in (-1, last + 1):
        with pytest.raises(InputError, match=f"there is no volume {wrong}") as caught:
            read_volume(path, index=wrong)
        assert_one_sentence(caught.value, path)


def test_index_of_a_single_volume(shared_data):
    path = shared_data("odd/derived/4d_one_volume.nii.gz")
    np.testing.assert_array_equal(read_volume(path, index=0).data, read_volume(path).data)
    with pytest.raises(InputError, match="there is no volume 1; it holds 1"):
        read_volume(shared_data("odd/derived/base_int16.nii.gz"), index=1)


@pytest.mark.parametrize("name", ["derived/oblique.nrrd", "real/image.mha", "real/mrtrix.mif.gz", "real/enhanced_multiframe.dcm"])
def test_other_formats_are_refused_with_what_can_be_read(shared_data, name):
    path = shared_data(f"odd/{name}")
    with pytest.raises(InputError, match=r"cannot be read; use \.nii\.gz, \.nii, \.hdr, \.img, \.mgh or \.mgz\.") as caught:
        read_volume(path)
    assert_one_sentence(caught.value, path)


def test_doubtful_geometry_is_logged(shared_data, caplog):
    with caplog.at_level(logging.WARNING):
        assert "voxel sizes only" in read_volume(shared_data("odd/real/no_qform_no_sform.nii.gz")).source.geometry
        assert "check left and right" in caplog.text
        caplog.clear()
        read_volume(shared_data("odd/real/ct_sheared_affine.nii.gz"))
        assert "sheared by 18.5 degrees" in caplog.text
        caplog.clear()
        assert read_volume(shared_data("odd/derived/qform_only.nii.gz")).source.geometry == "qform (code 1)"
        assert read_volume(shared_data("odd/derived/sform_only.nii.gz")).source.geometry == "sform (code 2)"
        assert not caplog.text


# --- form choice ------------------------------------------------------------------------------------------------------------------------


def write_image(path, sform=None, qform=None, codes=(0, 0), units="mm", data=None, kind=nib.Nifti1Image):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5) if data is None else data
    image = kind(data, None)
    image.header.set_xyzt_units(units)
    image.header.set_zooms((2, 3, 4))
    if qform is not None:
        image.set_qform(qform, codes[1])
    if sform is not None:
        image.set_sform(sform, codes[0])
    image.header["sform_code"], image.header["qform_code"] = codes
    image.to_filename(path)
    return data


def turned(angle, voxel=(2, 3, 4), origin=(5, 6, 7)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", angle, degrees=True).as_matrix() @ np.diag(voxel)
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize(("codes", "expected"), [((2, 1), 10), ((1, 0), 10), ((0, 1), 20), ((4, 3), 10), ((0, 2), 20)])
def test_sform_then_qform(tmp_path, codes, expected):
    write_image(tmp_path / "a.nii", turned(10), turned(20), codes)
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.affine, turned(expected), atol=1e-5)
    assert volume.source.geometry == (f"sform (code {codes[0]})" if codes[0] else f"qform (code {codes[1]})")


@pytest.mark.parametrize(("units", "factor"), [("mm", 1), ("meter", 1000), ("micron", 1e-3), ("unknown", 1)])
def test_units(tmp_path, units, factor):
    write_image(tmp_path / "a.nii", turned(10), turned(10), (1, 1), units)
    expected = turned(10)
    expected[:3] *= factor
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr", ".img", ".mgh", ".mgz", ".NII", ".NII.GZ", ".MGZ"])
def test_suffixes(tmp_path, suffix):
    data = np.random.default_rng(0).uniform(0, 100, (3, 4, 5)).astype(np.float32)
    kind = nib.MGHImage if "mg" in suffix.lower() else nib.Nifti1Pair if suffix in (".hdr", ".img") else nib.Nifti1Image
    plain = tmp_path / f"plain{suffix.lower()}"
    nib.save(kind(data, turned(10)), plain)
    path = plain.rename(tmp_path / f"scan{suffix}") if suffix != suffix.lower() else plain
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, turned(10), atol=1e-5)


def test_paths(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="does not exist"):
        read_volume(tmp_path / "missing.nii")
    with pytest.raises(InputError, match="is a folder"):
        read_volume(tmp_path)
    (tmp_path / "scan.txt").write_text("x")
    with pytest.raises(InputError, match="file type cannot be read"):
        read_volume(tmp_path / "scan.txt")
    write_image(tmp_path / "scan.nii", turned(0), None, (1, 0))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="may not be read: check its permissions"):
        read_volume(tmp_path / "scan.nii")


def test_half_a_pair_is_refused(tmp_path, shared_data):
    shutil.copy(shared_data("odd/real/pair/ras.hdr"), tmp_path / "ras.hdr")
    shutil.copy(shared_data("odd/real/pair/ras.img"), tmp_path / "alone.img")
    for name in ("ras.hdr", "alone.img"):
        with pytest.raises(InputError) as caught:
            read_volume(tmp_path / name)
        assert_one_sentence(caught.value, name)


def test_broken_sidecar_is_named(tmp_path):
    write_image(tmp_path / "scan.nii", turned(0), None, (1, 0))
    (tmp_path / "scan.json").write_text("{not json")
    with pytest.raises(InputError, match=r"sidecar file .*scan\.json cannot be read as JSON") as caught:
        read_volume(tmp_path / "scan.nii")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "{}", '{"napari_mrsr": 3}', '{"EchoTime": 0.1}', '"text"'])
def test_foreign_sidecars_are_ignored(tmp_path, content):
    write_image(tmp_path / "scan.nii", turned(0), None, (1, 0))
    (tmp_path / "scan.json").write_text(content)
    assert read_volume(tmp_path / "scan.nii").record == {}


# --- hostile headers --------------------------------------------------------------------------------------------------------------------


def make_header(**fields):
    """A 348-byte NIfTI-1 header of a 3x4x5 int16 image at 2 mm, with fields replaced, straight into the bytes."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((3, 4, 5))
    header.set_zooms((2, 2, 2))
    header.set_xyzt_units("mm")
    header.set_sform(np.diag([2, 2, 2, 1.0]), 1)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    for key, value in fields.items():
        header[key] = value
    return header.binaryblock + b"\0" * 4


def shape_field(*sizes):
    return [len(sizes), *sizes, *([1] * (7 - len(sizes)))]


SHEAR = {"srow_x": [2, 0, 1.5, 0]}
HOSTILE = {
    "dims 32767^3 with 96 bytes": ({"dim": shape_field(32767, 32767, 32767)}, 96, "every dimension must be 1 to"),
    "dims 4000^3 with 96 bytes": ({"dim": shape_field(4000, 4000, 4000)}, 96, "truncated; the header promises"),
    "one byte missing": ({}, 119, "truncated; the header promises 120 bytes"),
    "no data at all": ({}, 0, "truncated"),
    "negative dim": ({"dim": shape_field(-5, 4, 5)}, 120, "every dimension must be 1 to"),
    "zero dim": ({"dim": shape_field(3, 0, 5)}, 120, "every dimension must be 1 to"),
    "7-D": ({"dim": [7, 3, 2, 1, 2, 1, 1, 5]}, 120, "7 dimensions"),
    "no dimensions": ({"dim": [0] + [1] * 7}, 120, ""),
    "dim[0] of 9": ({"dim": [9] + [1] * 7}, 120, ""),
    "dim[0] of -1": ({"dim": [-1] + [1] * 7}, 120, ""),
    "1-D": ({"dim": shape_field(60)}, 120, ""),
    "4-D of 32767 volumes": ({"dim": shape_field(3, 4, 5, 32767)}, 120, ""),
    "singular sform": ({"srow_x": [0, 0, 0, 0]}, 120, "matrix is singular"),
    "parallel sform rows": ({"srow_x": [2, 0, 0, 0], "srow_y": [2, 0, 0, 0]}, 120, "matrix is singular"),
    "NaN sform": ({"srow_x": [np.nan, 0, 0, 0]}, 120, "not a finite 4x4 matrix"),
    "Inf sform": ({"srow_z": [0, 0, 2, np.inf]}, 120, "not a finite 4x4 matrix"),
    "negative pixdim": ({"pixdim": [1, -2, 2, 2, 1, 1, 1, 1]}, 120, "voxel size of -2 x 2 x 2"),
    "zero pixdim": ({"pixdim": [1, 2, 0, 2, 1, 1, 1, 1]}, 120, "voxel size of 2 x 0 x 2"),
    "NaN pixdim": ({"pixdim": [1, 2, 2, np.nan, 1, 1, 1, 1]}, 120, "voxel size of 2 x 2 x nan"),
    "slope 1e38": ({"scl_slope": 1e38, "scl_inter": 1}, 120, "NaN or infinite"),
    "bad quaternion": ({"sform_code": 0, "qform_code": 1, "quatern_b": 3, "quatern_c": 3}, 120, ""),
    "NaN quaternion": ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, 120, ""),
    "NaN qoffset": ({"sform_code": 0, "qform_code": 1, "qoffset_x": np.nan}, 120, "not a finite 4x4 matrix"),
    "vox_offset NaN": ({"vox_offset": np.nan}, 120, ""),
    "vox_offset 1e9": ({"vox_offset": 1e9}, 120, "truncated"),
    "vox_offset -1000": ({"vox_offset": -1000}, 120, ""),
    "RGB24": ({"datatype": 128, "bitpix": 24}, 180, "RGB colour image"),
    "RGBA32": ({"datatype": 2304, "bitpix": 32}, 240, "RGB colour image"),
    "complex64": ({"datatype": 32, "bitpix": 64}, 480, "complex values"),
    "complex128": ({"datatype": 1792, "bitpix": 128}, 960, "complex values"),
    "binary datatype": ({"datatype": 1, "bitpix": 1}, 120, ""),
    "unknown datatype": ({"datatype": 77}, 120, ""),
    "unknown units": ({"xyzt_units": 5}, 120, None),
    "unknown time units": ({"xyzt_units": 2 + 56}, 120, None),
    "slope inf": ({"scl_slope": np.inf}, 120, None),
    "slope zero": ({"scl_slope": 0, "scl_inter": 5}, 120, None),
    "sheared sform": (SHEAR, 120, None),
    "unknown sform code": ({"sform_code": 99}, 120, None),
    "unknown qform code": ({"qform_code": -7}, 120, None),
    "unknown intent": ({"intent_code": 31000}, 120, None),
    "negative qfac": ({"sform_code": 0, "qform_code": 1, "pixdim": [-1, 2, 2, 2, 1, 1, 1, 1]}, 120, None),
    "qfac 0": ({"sform_code": 0, "qform_code": 1, "pixdim": [0, 2, 2, 2, 1, 1, 1, 1]}, 120, None),
}
DATA = np.arange(60, dtype=np.int16)


def hostile_file(folder, name, gz=False):
    fields, size, _ = HOSTILE[name]
    with np.errstate(all="ignore"):
        content = make_header(**fields) + (DATA.tobytes() * 8)[:size]
    path = folder / ("scan.nii.gz" if gz else "scan.nii")
    path.write_bytes(gzip.compress(content) if gz else content)
    return path


@pytest.mark.parametrize("gz", [False, True], ids=["nii", "gz"])
@pytest.mark.parametrize("name", [n for n in HOSTILE if HOSTILE[n][2] is not None])
def test_hostile_headers_are_refused_with_one_sentence(tmp_path, name, gz):
    path = hostile_file(tmp_path, name, gz)
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_one_sentence(caught.value, path)
    if not gz:
        assert HOSTILE[name][2] in str(caught.value)
    assert peak < 20 * 2**20


@pytest.mark.parametrize("name", [n for n in HOSTILE if HOSTILE[n][2] is None])
def test_harmless_oddities_are_read(tmp_path, name):
    volume = read_volume(hostile_file(tmp_path, name))
    assert volume.shape == (3, 4, 5)
    assert sorted(volume.data.ravel()) == list(range(60))
    if name == "sheared sform":
        np.testing.assert_allclose(volume.affine[0], [2, 0, 1.5, 0])


def test_promised_size_is_checked_before_memory_is_asked_for(tmp_path, monkeypatch):
    """A header whose data would fill the machine is refused although the file is long enough (a sparse file)."""
    path = tmp_path / "scan.nii"
    path.write_bytes(make_header(dim=shape_field(2000, 2000, 2000)))
    with path.open("r+b") as stream:
        stream.truncate(352 + 2 * 2000**3)
    available = type("Memory", (), {"available": 2**30})
    monkeypatch.setattr("psutil.virtual_memory", lambda: available)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"need 59\.6 GiB, 1\.0 GiB of memory are free") as caught:
        read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20
    assert_one_sentence(caught.value, path)


@pytest.mark.parametrize("cut", [10, 100, 300, 400])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz", ".nii", ".mgh"])
def test_truncated_files(tmp_path, suffix, cut):
    data = np.random.default_rng(0).integers(0, 1000, (9, 8, 7)).astype(np.int16)
    path = tmp_path / f"scan{suffix}"
    nib.save((nib.MGHImage if "mg" in suffix else nib.Nifti1Image)(data, np.eye(4)), path)
    content = path.read_bytes()
    assert len(content) > 500
    path.write_bytes(content[:cut])
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert_one_sentence(caught.value, path)


@pytest.mark.parametrize(
    ("offset", "value", "fragment"),
    [(4, 32767, "every dimension"), (4, -3, ""), (4, 2**31 - 1, "every dimension"), (20, 99, ""), (8, 0, "imension")],
)
def test_hostile_mgh_headers(tmp_path, offset, value, fragment):
    path = tmp_path / "scan.mgh"
    nib.save(nib.MGHImage(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = struct.pack(">i", value)
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=fragment) as caught:
        read_volume(path)
    assert_one_sentence(caught.value, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_bad_voxel_is_counted(tmp_path, value):
    data = np.ones((3, 4, 5), np.float32)
    data[1, 2, 3] = value
    write_image(tmp_path / "scan.nii", turned(0), None, (1, 0), data=data)
    with pytest.raises(InputError, match="1 voxels are NaN or infinite"):
        read_volume(tmp_path / "scan.nii")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_number_types(tmp_path, dtype, order):
    data = np.arange(60).reshape(3, 4, 5).astype(np.dtype(dtype).newbyteorder(order))
    image = nib.Nifti1Image(data, np.eye(4), nib.Nifti1Header(endianness=order), dtype=data.dtype)
    image.to_filename(tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.data, data)
    assert volume.data.dtype.isnative
    assert volume.data.dtype == (np.float32 if np.dtype(dtype).kind == "f" else dtype)


@pytest.fixture(scope="module")
def fuzz_seeds(tmp_path_factory):
    """One small file of each kind: bytes of the header block, bytes of the rest, suffix."""
    folder = tmp_path_factory.mktemp("fuzz")
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    seeds = []
    for kind, suffix, header in ((nib.Nifti1Image, ".nii", 352), (nib.Nifti2Image, ".nii", 544), (nib.MGHImage, ".mgh", 90)):
        path = folder / f"seed{suffix}"
        nib.save(kind(data, turned(10)), path)
        content = path.read_bytes()
        seeds.append((content[:header], content[header:], suffix))
    return folder, seeds


@settings(max_examples=300)
@given(st.integers(0, 2), st.lists(st.tuples(st.integers(0, 543), st.integers(0, 255)), min_size=1, max_size=4))
def test_random_header_bytes_only_ever_raise_our_errors(fuzz_seeds, kind, changes):
    folder, seeds = fuzz_seeds
    header, rest, suffix = seeds[kind]
    block = bytearray(header)
    # Positions beyond the block wrap around.
    for position, value in changes:
        block[position % len(block)] = value
    path = folder / f"scan{suffix}"
    path.write_bytes(bytes(block) + rest)
    try:
        volume = read_volume(path)
    except MrsrError as error:
        message = str(error)
    else:
        message = ""
        assert np.isfinite(volume.data).all()
        assert np.isfinite(volume.affine).all()
    assert "\n" not in message


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["nifti1", "nifti2", "mgh"])
def test_every_single_header_byte(fuzz_seeds, kind, monkeypatch):
    """Each byte of the header once at 0 and once at 0xff."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    folder, seeds = fuzz_seeds
    header, rest, suffix = seeds[kind]
    path = folder / f"byte{suffix}"
    escaped = []
    for position, value in itertools.product(range(len(header)), (0, 0xFF)):
        block = bytearray(header)
        block[position] = value
        path.write_bytes(bytes(block) + rest)
        try:
            read_volume(path)
        except MrsrError as error:
            escaped += [str(error)] if "\n" in str(error) else []
        except Exception as error:  # noqa: BLE001
            escaped.append(f"byte {position} = {value}: {type(error).__name__}: {error}")
    assert not escaped


def test_nothing_but_our_sentence_reaches_the_terminal(shared_data):
    """nibabel has a logger of its own that writes to stderr."""
    paths = [str(shared_data(f"odd/{n}")) for n in ("derived/zero_pixdim.nii", "derived/broken/bad_magic.nii", "real/complex64.nii.gz")]
    code = """
import sys
from napari_mrsr.errors import MrsrError
from napari_mrsr.io import read_volume
for path in sys.argv[1:]:
    try:
        read_volume(path)
    except MrsrError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
