"""Bad and odd images: what stands where a slide should."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from case_lab import HEIGHT, WIDTH, Case, Change, cases
from PIL import Image
from table_cases import column

_TIF = {"photometric": "rgb", "tile": (64, 64)}
_CENTIMETRE = 3  # TIFF's ResolutionUnit
_PER_CM = 20_000.0  # 0.5 µm per pixel


def image(name: str, make: Callable[[np.ndarray], bytes]) -> Change:
    """Write other bytes under another name, and let the table name it."""

    def change(folder: Path) -> None:
        pixels = np.asarray(Image.open(folder / "images" / "S1.png"))
        (folder / "images" / name).write_bytes(make(pixels))
        column("source_image", [name] * 16)(folder)

    return change


def pillow(kind: str, edit: Callable[[Image.Image], Image.Image] = lambda x: x, **more: Any) -> Change:
    def make(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        edit(Image.fromarray(pixels)).save(buffer, kind, **more)
        return buffer.getvalue()

    return image(f"a.{kind.lower()}", make)


def png_header(width: int, height: int, *, name: str = "a.png", depth: int = 8, colour: int = 2) -> Change:
    """A PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    content = zlib.compress(bytes(1000))
    return image(
        name,
        lambda _: (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
        ),
    )


def tiff(edit: Callable[[bytearray], Any] = lambda b: None, **more: Any) -> Change:
    """A tiled TIFF; `edit` changes its bytes."""

    def make(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, **{**_TIF, **more})
        content = bytearray(buffer.getvalue())
        edited = edit(content)
        return bytes(edited if isinstance(edited, bytes | bytearray) else content)

    return image("a.tif", make)


def tag(code: int, work: Callable[[int], int]) -> Callable[[bytearray], None]:
    """Change the value (or offset) of a tag of the first page, in place."""

    def edit(content: bytearray) -> None:
        at = struct.unpack_from("<I", content, 4)[0]
        for i in range(struct.unpack_from("<H", content, at)[0]):
            entry = at + 2 + 12 * i
            if struct.unpack_from("<H", content, entry)[0] == code:
                struct.pack_into(
                    "<I", content, entry + 8, work(struct.unpack_from("<I", content, entry + 8)[0])
                )

    return edit


def values(code: int, work: Callable[[int], int]) -> Callable[[bytearray], None]:
    """Change the 32-bit values that a tag of the first page points to."""

    def edit(content: bytearray) -> None:
        at = struct.unpack_from("<I", content, 4)[0]
        for i in range(struct.unpack_from("<H", content, at)[0]):
            found, kind, count, place = struct.unpack_from("<HHII", content, at + 2 + 12 * i)
            if found == code:
                form, size = ("<I", 4) if kind == 4 else ("<H", 2)
                for n in range(count):
                    old = struct.unpack_from(form, content, place + size * n)[0]
                    struct.pack_into(form, content, place + size * n, work(old))

    return edit


def _ome(text: str) -> Change:
    return tiff(description=text, metadata=None)


def _bytes(name: str, content: bytes) -> Change:
    return image(name, lambda _: content)


_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + ']><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image>&j;</Image></OME>'
)
_OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels {}/></Image></OME>'

