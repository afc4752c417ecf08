"""`spam check-alignment`: whether the spots of a section lie where they belong on its slide, in pictures and numbers."""

import csv
import dataclasses
import io
import json
import math
import shlex
from collections.abc import Sequence

import numpy as np

from spam.atomic import claimed, write_text
from spam.errors import ConfigError, SectionError, TileError
from spam.progress import SILENT, Progress
from spam.reports import DrawnNuclei, DrawnPlacement, SectionView, Zoom, plot_alignment
from spam.schemas.alignment_config import AlignmentConfig, AlignmentReport, SectionAlignment
from spam.schemas.embed_config import InputConfig
from spam.sections import Section, SlideSource, read_inputs, read_section
from spam.tiles import (
    Evidence,
    NuclearOffset,
    Registration,
    Slide,
    cut_tile,
    lattice_angle,
    locate,
    nuclear_offset,
    open_slide,
    placements,
    readable_overview,
    register,
)
from spam.tiles.placement import AS_GIVEN, EXCHANGED
from spam.typing import Array, Float64

_ZOOM_DISTANCES, _ZOOM_PX = 5.0, 500
_LEAST_ZOOM_UM = 150.0  # of cells, which are closer than spots
_OFF_NUCLEUS_UM = 3.0  # half a nucleus
_NAMED_ANGLE, _NAMED_FACTOR = 1.0, 0.03  # smaller ones are errors of the search
_SAME_FACTOR = 0.03
_SAME_PLACE = 1.0  # distance of spots within which a scale is one about the corner of the slide


def check_alignment(config: AlignmentConfig, *, progress: Progress = SILENT) -> AlignmentReport:
    """Check where the spots of each section lie on its slide; draw them, and say what is wrong and what mends it.

    Writes a picture for each section, ``alignment.json``, and a table with corrected coordinates for misplaced sections.

    Raises
    ------
    ConfigError, MissingInputError, SectionError, SlideError
        As `read_section`, `open_slide` and `readable_overview`; also if a section has tile files instead of a slide, or a name
        occurs twice.
    """
    assert config.out_dir is not None  # checked by the configuration
    sources = read_inputs(config)
    with claimed(config.out_dir, "--out-dir"), progress.task("check-alignment", len(sources)) as advance:
        found = list[SectionAlignment]()
        for source in sources:
            found.append(_check(source, config, [one.name for one in found]))
            advance()
        report = AlignmentReport(sections=tuple(found))
        write_text(config.out_dir / "alignment.json", json.dumps(report.to_mapping(), indent=1) + "\n")
    return report


def _check(source: InputConfig, config: AlignmentConfig, taken: Sequence[str]) -> SectionAlignment:
    assert config.out_dir is not None
    section = read_section(source)
    if section.name in taken:
        message = f"--manifest names several sections {section.name!r}. Use unique names."
        raise SectionError(message)
    if not isinstance(section.tiles, SlideSource):
        message = (
            f"Section {section.name!r} has tile files. Their alignment cannot be checked without the slide."
        )
        raise ConfigError(message)
    with open_slide(section.tiles.path) as slide:
        outside = ""
        try:
            section = locate(section, slide)
        except TileError as error:  # spots outside of the slide: the reason to check the alignment
            outside = str(error)
            if section.mpp is None and slide.mpp is not None:
                section = dataclasses.replace(section, mpp=slide.mpp, mpp_source="slide")
        picture = readable_overview(slide)
        evidence = Evidence(picture.image, section.xy_px, slide.width, slide.height, counts=section.counts)
        found, nuclei = _register(section, slide, evidence)
        angle = lattice_angle(section.xy_px)
        verdict = _verdict(section, evidence, found, nuclei, outside)
        files = [config.out_dir / f"{section.name}.png"]
        drawn = {AS_GIVEN: section.xy_px}
        corrected = config.out_dir / f"{section.name}_corrected.csv"
        if found.is_wrong:
            drawn["corrected"] = found.apply(section.xy_px)
            files.append(corrected)
            write_text(corrected, _table(source, section, drawn["corrected"]))
        elif corrected.exists() and not (source.csv and corrected.samefile(source.csv)):
            corrected.unlink()  # of an earlier run
        ways = placements(evidence.xy_px, *evidence.size)
        if found.is_wrong:
            ways["corrected"] = found.apply(evidence.xy_px)
        scores = {
            name: (float(evidence.shares(at).mean()), float(evidence.fits(at).mean()))
            for name, at in ways.items()
        }
        plot_alignment(
            SectionView(
                name=section.name,
                xy_px=section.xy_px,
                mpp=section.mpp,
                overview=picture.image,
                overview_scale=picture.scale,
            ),
            verdict,
            [
                DrawnPlacement(title=title, xy_px=xy, zooms=_zooms(slide, xy, evidence, section.mpp))
                for title, xy in drawn.items()
            ],
            scores,
            diameter_px=section.spot_diameter_px or evidence.distance_px * 0.5 or 10.0,
            nuclei=None
            if nuclei is None
            else DrawnNuclei(mean=nuclei.mean, offset_um=nuclei.offset_um, is_clear=nuclei.is_clear),
            path=files[0],
        )
    return SectionAlignment(
        name=section.name,
        n_spots=section.n_spots,
        verdict=verdict,
        is_wrong=found.is_wrong,
        advice=_advice(source, section, evidence, found) if found.is_wrong else "",
        tissue={name: tissue for name, (tissue, _) in scores.items()},
        explained={name: fit for name, (_, fit) in scores.items()} if evidence.has_fit else None,
        way=found.way,
        angle=found.angle,
        scale=found.scale,
        shift_px=found.shift_px,
        gain=found.gain,
        lattice_angle=angle,
        nuclei_um=nuclei.offset_um if nuclei and nuclei.is_clear else None,
        files=tuple(files),
    )


