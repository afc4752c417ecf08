"""`spam model`: describe, verify, push and pull a checkpoint; the model card that goes with it."""

import dataclasses
import hashlib
import logging
import shlex
import shutil
from pathlib import Path

import numpy as np
from huggingface_hub import ModelCardData

from spam.atomic import claimed, replacing, write_text
from spam.encoders import read_adapter
from spam.encoders.lora_adapter import CARD, CONFIG, WEIGHTS, frozen_name
from spam.errors import OutputExistsError, StoreError
from spam.models.checkpoint import from_tensors, read_checkpoint, read_checkpoint_meta
from spam.models.reliability import FALSE_DISCOVERY_RATE, HeldOut
from spam.prediction.predictor import CALIBRATING_DONORS, n_new_donors
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import ADAPTER_NAME, CHECKPOINT_NAME
from spam.schemas.config import Record
from spam.schemas.model_config import ModelConfig, ModelPullConfig, ModelPushConfig
from spam.schemas.tile_spec import TileSpec
from spam.store import local_file
from spam.store.destinations import destination
from spam.store.remote import RemoteLocation, cache_folder, is_remote, shown, split_address
from spam.store.sharing_terms import (
    encoder_licences,
    hub_licences,
    inline,
    licence_lines,
    model_objections,
    require_sharing_allowed,
    table,
    terms_lines,
    usual_name,
)