BAD: dict[str, Any] = {
    **{
        f"{kind} of {words}": _bytes(f"a.{kind}", content)
        for kind in ("png", "tif", "svs", "jpg")
        for words, content in (("no bytes", b""), ("text", b"not an image\n" * 9))
    },
    "ndpi of zeros": _bytes("a.ndpi", bytes(3000)),
    "mrxs without its folder": _bytes("a.mrxs", b"\xff\xd8\xff\xe0" + bytes(100)),
    "czi of noise": _bytes("a.czi", b"ZISRAWFILE" + bytes(3000)),
    "dcm that is no slide": _bytes("a.dcm", bytes(128) + b"DICM" + bytes(200)),
    "dcm of noise": _bytes("a.dcm", bytes(128) + b"DICM" + bytes(range(256)) * 4),
    "png of half its bytes": image("a.png", lambda p: _png(p)[: len(_png(p)) // 2]),
    "png with a wrong checksum": image("a.png", lambda p: _png(p).replace(b"IDAT", b"IDAX", 1)),
    "png of 60,000 x 60,000": png_header(60_000, 60_000),
    "png of 10^5 x 10^5": png_header(100_000, 100_000),
    "png of 2^31 - 1": png_header(2**31 - 1, 2**31 - 1),
    "png of 0 x 0": png_header(0, 0),
    "png of one row": png_header(60_000 * 60_000 // 2 % 2**31, 1),
    "jpg of half its bytes": image("a.jpg", lambda p: _jpg(p)[: len(_jpg(p)) // 2]),
    "jpg that claims 65,500 px": image("a.jpg", lambda p: _jpg_claim(_jpg(p))),
    "jpg of 1 x 1": pillow("JPEG", lambda x: x.resize((1, 1))),
    "png too small": pillow("PNG", lambda x: x.resize((30, 30))),
    "bmp that claims much": image("a.bmp", lambda p: _bmp_claim(p)),
    "tif of its header alone": tiff(lambda b: b[:8]),
    "tif of half its bytes": tiff(lambda b: b[: len(b) // 2]),
    "tif whose directory is beyond the end": tiff(lambda b: b.__setitem__(slice(4, 8), b"\xff\xff\xff\x7f")),
    "tif whose byte counts are 0": tiff(values(325, lambda n: 0)),
    "tif whose byte counts are huge": tiff(values(325, lambda n: 2**16 - 1)),
    "tif whose offsets are beyond the end": tiff(values(324, lambda n: n + 2**30)),
    "tif whose offsets are 0": tiff(values(324, lambda n: 0)),
    "tif of width 2^31": tiff(tag(256, lambda n: 2**31)),
    "tif of 10^6 x 10^6": tiff(lambda b: (tag(256, lambda n: 10**6)(b), tag(257, lambda n: 10**6)(b))),
    "tif of height 0": tiff(tag(257, lambda n: 0)),
    "tif of tiles of 0": tiff(tag(322, lambda n: 0)),
    "tif of tiles of 2^30": tiff(tag(322, lambda n: 2**30)),
    "tif of an unknown compression": tiff(tag(259, lambda n: 65_000)),
    "tif of 60,000 samples": tiff(tag(277, lambda n: 60_000)),
    "tif of floats": image("a.tif", lambda p: _tif(p.astype("f4"))),
    "tif of 16 bits": image("a.tif", lambda p: _tif(p.astype("u2") * 257)),
    "tif of noise in its tiles": tiff(lambda b: b.__setitem__(slice(len(b) // 2, len(b)), bytes(len(b) - len(b) // 2)), compression="zlib"),
    "a link to itself": lambda f: ((f / "images" / "a.png").symlink_to("a.png"), column("source_image", ["a.png"] * 16)(f)),
    "a dangling link": lambda f: ((f / "images" / "a.png").symlink_to("nothing"), column("source_image", ["a.png"] * 16)(f)),
    "a folder of Zarr without content": lambda f: ((f / "images" / "a.zarr").mkdir(), (f / "images" / "a.zarr" / "zarr.json").write_text("{}"), column("source_image", ["a.zarr"] * 16)(f)),
    "a folder of Zarr of noise": lambda f: ((f / "images" / "a.zarr").mkdir(), (f / "images" / "a.zarr" / "zarr.json").write_bytes(b"\xff\xfe"), column("source_image", ["a.zarr"] * 16)(f)),
    "a folder of Zarr that is a list": lambda f: ((f / "images" / "a.zarr").mkdir(), (f / "images" / "a.zarr" / "zarr.json").write_text("[" * 5000), column("source_image", ["a.zarr"] * 16)(f)),
}  # fmt: skip


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _jpg(pixels: np.ndarray, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, **more)
    return buffer.getvalue()


def _jpg_claim(content: bytes) -> bytes:
    at = content.index(b"\xff\xc0") + 5  # height and width of the baseline frame
    return content[:at] + struct.pack(">HH", 65_500, 65_500) + content[at + 4 :]


def _bmp_claim(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    content = bytearray(buffer.getvalue())
    struct.pack_into("<ii", content, 18, 60_000, 60_000)
    return bytes(content)


def _tif(pixels: np.ndarray, **more: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{**_TIF, **more})
    return buffer.getvalue()


def _resolution(per_unit: float, unit: str | int) -> Change:
    return tiff(resolution=(per_unit, per_unit), resolutionunit=unit)


def _without_scale(change: Change, *words: object) -> tuple[Change, str, dict[str, Any]]:
    """The h5ad states no µm per pixel; the slide does."""
    import anndata

    def both(folder: Path) -> None:
        change(folder)
        made = anndata.read_h5ad(folder / "S1.h5ad")
        del made.uns["spatial"]
        made.write_h5ad(folder / "S1.h5ad")

    return both, "", {"words": words}


def _oriented(tag: int) -> Change:
    """The pixels are stored as the orientation says; shown upright, they are the picture of the section."""
    turned = {1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
              5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p), 7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
              8: lambda p: np.rot90(p, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = tag
    return image("a.jpg", lambda p: _jpg(np.ascontiguousarray(turned[tag](p)), exif=exif))


READ: dict[str, Any] = {
    **{
        f"saved as {kind}": pillow(kind)
        for kind in ("PNG", "JPEG", "TIFF")
    },
    "a palette": pillow("PNG", lambda x: x.convert("P")),
    "grey": pillow("PNG", lambda x: x.convert("L")),
    "an alpha channel": pillow("PNG", lambda x: x.convert("RGBA")),
    "a progressive JPEG": pillow("JPEG", progressive=True, quality=95),
    "a tiled TIFF": tiff(),
    "a tiled TIFF, deflated": tiff(compression="zlib"),
    "a BigTIFF": image("a.tif", lambda p: _tif(p, bigtiff=True)),
    "a big-endian TIFF": image("a.tif", lambda p: _tif(p, byteorder=">")),
    "a TIFF in strips": image("a.tif", lambda p: _tif(p, tile=None)),
    "a TIFF under the name of a PNG": image("a.png", _tif),
    "a PNG under the name of a TIFF": image("a.tif", _png),
    "0.5 µm per pixel by centimetres": _without_scale(_resolution(_PER_CM, "CENTIMETER")),
    "0.5 µm per pixel by inches": _without_scale(_resolution(_PER_CM * 2.54, "INCH")),
    "0.5 µm per pixel by OME": _without_scale(
        _ome(_OME.format(f'BigEndian="false" DimensionOrder="XYCZT" ID="Pixels:0" SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="3" SizeZ="1" SizeT="1" Type="uint8" PhysicalSizeX="0.5" PhysicalSizeY="0.5"').replace("/></Image>", '><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image>'))
    ),
    "a note of another scanner": tiff(description="Created by someone|MPP = none", metadata=None),
    "orientation 1": _oriented(1),
}  # fmt: skip
EITHER: dict[str, Any] = {
    "tif of 1 sample": tiff(tag(277, lambda n: 1)),
    "ome of broken XML": _ome("<OME><Image>"),
    "ome of entities": _ome(_LAUGHS),
    "a BMP": pillow("BMP"),
    **{f"orientation {tag}": _oriented(tag) for tag in range(2, 9)},
    "CMYK": pillow("JPEG", lambda x: x.convert("CMYK")),
    "16-bit grey": pillow("PNG", lambda x: Image.fromarray(np.asarray(x.convert("L")).astype("u2") * 257)),
    "one bit": pillow("PNG", lambda x: x.convert("1")),
    "a GIF": pillow("GIF"),
    "a WebP": pillow("WEBP"),
    "resolution 0": _resolution(0.0, "CENTIMETER"),
    "resolution in no unit": _resolution(_PER_CM, "NONE"),
    "resolution of 1 µm against the h5ad's 0.5": _resolution(_PER_CM / 2, "CENTIMETER"),
    "a directory that points to itself": image("a.tif", lambda p: _loop(bytearray(_tif(p)))),
    "two pages": image("a.tif", lambda p: _pages(p)),
    "an OME of another size": _ome(_OME.format('SizeX="99999" SizeY="99999" SizeC="3" SizeZ="1" SizeT="1" Type="uint8" DimensionOrder="XYCZT" ID="Pixels:0"')),
    "an OME of scale -1": _ome(_OME.format(f'PhysicalSizeX="-1" PhysicalSizeY="0" SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="3" SizeZ="1" SizeT="1" Type="uint8" DimensionOrder="XYCZT" ID="Pixels:0"')),
    "an OME of scale NaN": _ome(_OME.format(f'PhysicalSizeX="nan" PhysicalSizeY="inf" SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="3" SizeZ="1" SizeT="1" Type="uint8" DimensionOrder="XYCZT" ID="Pixels:0"')),
    "a description of 5 MB": _ome("MPP = 0.5|" + "m" * 5_000_000),
}  # fmt: skip


def _loop(content: bytearray) -> bytes:
    at = struct.unpack_from("<I", content, 4)[0]
    n_tags = struct.unpack_from("<H", content, at)[0]
    struct.pack_into("<I", content, at + 2 + 12 * n_tags, at)
    return bytes(content)


def _pages(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(pixels, **_TIF)
        file.write(pixels[::2, ::2], **_TIF)
    return buffer.getvalue()


def bad_cases() -> Iterator[Case]:
    yield from cases("refused", BAD, says=r"a\.\w+|px")


def odd_cases() -> Iterator[Case]:
    yield from cases("read", READ)
    yield from cases("either", EITHER, says=r"a\.\w+|--")
