from __future__ import annotations

import errno
import json
import os
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from napari_mrsr.errors import InputError, OutputError
from napari_mrsr.io import WRITABLE, read_sidecar, read_volume, require_writable, sidecar_path, write_json, write_volume, write_whole
from napari_mrsr.volume import Source, Volume


def source_image(affine, kind=nib.Nifti1Image, codes=(2, 1), **fields):
    """Volume read from an in-memory file header of that kind."""
    data = np.random.default_rng(1).uniform(0, 1000, (5, 6, 7)).astype(np.float32)
    image = kind(data, affine)
    if kind is not nib.MGHImage:
        image.header.set_xyzt_units("mm", "sec")
        for key, value in fields.items():
            image.header[key] = value
        image.set_qform(affine, codes[1])
        image.set_sform(affine, codes[0])
    return Volume(data, affine, source=Source(header=image.header.copy()))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("suffix", WRITABLE)
def test_round_trip_in_every_storage_order(tmp_path, storage_orders, store, make_volume, suffix):
    truth = make_volume((5, 6, 7), (0.7, 0.9, 3.0), (7, -11, 13))
    data = truth.data.astype(np.float32)
    path = tmp_path / f"scan{suffix}"
    for order in storage_orders:
        stored, affine = store(data, truth.affine, *order)
        assert write_volume(Volume(stored, affine), path, overwrite=True) == [path]
        image = nib.load(path)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), stored)
        np.testing.assert_allclose(image.affine, affine, atol=2e-5)
        assert image.get_data_dtype().newbyteorder("=") == np.float32
        again = read_volume(path)
        np.testing.assert_array_equal(again.data, data)
        np.testing.assert_allclose(again.affine, truth.affine, atol=2e-5)
        if suffix not in (".mgz", ".mgh"):
            np.testing.assert_allclose(image.get_qform(), affine, atol=1e-4)
            assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
            assert image.header.get_xyzt_units()[0] == "mm"


def test_written_files_are_all_there_and_nothing_else(tmp_path, make_volume):
    volume = make_volume((4, 5, 6)).with_record(model="cubic")
    for suffix, expected in (
        (".nii.gz", ["a.json", "a.nii.gz"]),
        (".hdr", ["a.hdr", "a.img", "a.json"]),
        (".img", ["a.hdr", "a.img", "a.json"]),
        (".mgz", ["a.json", "a.mgz"]),
    ):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        written = write_volume(volume, folder / f"a{suffix}")
        assert written == [folder / f"a{suffix}", folder / "a.json"]
        assert names(folder) == expected


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(np.float64, np.float32), (np.float16, np.float32), (np.float32, np.float32), (np.uint8, np.uint8), (np.int16, np.int16), (bool, np.uint8)],
)
def test_number_types(tmp_path, make_volume, dtype, stored):
    volume = make_volume((4, 5, 6))
    volume = volume.replace(data=(volume.data > 500).astype(dtype) if dtype is bool else (volume.data / 10).astype(dtype))
    for suffix in (".nii", ".mgh"):
        write_volume(volume, tmp_path / f"a{suffix}")
        image = nib.load(tmp_path / f"a{suffix}")
        assert image.get_data_dtype().newbyteorder("=") == stored
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.data.astype(stored))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".hdr"])
def test_header_facts_of_the_source_are_kept(tmp_path, make_affine, suffix):
    affine = make_affine((1, 1, 2), (5, 6, 7))
    volume = source_image(affine, codes=(4, 3), intent_code=1005, intent_p1=2.5, intent_name=b"z", aux_file=b"table.txt", descrip=b"scanner text")
    write_volume(volume, tmp_path / f"a{suffix}", description="napari-mrsr: cubic x2")
    header = nib.load(tmp_path / f"a{suffix}").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 3)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert (int(header["intent_code"]), float(header["intent_p1"]), bytes(header["intent_name"]).rstrip(b"\0")) == (1005, 2.5, b"z")
    assert bytes(header["aux_file"]).rstrip(b"\0") == b"table.txt"
    assert bytes(header["descrip"]).rstrip(b"\0") == b"napari-mrsr: cubic x2"
    assert (float(header["cal_min"]), float(header["cal_max"])) == (0, 0)


def test_database_fields_of_the_source_are_kept(tmp_path, make_affine):
    write_volume(source_image(make_affine(), db_name=b"subject 7"), tmp_path / "a.nii")
    assert bytes(nib.load(tmp_path / "a.nii").header["db_name"]).rstrip(b"\0") == b"subject 7"


def test_description_is_cut_to_the_field(tmp_path, make_affine):
    write_volume(source_image(make_affine()), tmp_path / "a.nii", description="x" * 200)
    assert bytes(nib.load(tmp_path / "a.nii").header["descrip"]).rstrip(b"\0") == b"x" * 79
    write_volume(source_image(make_affine(), descrip=b"scanner"), tmp_path / "b.nii", description="")
    assert bytes(nib.load(tmp_path / "b.nii").header["descrip"]).rstrip(b"\0") == b"scanner"
    write_volume(source_image(make_affine()), tmp_path / "c.nii", description="größer ×2")
    assert bytes(nib.load(tmp_path / "c.nii").header["descrip"]).rstrip(b"\0") == b"gr??er ?2"


