"""DICOM whole slide images: a folder, or any file of the series."""

import io

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom")

from dicom_writer import jpeg_of, write_dicom_level  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from spam.errors import SlideError  # noqa: E402
from spam.tiles import grid_slides, open_slide  # noqa: E402
from spam.tiles.slide_formats import OpenSlideSlide  # noqa: E402


@pytest.fixture
def picture(picture):
    """Even sizes: between the pixels of a level that is not just half as large, OpenSlide interpolates."""
    return picture[:306, :400]


def write_slide(folder, picture, **options):
    folder.mkdir(exist_ok=True)
    series = generate_uid()
    write_dicom_level(folder / f"{series[-5:]}_0.dcm", picture, series=series, level=0, mpp=0.5, **options)
    write_dicom_level(
        folder / f"{series[-5:]}_1.dcm", picture[::2, ::2], series=series, level=1, mpp=1.0, **options
    )
    return sorted(folder.glob(f"{series[-5:]}_*"))


def test_a_folder_and_any_of_its_files_are_the_slide(tmp_path, picture):
    files = write_slide(tmp_path / "dicom", picture)
    for path in (tmp_path / "dicom", *files):
        with open_slide(path) as slide:
            assert type(slide) is OpenSlideSlide
            assert slide.level_sizes == ((400, 306), (200, 153))
            assert slide.block_sizes == ((128, 128), (128, 128))
            assert slide.mpp == 0.5
            np.testing.assert_array_equal(slide.read(0, 0, 400, 306), picture)
            np.testing.assert_array_equal(
                slide.read(20, 30, 97, 89, level=1), picture[::2, ::2][30:119, 20:117]
            )
    assert grid_slides(tmp_path / "dicom") == (tmp_path / "dicom",)


def test_jpeg_tiles(tmp_path, picture):
    write_slide(tmp_path / "dicom", picture, is_jpeg=True)
    with open_slide(tmp_path / "dicom") as slide:
        for left, top in ((0, 0), (128, 128), (256, 0)):
            frame = np.ascontiguousarray(picture[top : top + 128, left : left + 128])
            decoded = Image.open(io.BytesIO(jpeg_of(frame)))
            np.testing.assert_array_equal(slide.read(left, top, 128, 128), np.asarray(decoded))


def test_a_folder_of_two_slides_is_none(tmp_path, picture):
    write_slide(tmp_path / "dicom", picture)
    write_slide(tmp_path / "dicom", picture)
    with pytest.raises(SlideError, match=r"DICOM files of one slide, but has '\d+_0\.dcm', '\d+_0\.dcm'"):
        open_slide(tmp_path / "dicom")


def test_loose_dicom_files_beside_others(tmp_path, picture):
    write_slide(tmp_path / "mixed", picture)
    (tmp_path / "mixed" / "notes.txt").write_text("text")
    with pytest.raises(SlideError, match=r"loose DICOM files \('\d+_0\.dcm', '\d+_1\.dcm'\)"):
        grid_slides(tmp_path / "mixed")


def test_damage(tmp_path, picture):
    files = write_slide(tmp_path / "dicom", picture, is_jpeg=True)
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[: len(whole) * 2 // 3])
    with open_slide(tmp_path / "dicom") as slide, pytest.raises(SlideError, match="cannot be decoded"):
        slide.read(0, 0, 400, 306)
    for file in files:
        file.write_bytes(whole[:140])
    with pytest.raises(SlideError, match=r"no whole slide image|not a readable"):
        open_slide(tmp_path / "dicom")
    with pytest.raises(SlideError, match=r"unknown format|not a readable"):
        open_slide(files[0])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("modality", "kind"),
    [("CT", CTImageStorage), ("MR", MRImageStorage), ("OT", SecondaryCaptureImageStorage)],
)
def test_dicom_that_is_no_slide_is_named(tmp_path, syntax, modality, kind):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = (
        kind,
        generate_uid(),
        syntax,
    )
    data = Dataset()
    data.file_meta, data.SOPClassUID, data.SOPInstanceUID, data.Modality = (
        meta,
        kind,
        meta.MediaStorageSOPInstanceUID,
        modality,
    )
    (tmp_path / "folder").mkdir()
    data.save_as(tmp_path / "folder" / "a.dcm", enforce_file_format=True)
    for path in (tmp_path / "folder" / "a.dcm", tmp_path / "folder"):
        with pytest.raises(SlideError, match="DICOM image.*'SM'"):
            open_slide(path)
