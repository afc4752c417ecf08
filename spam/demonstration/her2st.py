"""The five sections of patient C of her2st: which files, their checksums, and how they become lab files."""

import dataclasses
import hashlib
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from spam.atomic import replacing
from spam.errors import MissingInputError
from spam.progress import Progress

from .legacy_st import LegacySection, write_cohort

__all__ = ["FetchedCohort", "fetch_her2st"]

COMMIT = "85df7411b987a7dec3feff9718b869a7a82091ec"
ADDRESS = f"https://raw.githubusercontent.com/almaan/her2st/{COMMIT}"
PITCH_UM = 200.0  # centre to centre of the 1k array (Andersson et al., doi 10.1038/s41467-021-26271-2)
SPOT_UM = 100.0

# Path in the repository -> SHA-256.
FILES = {
    "data/ST-imgs/C/C2/5714_HE_BT_C2.jpg": "26e2f73ae840cdd46c5bba405aae181f13a56a376b9848dff23f7a9c5de7f19e",
    "data/ST-imgs/C/C3/5714_HE_BT_D1.jpg": "0005a92674014d473040a28f0afca89ce5fa5c44019b479b638ceb3272ceb568",
    "data/ST-imgs/C/C4/5714_HE_BT_D2.jpg": "f40607eb1d5f0d125decd71c48b0c5d29cf6776ad92297fd185631208c82d6f2",
    "data/ST-imgs/C/C5/5714_HE_BT_E1.jpg": "34028ea41e376396b50c42b0a11a7e689c85be4a8022e668d0a09cc128c04c65",
    "data/ST-imgs/C/C6/5714_HE_BT_E2.jpg": "dddd87232589648861a9b6776dc1749be8306213f6589aeef0e805fb2b1ee263",
    "data/ST-cnts/C2.tsv.gz": "c1c59ea6cffae36b9ecb561b8e2a97e3aa5f4085f748e991a0e330ed9d09773d",
    "data/ST-cnts/C3.tsv.gz": "e00c55a3eb9caac5d9c71b8906aae8be8b38f93e23938f4a0ebee17683ef6a2a",
    "data/ST-cnts/C4.tsv.gz": "33201f76d41d7131dc600a0f87d9a70383af3503e81698b4d11e6f2e8d73e9da",
    "data/ST-cnts/C5.tsv.gz": "c0f310315ca6110d74dbdf7011e5b42432ba0b8eb5f001824764911988f39338",
    "data/ST-cnts/C6.tsv.gz": "60478b0d2411501866685f41312c65c6591e499d64d5b719be8ee9bab25c9bc8",
    "data/ST-spotfiles/C2_selection.tsv": "235b5f4306b3b57c628ffc82c98c7109602474fbcc79a917b9c50517f99b6b1c",
    "data/ST-spotfiles/C3_selection.tsv": "7fd76c13370b7804ac3bb377b846d22485cf9223f9dd8dfc25be06e5aaf65755",
    "data/ST-spotfiles/C4_selection.tsv": "47e79f3b9dbfa3a8c18af9e948ba7ba4bf0a75ea1b4c292bc714ced7d0917d4c",
    "data/ST-spotfiles/C5_selection.tsv": "2114cc3b4da759772112897f1e247d5443c9f8c808e6a9a952eb4fda379a194c",
    "data/ST-spotfiles/C6_selection.tsv": "efdbbc6759c6af43baa966505c31705f09c087c1dccf1ea3e0d1db7b55717117",
}
SECTIONS = ("C2", "C3", "C4", "C5", "C6")
_TIMEOUT_S = 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FetchedCohort:
    """Sections that are ready to be embedded, and their manifest."""

    manifest: Path
    sections: tuple[str, ...]


def fetch_her2st(
    folder: Path, *, copy: Path | None, progress: Progress, address: str = ADDRESS
) -> FetchedCohort:
    """Bring the files into `folder`, check them, and write h5ad, table and manifest beside them.

    Parameters
    ----------
    folder
        Where they go; files that are there already and whole are not fetched again.
    copy
        Root of a local copy of the repository, or None to download.
    address
        Where to download from.

    Raises
    ------
    MissingInputError
        If a file is not in the copy, cannot be downloaded, or has another checksum.
    """
    raw = folder / "raw"
    with progress.task("fetch her2st", len(FILES)) as advance:
        for path, digest in FILES.items():
            target = raw / path
            if not (target.exists() and _sha256(target) == digest):
                _fetch(path, digest, target, copy=copy, address=address)
            advance(note=Path(path).name)
    sections = [_section(raw, name) for name in SECTIONS]
    manifest = write_cohort(sections, folder, donor="C", pitch_um=PITCH_UM, spot_diameter_um=SPOT_UM)
    return FetchedCohort(manifest=manifest, sections=SECTIONS)


def _section(raw: Path, name: str) -> LegacySection:
    image = next(path for path in FILES if path.startswith(f"data/ST-imgs/C/{name}/"))
    return LegacySection(
        name=name,
        counts=raw / f"data/ST-cnts/{name}.tsv.gz",
        spots=raw / f"data/ST-spotfiles/{name}_selection.tsv",
        image=raw / image,
    )


def _fetch(path: str, digest: str, target: Path, *, copy: Path | None, address: str) -> None:
    """Bring one file, and take it only if its checksum is right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        if copy is None:
            _download(f"{address}/{path}", partial)
        else:
            _copy(path, partial, copy=copy)
        found = _sha256(partial)
        if found != digest:
            message = (
                f"{path!r} has SHA-256 {found[:12]}…, expected {digest[:12]}…: it is damaged or of another version; "
                f"take it from commit {COMMIT[:7]} of github.com/almaan/her2st and run the same command again"
            )
            raise MissingInputError(message)


def _copy(path: str, target: Path, *, copy: Path) -> None:
    source = copy / path
    if not source.is_file():
        message = (
            f"{str(copy)!r} has no {path!r}; --data takes the root of a copy of github.com/almaan/her2st "
            f"(commit {COMMIT[:7]}), with data/ST-cnts, data/ST-imgs and data/ST-spotfiles in it"
        )
        raise MissingInputError(message)
    shutil.copyfile(source, target)


def _download(address: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer, target.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, TimeoutError) as error:
        message = (
            f"cannot download {address} ({error}); check the network and run the same command again, which keeps "
            "what has come so far, or give a local copy of the repository with --data"
        )
        raise MissingInputError(message) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
