"""The model card of a checkpoint: what it is, what it may be used for, and how well it was measured, in words and tables."""

import dataclasses
import hashlib
import shlex
from pathlib import Path

import numpy as np
from huggingface_hub import ModelCardData

from spam.models.checkpoint import from_tensors, read_checkpoint, read_checkpoint_meta
from spam.models.reliability import FALSE_DISCOVERY_RATE, HeldOut
from spam.prediction.predictor import CALIBRATING_DONORS, n_new_donors
from spam.schemas.checkpoint_meta import CHECKPOINT_NAME
from spam.schemas.records import Record
from spam.schemas.tile_spec import TileSpec
from spam.store.remote import is_remote
from spam.store.sharing_terms import (
    encoder_licences,
    hub_licences,
    inline,
    licence_lines,
    model_objections,
    table,
    terms_lines,
    usual_name,
)

_TAGS = ["spatial-transcriptomics", "histology", "pathology", "biology", "gene-expression", "spam"]
_N_BEST = 20  # genes in the table of the card; all are in the list below it
_USE = (
    "Research on H&E sections of the same tissue, stain and scale as the training sections: to form hypotheses, and to choose "
    "what to measure. It is not a medical device: do not use it for diagnosis or treatment."
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport(Record):
    """What a checkpoint is, from its own metadata.

    Attributes
    ----------
    name
        Path or address.
    sha256, n_bytes
        Digest and size of the file.
    stage
        ``finetune`` for a checkpoint that predicts, ``pretrain`` for one to start from.
    encoders, tiles
        Encoder (name, source, revision, licence and digest of its weights) and tile size (e.g. ``112um``) of each feature
        array.
    donors
        Number of the donor of each section, None if unknown.
    licences
        Licence of counts and images of each section, None if unstated.
    genes
        Modelled genes.
    held_out_pearson
        Correlation of each gene on held-out spots, None where it is not defined; empty before `spam finetune`.
    reliable
        Genes whose correlation exceeds what smooth maps reach by chance (false discovery rate 5 %).
    n_new_donors
        Donors that were held out and so predicted as new ones; 0 if held-out spots are of donors that were trained on.
    n_exposed
        Training spots whose expression is in the file (``--with-bank``), or can be computed from it and their features: the ridge
        of HEST interpolates spots that are no more than its components.
    objections
        What the licences of encoder and data forbid.
    """

    name: str
    sha256: str
    n_bytes: int
    stage: str
    encoders: tuple[dict[str, str | None], ...]
    tiles: tuple[str, ...]
    donors: dict[str, int | None]
    licences: dict[str, str | None]
    genes: tuple[str, ...]
    held_out_pearson: dict[str, float | None]
    reliable: tuple[str, ...]
    n_new_donors: int
    n_exposed: int
    objections: tuple[str, ...]

    def summary(self) -> str:
        """Return the text of the model card; on a terminal, its tables are drawn."""
        return _text(self).replace("\\", "")


def describe_file(path: Path, name: str) -> ModelReport:
    """Read a checkpoint whole, and describe it under a name: its path or its address."""
    stage = read_checkpoint_meta(path).stage
    # a state that serves to resume a run has no other stage, which is said
    meta, tensors = read_checkpoint(path, stage=stage if stage in ("pretrain", "finetune") else "finetune")
    is_final = stage == "finetune"
    heldout = from_tensors(HeldOut, tensors, "heldout") if is_final else None
    judged = (
        zip(meta.genes, heldout.pearson.tolist(), heldout.q_value.tolist(), strict=True) if heldout else ()
    )
    accuracy = {gene: (r if np.isfinite(r) else None, q) for gene, r, q in judged}
    # as many components as spots minus 1 span all spots
    n_spots, n_spanned = (
        len(tensors.get(name, ())) for name in ("appearance.bank", "baseline.transform.components")
    )
    licences = {section: usual_name(meta.licences.get(section)) for section in meta.donors}
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ModelReport(
        name=name,
        sha256=sha256,
        n_bytes=path.stat().st_size,
        stage=stage,
        encoders=meta.encoders,
        tiles=tuple(TileSpec.from_mapping(tile).label for tile in meta.tiles),
        donors=meta.donors,
        licences=licences,
        genes=meta.genes,
        held_out_pearson={gene: r for gene, (r, _) in accuracy.items()},
        reliable=tuple(gene for gene, (_, q) in accuracy.items() if q <= FALSE_DISCOVERY_RATE),
        n_new_donors=n_new_donors(meta) if is_final else 0,
        n_exposed=n_spots if n_spots <= n_spanned + 1 else len(tensors.get("bank.expression", ())),
        objections=model_objections(meta.encoders, licences),
    )


def model_card(model: ModelReport) -> str:
    """Write the README of a shared checkpoint as a model card of the Hugging Face Hub; its name is the address."""
    names = hub_licences(_covers(model))
    header = ModelCardData(
        license="other" if len(names) > 1 else names[0],
        license_name="-and-".join(names) if len(names) > 1 else None,
        library_name="spam-st",
        tags=_TAGS,
    )
    return f"---\n{header.to_yaml()}\n---\n\n{_text(model)}\n"


def usage(model: ModelReport, address: str) -> str:
    """Write the command that uses a checkpoint; features of several encoders come from a store."""
    if model.stage == "pretrain":
        return (
            f"spam finetune --store cohort.zarr --pretrained-ckpt {shlex.quote(address)} --save-dir finetune"
        )
    is_of_one = len({encoder["name"] for encoder in model.encoders}) == 1
    tissue = "slide.svs" if is_of_one else "--store cohort.zarr --section C2 --out-dir predicted"
    return f"spam predict {tissue} --ckpt {shlex.quote(address)}"


def _covers(model: ModelReport) -> dict[str | None, dict[str, None]]:
    """List what is under each licence; None for what has no stated licence."""
    covers: dict[str | None, dict[str, None]] = {}
    for section, licence in model.licences.items():
        covers.setdefault(licence, {})[f"section {section}"] = None
    for encoder in model.encoders:
        for name in encoder_licences(encoder) or (None,):
            covers.setdefault(name, {})[f"encoder {encoder['name']}"] = None
    return covers


def _text(model: ModelReport) -> str:
    where = model.name.partition("#")[0].rstrip("/")
    title = where.removesuffix(f"/{CHECKPOINT_NAME}").rsplit("/", 1)[-1].split("@")[0]
    use = usage(model, f"{where}#sha256={model.sha256}" if is_remote(where) else where)
    rows: dict[tuple[str | None, ...], list[str]] = {}
    for encoder, tile in zip(model.encoders, model.tiles, strict=True):
        card = [encoder.get(name) for name in ("name", "source", "revision")]
        rows.setdefault((*card, " and ".join(encoder_licences(encoder)) or None), []).append(tile)
    donors = [*model.donors.values()]
    n_known = len({*donors} - {None})
    known = {gene: r for gene, r in model.held_out_pearson.items() if r is not None}
    ranked = sorted(model.genes, key=lambda gene: -known.get(gene, -2.0))  # undefined ones last
    measured = [(gene, f"{known[gene]:.2f}") for gene in ranked if gene in known]
    unseen = f"{model.n_new_donors} new donor{'s' if model.n_new_donors > 1 else ''}"
    judged_on = unseen if model.n_new_donors else "sections of donors that were trained on"
    accuracy = []
    if known:
        found = (
            f"On held-out spots of {judged_on}, the median correlation within a section is {np.median([*known.values()]):.3f}; "
            f"{len(model.reliable)} of {len(model.genes)} genes are predicted better than by chance. The best:"
        )
        accuracy = [found, table(("gene", "held-out correlation"), measured[:_N_BEST])]
    blocks = [
        f"# {inline(title)}",
        "A checkpoint of SPAM, which predicts spatially resolved gene expression from H&E histology.",
        f"```bash\npip install spam-st\n{use}\n```",
        f"SHA-256 {model.sha256}, {model.n_bytes / 1e6:.1f} MB",
        "## Encoder",
        table(
            ("encoder", "source", "revision", "licence", "tiles"),
            ((*row, ", ".join(tiles)) for row, tiles in rows.items()),
        ),
        "## Training data",
        f"Sections: {len(donors)}. Known donors: {n_known}. Names of donors are not stored.",
        table(
            ("section", "donor", "licence of counts and images"),
            (
                (name, None if donor is None else donor + 1, model.licences[name])
                for name, donor in model.donors.items()
            ),
        ),
        f"## {len(model.genes)} genes",
        *accuracy,
        "All: " + inline(", ".join(" ".join(row) for row in measured) or ", ".join(ranked)),
        "## Intended use",
        _USE,
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(model)),
        "## Licences",
        "\n".join([*licence_lines(_covers(model)), *terms_lines(model.encoders)]),
        *(["### Objections to sharing"] if model.objections else []),
        "\n".join(f"- {inline(line)}" for line in model.objections),
    ]
    return "\n\n".join(filter(None, blocks))


def _limits(model: ModelReport) -> list[str]:
    """List what a user has to know before trusting a prediction."""
    if model.stage == "pretrain":
        return ["It predicts nothing by itself: it is the start of `spam finetune`."]
    n_poor = len(model.genes) - len(model.reliable)
    limits = {
        f"{n_poor} of {len(model.genes)} genes are not predicted better than by chance; `is_predictable` in the output marks the "
        "others.": n_poor,
        "Accuracy was not measured on new donors. Expect less there.": not model.n_new_donors,
        f"Predictive intervals were not calibrated on {CALIBRATING_DONORS} or more new donors; they are widened, and the "
        "output says so.": model.n_new_donors < CALIBRATING_DONORS,
        "Other tissues, stains or scanners lower the accuracy; `bank_distance` in the output shows how far the images are from "
        "those of training.": True,
        "Predictions are smoother than measured expression.": True,
        f"The expression of {model.n_exposed} training spots is in the file, or can be computed from it and their "
        "images.": model.n_exposed,
    }
    return [line for line, holds in limits.items() if holds]
