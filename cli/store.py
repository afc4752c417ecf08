"""`spam store info`: what a feature store holds."""

import dataclasses
from pathlib import Path
from typing import Any

from spam.progress import Progress

from .command import Command
from .options import Option

__all__ = ["STORE_INFO"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _StoreReport:
    path: Path
    n_bytes: int
    sections: tuple[dict[str, Any], ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {"path": str(self.path), "n_bytes": self.n_bytes, "sections": list(self.sections)}

    def summary(self) -> str:
        """Write one paragraph per section."""
        lines = [f"{self.path}: {len(self.sections)} sections, {self.n_bytes / 1e6:.1f} MB"]
        for section in self.sections:
            genes = f"{section['n_genes']} genes" if section["has_counts"] else "no counts"
            mpp = f"{section['mpp']:g} µm/px" if section["mpp"] else "µm/px unknown"
            donor = section["donor"] or "unknown"
            lines.append(f"{section['name']}: donor {donor}, {section['n_spots']} spots, {genes}, {mpp}")
            lines += [f"    {key['key']}: {key['dim']} x {key['dtype']}" for key in section["features"]]
        return "\n".join(lines)


def _info(values: dict[str, Any], progress: Progress) -> _StoreReport:
    from spam.errors import ConfigError
    from spam.store import open_store

    if "path" not in values:
        message = "the store is missing; say which, e.g. `spam store info cohort.zarr`"
        raise ConfigError(message)
    store = open_store(Path(values["path"]))
    sections = []
    for name in store.section_names:
        section = store.section(name)
        features = [section.feature_meta(key) for key in section.feature_keys]
        sections.append(
            {
                **section.meta.to_mapping(),
                "features": [{"key": meta.key, "dim": meta.dim, "dtype": meta.dtype} for meta in features],
            }
        )
    n_bytes = sum(file.stat().st_size for file in Path(store.path).rglob("*") if file.is_file())
    return _StoreReport(path=Path(store.path), n_bytes=n_bytes, sections=tuple(sections))


STORE_INFO = Command(
    name="info",
    does="Show what a feature store holds. Its sections, their features and its size.",
    example="spam store info cohort.zarr",
    options=(
        Option(name="path", kind=Path | None, default=None, help="the feature store", is_argument=True),
    ),
    work=_info,
)
