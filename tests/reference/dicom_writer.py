"""A minimal DICOM whole slide image: one file per level, tiles uncompressed or as JPEG."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

__all__ = ["jpeg_of", "write_dicom_level"]

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage


def write_dicom_level(
    path: Path,
    pixels: np.ndarray,
    *,
    series: str,
    level: int,
    mpp: float,
    side: int = 128,
    is_jpeg: bool = False,
) -> None:
    """Write one level of a slide; all levels of a slide share `series`, a DICOM UID."""
    height, width = pixels.shape[:2]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _WHOLE_SLIDE
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit if is_jpeg else ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = _WHOLE_SLIDE, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = series, generate_uid(), "SM"
    origin, kind = ("ORIGINAL", "NONE") if level == 0 else ("DERIVED", "RESAMPLED")
    data.ImageType = [origin, "PRIMARY", "VOLUME", kind]
    data.SamplesPerPixel, data.PlanarConfiguration, data.PixelRepresentation = 3, 0, 0
    data.PhotometricInterpretation = "YBR_FULL_422" if is_jpeg else "RGB"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.Rows = data.Columns = side
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.DimensionOrganizationType, data.NumberOfOpticalPaths, data.TotalPixelMatrixFocalPlanes = (
        "TILED_FULL",
        1,
        1,
    )
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            frame = np.zeros((side, side, 3), dtype=np.uint8)
            part = pixels[top : top + side, left : left + side]
            frame[: part.shape[0], : part.shape[1]] = part
            frames.append(jpeg_of(frame) if is_jpeg else frame.tobytes())
    data.NumberOfFrames = len(frames)
    data.PixelData = encapsulate(frames) if is_jpeg else b"".join(frames)
    data.save_as(path, enforce_file_format=True)


def jpeg_of(frame: np.ndarray) -> bytes:
    """Encode a frame as `write_dicom_level` does."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=95, subsampling="4:2:2")
    return file.getvalue()
