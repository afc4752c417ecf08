"""OME-Zarr of both versions: pixels, levels, pixel size, and folders that lost files."""

import json
import shutil

import numpy as np
import pytest
import zarr

from spam.errors import SlideError
from spam.tiles import open_slide
from spam.tiles.ome_zarr_slide import OmeZarrSlide

MICRO = {"type": "space", "unit": "micrometer"}


def axis_of(letter, space=MICRO):
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    return {"name": letter, **kinds.get(letter, space)}


def write(
    path, picture, *, axes="cyx", version="0.5", scale=0.5, space=MICRO, levels=2, inside="", **options
):
    """Write a picture as OME-Zarr, with levels of every second pixel; returns the folder."""
    is_v3 = version == "0.5"
    root = zarr.open_group(path, mode="w", zarr_format=3 if is_v3 else 2)
    options |= {} if is_v3 else {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    if inside:
        layout = {"bioformats2raw.layout": 3}
        root.attrs.update({"ome": layout} if is_v3 else layout)
    group = root.create_group(inside) if inside else root
    datasets = []
    for level in range(levels):
        pixels = np.atleast_3d(picture)[:: 2**level, :: 2**level]
        sides = {"y": pixels.shape[0], "x": pixels.shape[1], "c": pixels.shape[2]}
        order = ["yxc".index(a) for a in axes if a in sides]
        chunks = tuple({"y": 64, "x": 80}.get(a, 1) for a in axes)
        shape = tuple(sides.get(a, 1) for a in axes)
        array = group.create_array(str(level), shape=shape, dtype=pixels.dtype, chunks=chunks, **options)
        array[...] = (pixels.transpose(order) if len(order) == 3 else pixels).reshape(shape)
        steps = [scale * 2**level if a in "yx" else 1.0 for a in axes]
        transforms = [{"type": "scale", "scale": steps}]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    multiscales = [{"axes": [axis_of(letter, space) for letter in axes], "datasets": datasets}]
    group.attrs.update({"ome": {"multiscales": multiscales}} if is_v3 else {"multiscales": multiscales})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yxc"])
def test_pixels_levels_and_pixel_size(tmp_path, picture, version, axes):
    with open_slide(write(tmp_path / "a.ome.zarr", picture, axes=axes, version=version)) as slide:
        assert type(slide) is OmeZarrSlide
        assert slide.level_sizes == ((401, 307), (201, 154))
        assert slide.block_sizes == ((80, 64), (80, 64))
        assert (slide.mpp, slide.mpp_note) == (0.5, None)
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)
        np.testing.assert_array_equal(slide.read(59, 61, 97, 71, level=1), picture[::2, ::2][61:132, 59:156])


def test_the_first_of_several_images_and_shards(tmp_path, picture):
    for version in ("0.4", "0.5"):
        with open_slide(write(tmp_path / f"{version}.zarr", picture, version=version, inside="0")) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)
    with open_slide(write(tmp_path / "s.zarr", picture, shards=(3, 128, 160))) as slide:
        assert slide.block_sizes[0] == (80, 64)
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)


def test_grey_and_transparent(tmp_path, picture):
    grey = picture[..., 0]
    with open_slide(write(tmp_path / "grey.zarr", grey, axes="yx")) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), np.stack([grey] * 3, axis=-1))
    clear = np.dstack([picture, np.full(grey.shape, 0, dtype=np.uint8)])
    with open_slide(write(tmp_path / "clear.zarr", clear, config={"write_empty_chunks": True})) as slide:
        assert (slide.read(0, 0, 401, 307) == 255).all()


@pytest.mark.parametrize(
    ("scale", "space", "mpp", "words"),
    [
        (250.0, {"type": "space", "unit": "nanometer"}, 0.25, None),
        (0.0005, {"type": "space", "unit": "millimeter"}, 0.5, None),
        (0.5, {"type": "space"}, None, "(OME-Zarr scale 0.5 without a unit x 0.5 without a unit)"),
        (1.0, {"type": "space", "unit": "pixel"}, None, "scale 1 pixel"),
        (353.0, MICRO, None, "states 353 µm per pixel (OME-Zarr scale 353 micrometer"),
    ],
)
def test_scale_is_the_pixel_size_where_it_has_a_unit(tmp_path, picture, scale, space, mpp, words):
    with open_slide(write(tmp_path / "a.zarr", picture, scale=scale, space=space, levels=1)) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))
        assert words is None or words in slide.mpp_note


def test_a_scale_of_all_levels_counts_too(tmp_path, picture):
    path = write(tmp_path / "a.zarr", picture, levels=1)
    text = json.loads((path / "zarr.json").read_text())
    multiscales = text["attributes"]["ome"]["multiscales"][0]
    multiscales["coordinateTransformations"] = [{"type": "scale", "scale": [1.0, 3.0, 3.0]}]
    (path / "zarr.json").write_text(json.dumps(text))
    with open_slide(path) as slide:
        assert slide.mpp == 1.5
    del multiscales["coordinateTransformations"], multiscales["datasets"][0]["coordinateTransformations"]
    (path / "zarr.json").write_text(json.dumps(text))
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_note) == (None, "states no pixel size")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_lost_chunk_is_an_error_where_it_would_be_black(tmp_path, picture, version):
    path = write(tmp_path / "a.zarr", picture, version=version)
    # Channel 1, rows 128 to 191, columns 240 to 319.
    (path / "0" / ("c/1/2/3" if version == "0.5" else "1/2/3")).unlink()
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 240, 307), picture[:, :240])
        np.testing.assert_array_equal(slide.read(240, 0, 80, 128), picture[:128, 240:320])
        for region in ((239, 100, 2, 60), (319, 191, 5, 5)):
            with pytest.raises(SlideError, match=r"chunk 0/.*1/2/3 is missing.*copied whole"):
                slide.read(*region)
        np.testing.assert_array_equal(slide.read(0, 0, 201, 154, level=1), picture[::2, ::2])