def _register(
    section: Section, slide: Slide, evidence: Evidence
) -> tuple[Registration, NuclearOffset | None]:
    """Register by tissue and expression, and cells also by their nuclei, which are more exact."""
    is_cells = lattice_angle(section.xy_px) is None and section.mpp is not None
    nuclei = nuclear_offset(slide, section.xy_px, section.mpp) if is_cells and section.mpp else None
    if nuclei is None or not nuclei.is_clear:
        found = register(evidence)
        if nuclei is None or not found.is_wrong or section.mpp is None:
            return found, nuclei
        nuclei = nuclear_offset(slide, found.apply(section.xy_px), section.mpp)
    else:
        found = Registration.identity()
    if nuclei.is_clear and math.hypot(*nuclei.offset_um) > _OFF_NUCLEUS_UM:
        assert section.mpp is not None
        found = found.shifted(nuclei.offset_um[0] / section.mpp, nuclei.offset_um[1] / section.mpp)
    return found, nuclei


def _verdict(
    section: Section, evidence: Evidence, found: Registration, nuclei: NuclearOffset | None, outside: str
) -> str:
    """Say in a sentence whether the spots are where they belong, and why."""
    given, scale = evidence.words(evidence.xy_px), section.mpp or 1.0
    unit = "µm" if section.mpp else "px"
    if not found.is_wrong:
        if nuclei is not None and nuclei.is_clear:
            return f"the cells lie on nuclei (within {_OFF_NUCLEUS_UM:g} µm)"
        if outside:
            return "some spots lie outside of the slide, and no other placement is better"
        unsure = "" if evidence.has_fit else "; without counts, only gross errors can be seen"
        return f"no better placement was found ({given}){unsure}"
    steps = [found.way.removeprefix("with ")] if found.way != AS_GIVEN else []
    steps += [f"turned by {found.angle:+.1f}°"] if abs(found.angle) >= _NAMED_ANGLE else []
    is_scaled = abs(found.scale - 1) >= _NAMED_FACTOR
    steps += [f"scaled by {found.scale:.3g}"] if is_scaled else []
    if any(found.shift_px) and not is_scaled:
        right, down = (value * scale for value in found.shift_px)
        steps.append(f"shifted by {right:+.0f} {unit} (right) and {down:+.0f} {unit} (down)")
    after = evidence.words(found.apply(evidence.xy_px))
    return f"the spots are misplaced: {given} as given; {after} if they are {', '.join(steps)}"


