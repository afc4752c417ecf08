"""Coverage-guided fuzzing of the readers of foreign files, with atheris (libFuzzer).

    pip install atheris
    python tests/corpus/fuzz_readers.py {h5ad,table,checkpoint} FOLDER -max_total_time=3600 -rss_limit_mb=2048

FOLDER holds the growing corpus; it is filled with small valid files first. A reader may return, or raise a `SpamError` with a
short message. Every other exception is a finding: it is written to ``FOLDER.findings`` with the input, once per place, and
the run continues. libFuzzer itself stops at a crash, a time-out or too much memory. docs/reliability.md records the runs.
"""

import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["spam", "anndata._io", "safetensors"]):
    from spam.errors import SpamError
    from spam.models.checkpoint import read_checkpoint
    from spam.schemas.embed_config import InputConfig
    from spam.sections import read_measured_part, read_section
    from spam.sections.tile_table import read_table

import numpy as np

_MOST_LETTERS = 2000
_SCRATCH = Path(tempfile.mkdtemp(dir="/dev/shm"))


def _h5ad(content: bytes) -> None:
    path = _SCRATCH / "S1.h5ad"
    path.write_bytes(content)
    read_section(InputConfig(h5ad=path, csv=_SCRATCH / "S1.csv", root=_SCRATCH / "images", mpp=0.5))


def _measured(content: bytes) -> None:
    path = _SCRATCH / "S1.h5ad"
    path.write_bytes(content)
    read_measured_part(path, section="S1", ids=np.array([f"S1_{i}" for i in range(16)]))


def _table(content: bytes) -> None:
    path = _SCRATCH / "t.csv"
    path.write_bytes(content)
    read_table(path)
    read_section(InputConfig(csv=path, root=_SCRATCH / "images", mpp=0.5))


def _checkpoint(content: bytes) -> None:
    path = _SCRATCH / "best.safetensors"
    path.write_bytes(content)
    read_checkpoint(path, stage="finetune")


READERS: dict[str, tuple[Callable[[bytes], None], ...]] = {
    "h5ad": (_h5ad, _measured),
    "table": (_table,),
    "checkpoint": (_checkpoint,),
}


def _seeds(kind: str, folder: Path) -> None:
    """Small valid files; sparse, dense and compressed ones for h5ad."""
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent / "reference")]
    from case_lab import write_lab

    if not (_SCRATCH / "S1.csv").exists():
        write_lab(_SCRATCH)
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "checkpoint":
        from spam.models.checkpoint import write_checkpoint
        from spam.schemas.checkpoint_meta import CheckpointMeta

        values = {
            "genes": ("A", "B"),
            "feature_keys": ("k",),
            "feature_dims": (3,),
            "tiles": ({},),
            "encoders": ({},),
        }
        texts = dict.fromkeys(("config_digest", "data_digest"), "x")
        maps = {
            name: {} for name in ("config", "gene_sets", "donors", "metrics", "best", "settings", "software")
        }
        more = {"train_sections": ("S1",), "val_sections": ("S2",), "history": [], "depth": 3.0, "epoch": 1}
        meta = CheckpointMeta(stage="finetune", **values, **texts, **maps, **more)  # type: ignore[arg-type]
        write_checkpoint(folder / "seed", meta, {"a": np.ones((2, 3), np.float32)})
        return
    names = {"table": ["S1.csv"], "h5ad": ["S1.h5ad"]}[kind]
    for name in names:
        (folder / f"seed-{name}").write_bytes((_SCRATCH / name).read_bytes())


def main() -> None:
    """Fuzz one kind of reader until libFuzzer's limit of time or a finding."""
    kind, corpus = sys.argv[1], Path(sys.argv[2])
    _seeds(kind, corpus)
    warnings.simplefilter("ignore")

    findings = corpus.with_name(corpus.name + ".findings")
    findings.mkdir(exist_ok=True)

    def note(content: bytes, place: str, text: str) -> None:
        file = findings / "".join(letter if letter.isalnum() else "_" for letter in place)[:120]
        if not file.exists():
            file.write_bytes(content)
            file.with_name(file.name + ".txt").write_text(text)

    def check(content: bytes) -> None:
        for reader in READERS[kind]:
            try:
                reader(content)
            except SpamError as error:
                if len(str(error)) > _MOST_LETTERS:
                    note(content, "long " + str(error)[:60], str(error))
            except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{type(error).__name__} {Path(frame.filename).name} {frame.lineno}"
                note(content, place, traceback.format_exc())

    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
