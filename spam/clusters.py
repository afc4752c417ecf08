"""`spam cluster`: Leiden clusters of predicted expression or of features, with scores, marker genes and maps."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from spam.atomic import new_folder
from spam.errors import ConfigError, SectionError
from spam.exports.exported_section import ExportedSection
from spam.graphs import spatial_knn_graph
from spam.h5ad_output import write_h5ad
from spam.models.expression import morans_i
from spam.progress import SILENT, Progress
from spam.reporting import read_prediction, view_of
from spam.reports import plot_cluster_maps
from spam.reports.score_tables import markdown_table, shown
from spam.schemas.cluster_config import ClusterConfig
from spam.schemas.graph_config import DEFAULT_K
from spam.schemas.records import Record
from spam.store import choose_features, choose_sections, open_store, readable_spots
from spam.store.anndata_files import to_anndata
from spam.typing import Array, Bool, Shaped

_MEASURED, _PREDICTED = "measured", "predicted"
_LABEL = "label"
_N_COMPONENTS, _N_MARKERS, _LEAST_SPOTS = 50, 10, 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReport(Record):
    """What `cluster` found and wrote.

    Attributes
    ----------
    scores
        Rows of ``scores.csv``: a section, what was clustered, the number of clusters, and the adjusted Rand index and the
        normalised mutual information with the labels, or with the clusters of the measured expression.
    morans_r
        Pearson r over the genes between Moran's I of the measured and of the predicted maps, by section.
    """

    out_dir: Path
    scores: tuple[dict[str, Any], ...]
    morans_r: dict[str, float]
    files: tuple[Path, ...]

    def summary(self) -> str:
        """Return the scores as a table, and the files."""
        head = ["section", "clusters of", "clusters", "compared with", "ARI ↑", "NMI ↑"]
        rows = [
            [
                row["section"],
                row["of"],
                str(row["n_clusters"]),
                row["with"] or "–",
                shown(row["ari"]),
                shown(row["nmi"]),
            ]
            for row in self.scores
        ]
        maps = [
            f"{name}: Pearson r {shown(r, digits=2)} between Moran's I of measured and predicted maps, over genes"
            for name, r in self.morans_r.items()
        ]
        written = ", ".join(path.name for path in self.files)
        return "\n".join([markdown_table(head, rows), *maps, f"written to {self.out_dir}: {written}"])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Source:
    """A section to cluster.

    Attributes
    ----------
    section
        Spots and coordinates; ``X`` is predicted expression, or raw counts.
    spaces
        What is clustered, (n_spots, n), by name.
    expression
        Expression for the marker genes, (n_spots, n_genes); None without counts and predictions.
    is_known
        Spots with values.
    """

    section: ExportedSection
    spaces: Mapping[str, Any]
    expression: Any
    is_known: Bool[Array, " n_spots"]


def cluster(config: ClusterConfig, *, progress: Progress = SILENT) -> ClusterReport:
    """Cluster the spots of each section by Leiden, and compare the clusters with labels.

    Predictions are clustered by predicted and, with counts, by measured expression; sections of a store by each of
    their features and by measured expression. The graph joins the nearest neighbours in the first 50 principal components.
    Spots whose tiles could not be read get no cluster.

    Raises
    ------
    ConfigError
        If scanpy or igraph are not installed, the label is unknown, or an option does not fit the source.
    MissingInputError, SectionError, StoreError
        If the source does not hold what is clustered.
    OutputExistsError
        If there is something at ``config.out_dir``.
    """
    assert config.out_dir is not None  # checked by ClusterConfig
    scanpy = _scanpy()
    scores, markers, morans = list[dict[str, Any]](), list[pd.DataFrame](), list[pd.DataFrame]()
    with new_folder(config.out_dir, "--out-dir") as folder:
        folder.mkdir()
        for source in _sources(config, scanpy):
            name, adata = source.section.name, source.section.adata
            labels = _labels(source, config)
            with progress.task(f"cluster {name}", len(source.spaces)) as advance:
                groups = {}
                for what, values in source.spaces.items():
                    groups[what] = _leiden(scanpy, values, source, config)
                    adata.obs[f"leiden_{what}"] = pd.Categorical(
                        groups[what], sorted({*groups[what]} - {""}, key=int)
                    )
                    markers += _markers(scanpy, source, what, groups[what])
                    advance(note=what)
            scores += _scores(name, groups, labels)
            if {_MEASURED, _PREDICTED} <= set(source.spaces):
                morans.append(_morans(source))
            write_h5ad(adata, folder / f"{name}.h5ad", compression="gzip")
            titles = {f"clusters of {what}": members for what, members in groups.items()}
            titles |= {} if labels is None else {config.label or _LABEL: labels}
            if source.section.xy_px.any():
                plot_cluster_maps(view_of(source.section), titles, folder / f"{name}.png")
        for file, tables in {
            "scores": [pd.DataFrame(scores)],
            "markers": markers,
            "morans_i": morans,
        }.items():
            if tables:
                pd.concat(tables).to_csv(folder / f"{file}.csv", index=False)
        names = sorted(path.name for path in folder.iterdir())
    return ClusterReport(
        out_dir=config.out_dir,
        scores=tuple(scores),
        morans_r={str(one["section"].iloc[0]): float(one[_MEASURED].corr(one[_PREDICTED])) for one in morans},
        files=tuple(config.out_dir / name for name in names),
    )


def _scanpy() -> Any:
    """Import scanpy, which takes seconds and which no other command needs."""
    try:
        import igraph  # noqa: F401  Leiden in scanpy
        import scanpy
    except ImportError as error:
        message = f"spam cluster needs scanpy and igraph ({error}). Run: pip install 'spam-st[cluster]'"
        raise ConfigError(message) from error
    return scanpy


def _sources(config: ClusterConfig, scanpy: Any) -> Iterator[_Source]:
    address = config.source
    assert address is not None  # checked by ClusterConfig
    if isinstance(address, Path) and (address / "predictions.h5ad").is_file():
        if config.sections or config.features:
            message = f"--sections and --features choose parts of a store, but {str(address)!r} holds a prediction. Omit them."
            raise ConfigError(message)
        yield _of_prediction(address)
        return
    store = open_store(address)
    for name in choose_sections(store, config.sections):
        section = store.section(name)
        keys, adata = choose_features(section, config.features), to_anndata(section)
        spaces: dict[str, Any] = {key: section.features(key) for key in keys}
        if section.meta.has_counts:
            normal = anndata.AnnData(adata.X.astype(np.float32))
            scanpy.pp.normalize_total(normal, target_sum=1e4)
            scanpy.pp.log1p(normal)
            spaces[_MEASURED] = normal.X
        yield _Source(
            section=ExportedSection(name=name, adata=adata),
            spaces=spaces,
            expression=spaces.get(_MEASURED),
            is_known=readable_spots(section, keys) if keys else np.ones(section.n_spots, dtype=bool),
        )


def _of_prediction(folder: Path) -> _Source:
    saved = read_prediction(folder)
    layers = tuple(layer for layer in (_PREDICTED, _MEASURED) if layer in saved.layers)
    spaces = dataclasses.replace(saved, layers=layers).values(list(saved.genes.index))
    adata = saved.section.adata
    adata.X = spaces[_PREDICTED]
    return _Source(
        section=saved.section,
        spaces=spaces,
        expression=spaces[_PREDICTED],
        is_known=~np.isnan(spaces[_PREDICTED]).all(axis=1),
    )


def _labels(source: _Source, config: ClusterConfig) -> Shaped[Array, " n_spots"] | None:
    """Read the labels of the spots; the empty string where there is none."""
    obs = source.section.adata.obs
    if config.label is not None and config.label not in obs:
        message = f"--label {config.label}: not among the obs columns of {source.section.name!r} ({', '.join(obs.columns)})."
        raise ConfigError(message)
    found = obs.get(config.label or _LABEL)
    return None if found is None else np.where(found.isna(), "", found.astype(str)).astype(object)


def _leiden(scanpy: Any, values: Any, source: _Source, config: ClusterConfig) -> Shaped[Array, " n_spots"]:
    """Cluster the known spots; the others get the empty string."""
    part = values[source.is_known]
    part = (
        part if sparse.issparse(part) else part[:, np.isfinite(part).all(axis=0)]
    )  # genes that were measured
    n_spots, n_columns = part.shape
    if n_spots < _LEAST_SPOTS or n_columns < 2:
        message = f"Section {source.section.name!r} has {n_spots} spots with {n_columns} values: too few for clusters."
        raise SectionError(message)
    spots = anndata.AnnData(part)
    scanpy.pp.pca(spots, n_comps=min(_N_COMPONENTS, n_spots - 1, n_columns - 1), random_state=config.seed)
    k = min(config.n_neighbours, n_spots - 1)
    # As good as the default, umap, on the labels of her2st A1 and of the olfactory bulb, without 10 s of compilation.
    weights = {"method": "gauss", "use_rep": "X_pca", "random_state": config.seed}
    scanpy.pp.neighbors(spots, n_neighbors=k, **weights)
    options: dict[str, Any] = {"flavor": "igraph", "n_iterations": 2, "directed": False}
    scanpy.tl.leiden(spots, resolution=config.resolution, random_state=config.seed, **options)
    groups = np.full(len(source.is_known), "", dtype=object)
    groups[source.is_known] = spots.obs["leiden"].astype(str).to_numpy()
    return groups


def _markers(
    scanpy: Any, source: _Source, what: str, groups: Shaped[Array, " n_spots"]
) -> Iterator[pd.DataFrame]:
    """Find the genes with the highest Wilcoxon scores of each cluster against all other spots.

    Without p-values: the clusters were found in the same data.
    """
    names, sizes = np.unique(groups[source.is_known].astype(str), return_counts=True)
    names = names[sizes > 1]
    if source.expression is None or len(names) < 2:
        return
    kept = np.isin(groups, names)
    adata = source.section.adata
    obs = pd.DataFrame({"cluster": pd.Categorical(groups[kept])}, index=adata.obs_names[kept])
    spots = anndata.AnnData(source.expression[kept], obs=obs, var=adata.var[[]])
    scanpy.tl.rank_genes_groups(spots, "cluster", method="wilcoxon", n_genes=_N_MARKERS)
    table = scanpy.get.rank_genes_groups_df(spots, None)[["group", "names", "scores", "logfoldchanges"]]
    table.columns = ["cluster", "gene", "score", "log2_fold_change"]
    table.insert(0, "of", what)
    table.insert(0, "section", source.section.name)
    yield table


def _scores(
    name: str, groups: Mapping[str, Shaped[Array, " n_spots"]], labels: Shaped[Array, " n_spots"] | None
) -> Iterator[dict[str, Any]]:
    """Compare each clustering with the labels, and with the clusters of the measured expression."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    for what, found in groups.items():
        truths = {} if labels is None else {"labels": labels}
        truths |= {_MEASURED: groups[_MEASURED]} if _MEASURED in groups and what != _MEASURED else {}
        for other, truth in truths.items() or [("", None)]:
            row = {"section": name, "of": what, "n_clusters": len({*found} - {""}), "with": other}
            scored = (found != "") if truth is None else (found != "") & (truth != "")
            pair = None if truth is None or not scored.any() else (truth[scored], found[scored])
            ari, nmi = (
                math.nan if pair is None else float(score(*pair))
                for score in (adjusted_rand_score, normalized_mutual_info_score)
            )
            yield {**row, "n_spots": int(scored.sum()), "ari": ari, "nmi": nmi}


def _morans(source: _Source) -> pd.DataFrame:
    """Compute Moran's I of the measured and of the predicted map of each measured gene."""
    known, section = source.is_known, source.section
    weights = spatial_knn_graph(section.xy_px[known], k=DEFAULT_K, unit="px").connectivities
    is_measured = np.isfinite(source.spaces[_MEASURED][known]).all(axis=0)
    maps = {what: source.spaces[what][known][:, is_measured] for what in (_MEASURED, _PREDICTED)}
    table = {"section": section.name, "gene": section.adata.var_names[is_measured]}
    return pd.DataFrame({**table, **{what: morans_i(values, weights) for what, values in maps.items()}})