def _advice(source: InputConfig, section: Section, evidence: Evidence, found: Registration) -> str:
    """Say which option, or the corrected table, mends it."""
    table, is_table = _use_of_table(source, section), source.from_ is None and source.cells is None
    is_plain = not found.angle and found.scale == 1 and not any(found.shift_px)
    is_scaled = abs(found.scale - 1) >= _NAMED_FACTOR
    if found.way == EXCHANGED and is_plain and is_table:
        return (
            "Omit --swap-xy."
            if source.swap_xy
            else "Add --swap-xy, and exchange obsm['spatial'] of an h5ad too."
        )
    if found.way == EXCHANGED and is_plain and source.from_ is not None:
        return f"{table} Exchange obsm['spatial'] of that h5ad too."
    centre = evidence.xy_px.mean(axis=0)
    is_about_corner = (
        np.abs(centre + found.shift_px - found.scale * centre).max() <= _SAME_PLACE * evidence.distance_px
    )
    if is_scaled and found.way == AS_GIVEN and is_about_corner and is_table:
        mpp = section.mpp
        if source.coordinates == "um" and mpp is not None:
            return f"Use --mpp {mpp / found.scale:.4g}, or: {table}"
        options = {"--coordinates um": 1 / (mpp or math.nan)}
        options["--coordinates hires"] = 1 / (section.hires_scale or math.nan)
        for option, factor in options.items():
            if abs(found.scale / factor - 1) <= _SAME_FACTOR:
                return f"Add {option}."
        other = f"The coordinates are those of a picture of {1 / found.scale:.3g} times the size."
        return f"{other} Name that picture in source_image, or: {table}"
    if found.way not in (AS_GIVEN, EXCHANGED):
        return f"The coordinates belong to a copy of the slide that is {found.way}. {table}"
    return table


def _use_of_table(source: InputConfig, section: Section) -> str:
    """Say how the corrected table is used; its coordinates are pixels, and its ids those of the section."""
    assert isinstance(section.tiles, SlideSource)
    table, folder = f"{section.name}_corrected.csv", section.tiles.path.absolute().parent
    if source.from_ is not None:
        lab = shlex.quote(f"lab/{section.name}.h5ad")
        return (
            f"Run spam import {shlex.quote(str(source.from_))} --out-dir lab (with the other options of this run), then use "
            f"--h5ad {lab} --csv {shlex.quote(table)} --root {shlex.quote(str(folder))} (and check it in the picture)."
        )
    if source.cells is not None:
        root = shlex.quote(str(folder))
        return f"Use {table} as --csv, with --root {root}, instead of --cells (and check it in the picture)."
    changed = {
        "--coordinates": source.coordinates != "pixels",
        "--swap-xy": source.swap_xy,
        "--id-offset": source.id_offset,
        "--id-strip-suffix": source.id_strip_suffix,
        "--h5ad-id-strip-suffix": source.h5ad_id_strip_suffix,  # ids of the section are whole
    }
    given = ", ".join(option for option, is_given in changed.items() if is_given)
    without = f" without {given}" if given else ""
    return f"Use {table} as --csv{without} (and check it in the picture)."


def _zooms(slide: Slide, xy_px: Float64[Array, "n 2"], evidence: Evidence, mpp: float | None) -> list[Zoom]:
    """Cut windows around the spots at two opposite corners of the section and in its middle."""
    side = max(_ZOOM_DISTANCES * evidence.distance_px, _LEAST_ZOOM_UM / (mpp or 1.0))
    x, y = xy_px.T
    middle = np.abs(xy_px - np.median(xy_px, axis=0)).sum(axis=1)
    chosen = dict.fromkeys([int((x + y).argmin()), int(middle.argmin()), int((x + y).argmax())])
    zooms = []
    for spot in chosen:
        centre_x, centre_y = xy_px[spot].tolist()
        image = cut_tile(slide, centre_x, centre_y, native_px=side, out_px=min(_ZOOM_PX, max(1, round(side))))
        edges = (centre_x - side / 2, centre_x + side / 2, centre_y - side / 2, centre_y + side / 2)
        zooms.append(Zoom(image=image, edges_px=edges))
    return zooms


def _table(source: InputConfig, section: Section, xy_px: Float64[Array, "n 2"]) -> str:
    """Write a table of tiles with other coordinates; the slide is named as below ``--root``."""
    assert isinstance(section.tiles, SlideSource)
    slide = section.tiles.path
    is_below = source.root is not None and source.cells is None and slide.is_relative_to(source.root)
    image = slide.relative_to(source.root).as_posix() if is_below and source.root else slide.name
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["x", "y", "source_image", "spot_id", "section", "patient"])
    for spot, (x, y) in zip(section.ids.tolist(), xy_px.tolist(), strict=True):
        place = [f"{x:.3f}", f"{y:.3f}", image]
        rows.writerow([*place, spot, section.name, section.donor or ""])
    return file.getvalue()
