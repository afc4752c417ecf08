"""The list of a cohort's sections: a CSV with columns section, donor, h5ad, csv, root."""

import difflib
from collections.abc import Callable
from pathlib import Path

from spam.errors import MissingInputError, SectionError
from spam.schemas.embed_config import InputConfig

from .table import read_csv_text

__all__ = ["read_manifest"]

_COLUMNS = ("section", "donor", "h5ad", "csv", "root")


def read_manifest(path: Path, *, root: Path | None) -> tuple[InputConfig, ...]:
    """Read a manifest: one row per section, in order.

    Relative paths start from the manifest's folder; what is not there is looked for in `root`. An empty
    ``root`` means `root`, an empty ``h5ad`` pure prediction; an empty ``section`` or ``donor`` is left to the
    section's own files. Rows are counted from 1 after the header.

    Raises
    ------
    MissingInputError
        If the manifest is not there, or all that is wrong with it is files that are not there.
    SectionError
        If it has other columns, a row without a table or root, or a section twice. All faults are listed.
    """
    if not path.is_file():
        message = f"manifest {path} is not a file; --manifest is a CSV with the columns {', '.join(_COLUMNS)}"
        raise MissingInputError(message)
    frame = read_csv_text(path)
    columns = list(frame.columns)
    unknown = [_unknown(column) for column in columns if column not in _COLUMNS]
    if unknown or "csv" not in columns:
        faults = [f"it has columns that mean nothing here: {', '.join(unknown)}"] if unknown else []
        faults += ["it has no column 'csv'"] if "csv" not in columns else []
        message = (
            f"manifest {path}: {'; '.join(faults)}; its columns are {', '.join(_COLUMNS)} (all but csv may "
            "be left out)"
        )
        raise SectionError(message)

    folders = [path.parent] if root is None else [path.parent, root]
    configs: list[InputConfig] = []
    wrong: list[str] = []
    missing: list[str] = []
    first_row: dict[str, int] = {}
    for number, cells in enumerate(frame.to_dict("records"), start=1):
        section = cells.get("section") or None
        if section is not None and first_row.setdefault(section, number) != number:
            wrong.append(f"row {number}: section {section!r} is in row {first_row[section]} already")
        if not cells["csv"]:
            wrong.append(f"row {number}: no csv")
        if not cells.get("root") and root is None:
            wrong.append(f"row {number}: no root (fill in the column, or give --root)")
        paths = {
            name: _find(cells.get(name, ""), folders, is_right)
            for name, is_right in (("h5ad", Path.is_file), ("csv", Path.is_file), ("root", Path.is_dir))
        }
        missing += [
            f"row {number}: {name} {cells[name]!r}"
            for name in paths
            if paths[name] is None and cells.get(name)
        ]
        configs.append(
            InputConfig(
                section=section,
                donor=cells.get("donor") or None,
                h5ad=paths["h5ad"],
                csv=paths["csv"],
                root=paths["root"] or root,
            )
        )
    if missing:
        looked = " and ".join(str(folder) for folder in folders)
        missing = [f"these are not there (looked in {looked}): {', '.join(missing)}"]
    if wrong or missing:
        message = f"manifest {path}: {'; '.join([*wrong, *missing])}; correct these rows"
        raise SectionError(message) if wrong else MissingInputError(message)
    return tuple(configs)


def _find(name: str, folders: list[Path], is_right: Callable[[Path], bool]) -> Path | None:
    """Return the first ``folder/name`` of the right kind; None if there is none, or no name."""
    return next((folder / name for folder in folders if is_right(folder / name)), None) if name else None


def _unknown(column: str) -> str:
    near = difflib.get_close_matches(column, _COLUMNS, n=1)
    return f"{column!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