_log = logging.getLogger(__name__)
_README, _DIGEST = "README.md", f"{CHECKPOINT_NAME}.sha256"
_ADAPTER_FILES = (CARD, CONFIG, WEIGHTS)
_TAGS = ["spatial-transcriptomics", "histology", "pathology", "biology", "gene-expression", "spam"]
_N_BEST = 20  # genes in the table of the card; all are in the list below it
_ADVICE = "State a missing licence with --licence (of `spam embed`, before training, or of `spam model push`)"
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
    encoder
        Name, source, revision and licence of the encoder.
    tiles
        Tile sizes, e.g. ``112um``.
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
    n_bank
        Training spots whose expression is in the file (``--with-bank``).
    objections
        What the licences of encoder and data forbid.
    """

    name: str
    sha256: str
    n_bytes: int
    stage: str
    encoder: dict[str, str | None]
    tiles: tuple[str, ...]
    donors: dict[str, int | None]
    licences: dict[str, str | None]
    genes: tuple[str, ...]
    held_out_pearson: dict[str, float | None]
    reliable: tuple[str, ...]
    n_new_donors: int
    n_bank: int
    objections: tuple[str, ...]

    def summary(self) -> str:
        """Return the text of the model card; on a terminal, its tables are drawn."""
        return _text(self).replace("\\", "")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport(Record):
    """Outcome of `verify`: the digest of an intact checkpoint, and what it was compared with."""

    name: str
    sha256: str
    compared_with: tuple[str, ...]

    def summary(self) -> str:
        """Say that it is intact, and how that was found."""
        return f"{self.name} is intact: SHA-256 {self.sha256}\ncompared with {', '.join(self.compared_with)}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelTransfer(Record):
    """Outcome of `push` and `pull`.

    Attributes
    ----------
    source, to
        Source and destination.
    address
        Address that names exactly this file, for ``--ckpt``; a path after `pull`.
    files
        What was sent or fetched.
    overridden
        Objections to sharing that were overridden.
    """

    source: str
    to: str
    address: str
    sha256: str
    files: tuple[str, ...]
    overridden: tuple[str, ...] = ()

    def summary(self) -> str:
        """List what was transferred and overridden, and how to use it."""
        lines = [f"overridden: {line}" for line in self.overridden]
        lines.append(f"transferred {', '.join(self.files) or 'nothing: it is there'}")
        use = f"spam predict slide.svs --ckpt {shlex.quote(self.address)}"
        return "\n".join([*lines, f"SHA-256 {self.sha256} is at {self.to}. Use it with: {use}"])


def describe(config: ModelConfig, *, progress: Progress = SILENT) -> ModelReport:
    """Describe a checkpoint, whole: its digests are compared too.

    Raises
    ------
    MissingInputError, CheckpointError, StoreError
        If the file does not exist, cannot be fetched, is damaged or is no finished checkpoint.
    """
    assert config.ckpt is not None  # checked by ModelConfig
    return _described(local_file(config.ckpt, CHECKPOINT_NAME), _shown(config.ckpt))


def verify(config: ModelConfig, *, progress: Progress = SILENT) -> VerifyReport:
    """Compare a checkpoint with every digest that there is: in the file, beside it, and after its address.

    Raises
    ------
    MissingInputError, CheckpointError, StoreError
        If the file does not exist, cannot be fetched, or differs from a digest.
    """
    found = describe(config, progress=progress)
    compared = ["the digest in the file"]
    if is_remote(config.ckpt or ""):
        folder, name, pin = split_address(str(config.ckpt), CHECKPOINT_NAME)
        if pin is not None:
            compared.append("the digest after the address")
        published = RemoteLocation(folder).published_digest(name)
    else:
        beside = Path(f"{config.ckpt}.sha256")
        published = beside.read_text(encoding="ascii", errors="replace")[:64] if beside.is_file() else None
    if published is not None:
        if published != found.sha256:
            message = (
                f"{found.name} is not the file that was published: its SHA-256 is {found.sha256[:12]}…, not "
                f"{published[:12]}… as {CHECKPOINT_NAME}.sha256 says. Fetch it again: spam model pull"
            )
            raise StoreError(message)
        compared.append("the digest beside it")
    return VerifyReport(name=found.name, sha256=found.sha256, compared_with=tuple(compared))


def _shown(address: Path | str) -> str:
    return shown(address) if isinstance(address, str) else str(address)


def _described(path: Path, name: str) -> ModelReport:
    stage = read_checkpoint_meta(path).stage
    # a state that serves to resume a run has no other stage, which is said
    meta, tensors = read_checkpoint(path, stage=stage if stage in ("pretrain", "finetune") else "finetune")
    heldout = from_tensors(HeldOut, tensors, "heldout") if stage == "finetune" else None
    pearson, q = ([], []) if heldout is None else (heldout.pearson.tolist(), heldout.q_value.tolist())
    licences = {section: usual_name(meta.licences.get(section)) for section in meta.donors}
    encoder = {**meta.encoder, "name": meta.encoder_name}
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ModelReport(
        name=name,
        sha256=sha256,
        n_bytes=path.stat().st_size,
        stage=stage,
        encoder=encoder,
        tiles=tuple(TileSpec.from_mapping(tile).label for tile in meta.tiles),
        donors=meta.donors,
        licences=licences,
        genes=meta.genes,
        held_out_pearson={
            gene: r if np.isfinite(r) else None for gene, r in zip(meta.genes, pearson, strict=False)
        },
        reliable=tuple(
            gene for gene, value in zip(meta.genes, q, strict=False) if value <= FALSE_DISCOVERY_RATE
        ),
        n_new_donors=n_new_donors(meta) if stage == "finetune" else 0,
        n_bank=len(tensors.get("bank.expression", ())),
        objections=model_objections(encoder, licences),
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


def _covers(model: ModelReport) -> dict[str | None, dict[str, None]]:
    """List what is under each licence; None for what has no stated licence."""
    covers: dict[str | None, dict[str, None]] = {}
    for section, licence in model.licences.items():
        covers.setdefault(licence, {})[f"section {section}"] = None
    for name in encoder_licences(model.encoder) or (None,):
        covers.setdefault(name, {})[f"encoder {model.encoder['name']}"] = None
    return covers


def _text(model: ModelReport) -> str:
    title = model.name.rstrip("/").rsplit("/", 1)[-1].split("@")[0]
    ckpt = shlex.quote(f"{model.name}#sha256={model.sha256}" if is_remote(model.name) else model.name)
    use = f"spam predict slide.svs --ckpt {ckpt}"
    if model.stage == "pretrain":
        use = f"spam finetune --store cohort.zarr --pretrained-ckpt {ckpt} --save-dir finetune"
    encoder = model.encoder
    licences = " and ".join(encoder_licences(encoder)) or None
    donors = [*model.donors.values()]
    n_known = len({*donors} - {None})
    known = {gene: r for gene, r in model.held_out_pearson.items() if r is not None}
    ranked = sorted(model.genes, key=lambda gene: -known.get(gene, -2.0))  # undefined ones last
    measured = [(gene, f"{known[gene]:.2f}") for gene in ranked if gene in known]
    where = f"{model.n_new_donors} new donors" if model.n_new_donors else "donors that were trained on"
    accuracy = []
    if known:
        found = (
            f"On held-out spots of {where}, the median correlation within a section is {np.median([*known.values()]):.3f}; "
            f"{len(model.reliable)} genes are predicted better than by chance. The best:"
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
            [(*map(encoder.get, ("name", "source", "revision")), licences, ", ".join(model.tiles))],
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
        "\n".join([*licence_lines(_covers(model)), *terms_lines([encoder])]),
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
        f"{n_poor} genes are not predicted better than by chance; `is_predictable` in the output marks the others.": n_poor,
        "Accuracy was not measured on new donors. Expect less there.": not model.n_new_donors,
        f"Predictive intervals were not calibrated on {CALIBRATING_DONORS} or more new donors; they are widened, and the "
        "output says so.": model.n_new_donors < CALIBRATING_DONORS,
        "Other tissues, stains or scanners lower the accuracy; `bank_distance` in the output shows how far the images are from "
        "those of training.": True,
        "Predictions are smoother than measured expression.": True,
        f"The file contains the expression of {model.n_bank} training spots.": model.n_bank,
    }
    return [line for line, holds in limits.items() if holds]


def _adapter_files(path: Path, encoder: str) -> dict[str, Path]:
    """Find the adapter beside a checkpoint of an adapted encoder; empty for other encoders."""
    folder = path.parent / ADAPTER_NAME
    if frozen_name(encoder) is None:
        return {}
    found = read_adapter(folder).encoder_name if folder.is_dir() else None
    if found != encoder:
        message = (
            f"{path} was trained on features of the adapted encoder {encoder!r}, and {folder} does not hold its adapter. Copy the "
            "folder of the adapter there."
        )
        raise StoreError(message)
    return {f"{ADAPTER_NAME}/{name}": folder / name for name in _ADAPTER_FILES}


def push(config: ModelPushConfig, *, progress: Progress = SILENT) -> ModelTransfer:
    """Share a checkpoint with its digest and its model card: on the Hub, in an object store or in a folder.

    The adapter of an adapted encoder is sent too. On the Hub a push is one commit; elsewhere a file that is there already
    is not sent again.

    Raises
    ------
    MissingInputError, CheckpointError
        If the file does not exist, is damaged, or is no finished checkpoint.
    StoreError
        If a licence forbids sharing, another checkpoint is at the address, or it cannot be written to.
    """
    assert config.ckpt is not None  # checked by ModelPushConfig
    assert config.to is not None
    path, address = config.ckpt, shown(str(config.to)).rstrip("/")
    model = _described(path, path.name)
    if config.licence is not None:
        stated = usual_name(config.licence)
        licences = {name: licence or stated for name, licence in model.licences.items()}
        objections = model_objections(model.encoder, licences)
        model = dataclasses.replace(model, licences=licences, objections=objections)
    has_the_right = config.i_have_the_right_to_share
    require_sharing_allowed("checkpoint", model.objections, _ADVICE, has_the_right=has_the_right)
    files = {CHECKPOINT_NAME: path, **_adapter_files(path, str(model.encoder["name"]))}
    place = destination(
        str(config.to), cache_folder(), "model", source=path.parent, is_private=config.private
    )
    is_there = CHECKPOINT_NAME in place.found("")
    is_same = is_there and place.read(_DIGEST).decode("ascii", "replace").startswith(model.sha256)
    if is_there and not is_same and not config.overwrite:
        message = f"{address!r} has another {CHECKPOINT_NAME}. Push to another address, or replace it with --overwrite."
        raise StoreError(message)
    bank = f"the expression of {model.n_bank} training spots, " if model.n_bank else ""
    _log.warning("It contains %sdigests of its sections, and their names: %s", bank, ", ".join(model.donors))
    if is_same:
        files.pop(CHECKPOINT_NAME)
    texts = {
        _DIGEST: f"{model.sha256}  {CHECKPOINT_NAME}\n",
        # The path of a folder on this machine may name a person.
        _README: model_card(
            dataclasses.replace(model, name=address if is_remote(address) else Path(address).name)
        ),
    }
    with progress.task("pushing", len(files)) as advance:
        for name, file in files.items():
            place.put(name, file.read_bytes(), file)
            advance(note=name)
        for name, text in texts.items():
            place.put(name, text.encode())
        place.finish()
    return ModelTransfer(
        source=str(path),
        to=address,
        address=f"{shown(place.pinned)}#sha256={model.sha256}"
        if is_remote(address)
        else str(Path(address) / CHECKPOINT_NAME),
        sha256=model.sha256,
        files=(*files, *texts),
        overridden=model.objections,
    )


def pull(config: ModelPullConfig, *, progress: Progress = SILENT) -> ModelTransfer:
    """Fetch a shared checkpoint into a folder, with its digest, its model card and the adapter of its encoder.

    Raises
    ------
    StoreError
        If it cannot be fetched or has another digest than was published or given.
    CheckpointError
        If it is damaged or is no finished checkpoint.
    OutputExistsError
        If another checkpoint is in the folder, without ``--overwrite``, or another process writes to it.
    """
    assert config.address is not None  # checked by ModelPullConfig
    assert config.out is not None
    if not is_remote(config.address):
        message = f"{config.address!r} is not an address such as hf://org/name. Use a checkpoint on this machine where it is."
        raise StoreError(message)
    folder, _, _ = split_address(config.address, CHECKPOINT_NAME)
    location, out = RemoteLocation(folder), config.out
    with claimed(out, "OUT"), progress.task("pulling", 1) as advance:
        source = local_file(config.address, CHECKPOINT_NAME)
        model = _described(source, shown(config.address))
        target = out / CHECKPOINT_NAME
        is_there = target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == model.sha256
        if target.exists() and not is_there and not config.overwrite:
            message = (
                f"{target} is another checkpoint. Choose another folder, or replace it with --overwrite."
            )
            raise OutputExistsError(message)
        wanted = [_README]
        if frozen_name(str(model.encoder["name"])) is not None:
            wanted += [f"{ADAPTER_NAME}/{name}" for name in _ADAPTER_FILES]
        fetched = {name: data for name in wanted if (data := location.read_file(name)) is not None}
        for name, data in fetched.items():
            (out / name).parent.mkdir(exist_ok=True)
            with replacing(out / name) as partial:
                partial.write_bytes(data)
        write_text(out / _DIGEST, f"{model.sha256}  {CHECKPOINT_NAME}\n")
        if not is_there:
            with replacing(target) as partial:
                shutil.copyfile(source, partial)
        advance()
    return ModelTransfer(
        source=shown(config.address),
        to=str(out),
        address=str(target),
        sha256=model.sha256,
        files=(*([] if is_there else [CHECKPOINT_NAME]), *fetched),
    )
