"""The five sections of patient C of her2st (Andersson et al., doi 10.1038/s41467-021-26271-2) as lab files."""

import hashlib
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from spam.atomic import replacing
from spam.errors import MissingInputError
from spam.progress import Progress
from spam.schemas.embed_config import InputConfig
from spam.sections.instrument_folder import read_folder
from spam.sections.lab_file_writer import write_lab_files

COMMIT = "85df7411b987a7dec3feff9718b869a7a82091ec"
ADDRESS = f"https://raw.githubusercontent.com/almaan/her2st/{COMMIT}"
DONOR = "C"
SECTIONS: tuple[str, ...] = ("C2", "C3", "C4", "C5", "C6")
_TIMEOUT_S = 30
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


def fetch_her2st(folder: Path, *, address: str, progress: Progress) -> Path:
    """Fetch and verify the files, and import the sections beside them: h5ad, table and ``sections.csv``.

    Parameters
    ----------
    folder
        Target folder; complete files in it are not fetched again.
    address
        Address of the repository: `ADDRESS`, or ``file://`` and the root of a local copy.
    progress
        Shows the files.

    Returns
    -------
    manifest
        The file ``sections.csv``.

    Raises
    ------
    MissingInputError
        If a file cannot be fetched, or has another checksum.
    """
    raw = folder / "raw"
    with progress.task("fetch her2st", len(FILES)) as advance:
        for path, digest in FILES.items():
            target = raw / path
            if not (target.exists() and _sha256(target) == digest):
                _fetch(f"{address}/{path}", digest, target)
            advance(note=target.name)
    for name in SECTIONS:
        config = InputConfig(from_=raw, section=name, donor=DONOR)
        _, found = read_folder(config)
        *_, manifest = write_lab_files(found, config, name=name, folder=folder)
    return manifest


def _fetch(address: str, digest: str, target: Path) -> None:
    """Fetch one file, and keep it only if its checksum is correct."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        try:
            with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer, partial.open("wb") as file:
                shutil.copyfileobj(answer, file)
        except (urllib.error.URLError, TimeoutError) as error:
            message = (
                f"{address} cannot be read ({error}). Run the same command again to resume, or give a copy of "
                "github.com/almaan/her2st with --data"
            )
            raise MissingInputError(message) from error
        if (found := _sha256(partial)) != digest:
            message = f"{address} has SHA-256 {found[:12]}…, expected {digest[:12]}…: damaged, or of another version"
            raise MissingInputError(message)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