@pytest.mark.parametrize(("codes", "written"), [((2, 0), (2, 2)), ((0, 3), (3, 3)), ((1, 2), (1, 2))])
def test_form_codes(tmp_path, make_affine, codes, written):
    write_volume(source_image(make_affine((1, 1, 2), (5, 6, 7)), codes=codes), tmp_path / "a.nii")
    header = nib.load(tmp_path / "a.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == written
    np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-4)


def test_unknown_time_unit_of_the_source_does_not_stop_writing(tmp_path, make_affine):
    volume = source_image(make_affine())
    volume.source.header["xyzt_units"] = 2 + 56
    write_volume(volume, tmp_path / "a.nii")
    assert nib.load(tmp_path / "a.nii").header.get_xyzt_units()[0] == "mm"


def test_nifti2_stays_nifti2(tmp_path, make_affine):
    write_volume(source_image(make_affine(), nib.Nifti2Image), tmp_path / "a.nii.gz")
    assert isinstance(nib.load(tmp_path / "a.nii.gz"), nib.Nifti2Image)
    write_volume(source_image(make_affine(), nib.Nifti2Image), tmp_path / "b.hdr")
    assert isinstance(nib.load(tmp_path / "b.hdr"), nib.Nifti2Pair)


def test_sheared_affine_keeps_its_sform_and_drops_the_qform(tmp_path, make_affine):
    affine = make_affine((1, 1, 2), (5, 6, 7))
    affine[:3, 2] += 0.4 * affine[:3, 1]
    volume = source_image(np.eye(4)).replace(affine=affine)
    write_volume(volume, tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(image.get_sform(), affine, atol=1e-5)
    assert int(image.header["qform_code"]) == 0
    assert int(image.header["sform_code"]) == 2
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, affine, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["base_int16.nii.gz", "left_handed.nii.gz", "oblique_int16.mgz", "units_metre.nii.gz", "uint8_slope_inter.nii.gz", "nifti2.nii.gz"]
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_real_files_are_written_where_they_were(tmp_path, shared_data, name, suffix):
    volume = read_volume(shared_data(f"odd/derived/{name}"))
    volume = volume.replace(data=volume.data.astype(np.float32) * 0.5)
    write_volume(volume, tmp_path / f"a{suffix}")
    again = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
    assert again.source.axcodes == volume.source.axcodes
    image, source = nib.load(tmp_path / f"a{suffix}"), nib.load(shared_data(f"odd/derived/{name}"))
    assert image.shape == source.shape
    factor = 1000 if "metre" in name else 1
    np.testing.assert_allclose(image.affine[:3], source.affine[:3] * factor, atol=1e-4)


def test_sub_block_of_another_voxel_size_in_an_mgh_source(tmp_path, make_affine):
    """Geometry fields of an MGH header must come from the new volume, not from the source."""
    volume = source_image(make_affine((1, 1, 1), (5, 6, 7)), nib.MGHImage)
    fine = volume.replace(data=np.zeros((9, 6, 3), np.float32) + 1, affine=volume.affine @ np.diag([0.5, 1, 3, 1]))
    write_volume(fine, tmp_path / "a.mgz")
    again = read_volume(tmp_path / "a.mgz")
    assert again.shape == (9, 6, 3)
    np.testing.assert_allclose(again.affine, fine.affine, atol=1e-4)


# --- nothing lost -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITABLE)
def test_nothing_is_overwritten_without_being_told(tmp_path, make_volume, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already and is kept; choose another name or pass --overwrite") as caught:
        write_volume(make_volume((3, 3, 3)), path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == [path.name]
    write_volume(make_volume((3, 3, 3)), path, overwrite=True)
    assert read_volume(path).shape == (3, 3, 3)


def test_other_half_of_a_pair_is_not_overwritten(tmp_path, make_volume):
    (tmp_path / "a.img").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"a\.img exists already and is kept"):
        write_volume(make_volume((3, 3, 3)), tmp_path / "a.hdr")
    assert (tmp_path / "a.img").read_bytes() == b"precious"
    assert names(tmp_path) == ["a.img"]


def test_sidecar_is_not_overwritten_and_the_image_waits_for_it(tmp_path, make_volume):
    (tmp_path / "a.json").write_text('{"EchoTime": 1}')
    volume = make_volume((3, 3, 3)).with_record(model="cubic")
    with pytest.raises(OutputError, match=r"a\.json exists already and is kept"):
        write_volume(volume, tmp_path / "a.nii.gz")
    assert names(tmp_path) == ["a.json"]
    write_volume(volume, tmp_path / "a.nii.gz", sidecar=False)
    assert (tmp_path / "a.json").read_text() == '{"EchoTime": 1}'


def test_old_sidecar_does_not_describe_a_new_image(tmp_path, make_volume):
    path = tmp_path / "a.nii"
    write_volume(make_volume((3, 3, 3)).with_record(degradation={"protocol": "kspace", "scale": 2}), path)
    write_volume(make_volume((4, 4, 4)), path, overwrite=True)
    assert "degradation" not in read_volume(path).record


def test_other_entries_of_a_sidecar_survive_overwriting(tmp_path, make_volume):
    path = tmp_path / "a.nii"
    (tmp_path / "a.json").write_text('{"EchoTime": 0.1, "napari_mrsr": {"model": "old"}}')
    write_volume(make_volume((3, 3, 3)).with_record(model="new"), path, overwrite=True)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["napari_mrsr"] == {"model": "new"}
    assert content.get("EchoTime") == 0.1


@pytest.mark.parametrize("suffix", [".nii.gz", ".hdr", ".mgz"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [True, False])
def test_a_file_is_whole_or_absent(tmp_path, make_volume, monkeypatch, suffix, error, before):
    path = tmp_path / f"a{suffix}"
    if before:
        write_volume(make_volume((3, 3, 3)), path)
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def half(_image, target):
        target.write_bytes(b"half of a file")
        raise error

    monkeypatch.setattr(nib, "save", half)
    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)) as caught:
        write_volume(make_volume((4, 4, 4)).with_record(model="x"), path, overwrite=True)
    if isinstance(error, OSError):
        assert "could not be written: No space left on device." in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == old


def test_refusals_have_a_sentence_each(tmp_path, make_volume, monkeypatch):
    volume = make_volume((3, 3, 3))
    with pytest.raises(OutputError, match=r"The folder .*missing does not exist; create it first\."):
        write_volume(volume, tmp_path / "missing" / "a.nii")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(OutputError, match="is a folder; give a file name"):
        write_volume(volume, tmp_path / "folder.nii")
    for name in ("a.png", "a", ".nii", "a.hdr.gz"):
        with pytest.raises(OutputError, match="unknown image type; end the name in"):
            write_volume(volume, tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(OutputError, match="No permission to write into"):
            write_volume(volume, tmp_path / "a.nii")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
        big = volume.replace(data=np.zeros((100, 100, 100), np.float32))
        with pytest.raises(OutputError, match=r"has 1 MiB free, a\.nii needs about 4 MiB"):
            write_volume(big, tmp_path / "a.nii")
    assert names(tmp_path) == ["folder.nii"]


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may write everywhere")
def test_read_only_folder(tmp_path, make_volume):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="No permission to write into"):
            write_volume(make_volume((3, 3, 3)), tmp_path / "a.nii")
    finally:
        tmp_path.chmod(0o700)


def test_write_whole_moves_only_at_the_end(tmp_path):
    target = tmp_path / "a.txt"
    with write_whole(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.name == "a.txt"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]

    def fail():
        with write_whole(target, overwrite=True) as temporary:
            temporary.write_text("newer")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]
    assert require_writable(tmp_path / "b.txt") == tmp_path / "b.txt"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "a.txt"

    def race():
        with write_whole(target) as temporary:
            temporary.write_text("ours")
            target.write_text("theirs")

    with pytest.raises(OutputError, match="exists already"):
        race()
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["a.txt"]