def test_a_chunk_left_out_as_white_is_white(tmp_path, picture):
    path = write(tmp_path / "a.zarr", picture, fill_value=255)
    shutil.rmtree(path / "0" / "c" / "0")
    expected = picture.copy()
    expected[..., 0] = 255
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), expected)


@pytest.mark.parametrize("codec", ["default", "none", "gzip", "blosc"])
@pytest.mark.parametrize("kept", [0, 11, 200])
def test_a_chunk_cut_short_is_an_error(tmp_path, picture, codec, kept):
    codecs = {"none": None, "gzip": zarr.codecs.GzipCodec(), "blosc": zarr.codecs.BloscCodec()}
    options = {"compressors": codecs[codec]} if codec in codecs else {}
    path = write(tmp_path / "a.zarr", picture, **options)
    chunk = path / "0" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:kept])
    words = r"cannot be decoded at \(0, 0\) of level 0.*copied whole"
    with open_slide(path) as slide, pytest.raises(SlideError, match=words):
        slide.read(0, 0, 20, 20)


def test_what_is_no_picture_of_he_says_what_it_is(tmp_path, picture):
    deep = write(tmp_path / "deep.zarr", picture.astype(np.uint16))
    many = write(tmp_path / "many.zarr", np.concatenate([picture, picture[..., :2]], axis=2))
    stack = tmp_path / "stack.zarr"
    write(stack, picture, axes="zyxc", levels=1)
    shutil.rmtree(stack / "0")
    zarr.create_array(stack / "0", shape=(2, 30, 30, 3), dtype="uint8", chunks=(1, 30, 30, 3))
    for path, words in (
        (deep, "uint16 with axes 'cyx'"),
        (many, r"'cyx' and shape \(5, 307, 401\)"),
        (stack, r"'zyxc' and shape \(2, 30, 30, 3\)"),
    ):
        with pytest.raises(SlideError, match=rf"{words}.*8-bit"):
            open_slide(path)


def test_folders_that_are_not_ome_zarr(tmp_path, picture):
    zarr.open_group(tmp_path / "plain.zarr", mode="w")
    lost = write(tmp_path / "lost.zarr", picture)
    shutil.rmtree(lost / "1")
    torn = write(tmp_path / "torn.zarr", picture)
    (torn / "zarr.json").write_text("{")
    (tmp_path / "folder.ome.zarr").mkdir()
    for name, words in (
        ("plain.zarr", r"not a readable OME-Zarr.*'multiscales' is missing"),
        ("lost.zarr", r"not a readable OME-Zarr.*copied whole"),
        ("torn.zarr", "not a readable OME-Zarr"),
        ("folder.ome.zarr", "a folder, but neither an OME-Zarr"),
    ):
        with pytest.raises(SlideError, match=rf"{name}.*{words}"):
            open_slide(tmp_path / name)


def test_what_ome_zarr_py_writes(tmp_path, picture):
    pytest.importorskip("ome_zarr", minversion="0.18", reason="took pixel sizes in another way")
    writer = pytest.importorskip("ome_zarr.writer")
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w")
    axes, scale = [axis_of(letter) for letter in "cyx"], {"c": 1.0, "y": 0.25, "x": 0.25}
    writer.write_multiscale([np.moveaxis(picture, -1, 0)], group, axes=axes, scale=scale)
    with open_slide(tmp_path / "a.ome.zarr") as slide:
        assert slide.mpp == 0.25
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_of_several_images_the_largest_is_read(tmp_path, picture, version, place):
    small = np.ascontiguousarray(picture[::2, ::2])
    order = [small, small[::-1].copy()]
    order.insert(place, picture)
    for number, pixels in enumerate(order):
        write(
            tmp_path / f"{number}.zarr",
            pixels,
            version=version,
            inside=str(number),
            scale=0.5 if pixels is picture else 2.0,
        )
        shutil.copytree(tmp_path / f"{number}.zarr", tmp_path / "a.zarr", dirs_exist_ok=True)
    with open_slide(tmp_path / "a.zarr") as slide:
        assert (slide.level_sizes[0], slide.mpp) == ((401, 307), 0.5)
        np.testing.assert_array_equal(slide.read(0, 0, 401, 307), picture)
        assert slide.notes == (f"a.zarr holds 3 pictures; the largest, '{place}' of 401 x 307 px, is read",)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("level", ["0", "1"])
def test_a_level_without_chunks_is_refused_even_if_missing_chunks_are_white(
    tmp_path, picture, version, level
):
    path = write(tmp_path / "a.zarr", picture, version=version, fill_value=255)
    for file in (path / level).rglob("*"):
        if file.is_file() and file.name not in ("zarr.json", ".zarray", ".zattrs"):
            file.unlink()
    with pytest.raises(SlideError, match=rf"a\.zarr.*level '{level}' has no chunks.*copied whole"):
        open_slide(path)