# --- sidecar ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.hdr", "scan.img", "scan.mgz", "scan.mgh", "scan.NII.GZ"])
def test_sidecar_names(tmp_path, name):
    assert sidecar_path(tmp_path / name) == tmp_path / "scan.json"
    assert sidecar_path(tmp_path / "a.b.nii.gz") == tmp_path / "a.b.json"


def test_record_travels_with_the_file(tmp_path, make_volume):
    record = {"degradation": {"protocol": "gaussian", "scale": 2, "noise": 0.5, "axis": None}, "model": "cubic"}
    write_volume(make_volume((3, 3, 3)).replace(record=record), tmp_path / "a.nii.gz")
    assert read_sidecar(tmp_path / "a.nii.gz") == record
    assert read_volume(tmp_path / "a.nii.gz").record == record
    assert read_sidecar(tmp_path / "b.nii.gz") == {}


@pytest.mark.parametrize("content", ["", "{", "not json", '{"a": }', b"\xff\xfe\x00"])
def test_broken_sidecar_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"sidecar file .* cannot be read as JSON .*repair or remove it") as caught:
        read_sidecar(tmp_path / "a.nii.gz")
    assert "\n" not in str(caught.value)


def test_json_is_written_whole(tmp_path):
    path = tmp_path / "a.json"
    assert write_json({"b": [1, 2.5, None]}, path) == path
    assert json.loads(path.read_text()) == {"b": [1, 2.5, None]}
    with pytest.raises(OutputError, match="exists already"):
        write_json({}, path)
    with pytest.raises(OutputError, match="no JSON form"):
        write_json({"b": float("nan")}, path, overwrite=True)
    assert json.loads(path.read_text()) == {"b": [1, 2.5, None]}
    assert names(tmp_path) == ["a.json"]


def test_a_record_that_is_no_json_leaves_nothing_half_written(tmp_path, make_volume):
    with pytest.raises((OutputError, TypeError, ValueError)):
        write_volume(make_volume((3, 3, 3)).with_record(bad=float("nan")), tmp_path / "a.nii")
    assert names(tmp_path) == []
