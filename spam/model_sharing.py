"""`spam model`: describe, verify, push and pull a checkpoint; the model card that goes with it."""

import dataclasses
import hashlib
import logging
import shlex
from pathlib import Path

import numpy as np
from huggingface_hub import ModelCardData

from spam.atomic import claimed, replacing
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
from spam.store.remote import RemoteLocation, cache_folder, is_remote, shown, split_address, stated_digest
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
    encoder: dict[str, str | None]
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
    use
        Command that uses it.
    files
        What was sent or fetched.
    overridden
        Objections to sharing that were overridden.
    """

    source: str
    to: str
    address: str
    use: str
    sha256: str
    files: tuple[str, ...]
    overridden: tuple[str, ...] = ()

    def summary(self) -> str:
        """List what was transferred and overridden, and how to use it."""
        lines = [f"overridden: {line}" for line in self.overridden]
        lines.append(f"transferred {', '.join(self.files) or 'nothing: it is there'}")
        return "\n".join([*lines, f"SHA-256 {self.sha256} is at {self.to}. Use it with: {self.use}"])


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
        published = RemoteLocation(folder).read_digest(name)
    else:
        beside = Path(f"{local_file(str(config.ckpt), CHECKPOINT_NAME)}.sha256")
        published = beside.read_bytes() if beside.is_file() else None
    if published is not None:
        digest = stated_digest(published) or "no digest"
        if digest != found.sha256:
            message = (
                f"{found.name} is not the file that was published: its SHA-256 is {found.sha256[:12]}…; beside it, "
                f"{CHECKPOINT_NAME}.sha256 has {digest[:12]}. Fetch it again: spam model pull"
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
        held_out_pearson={gene: r for gene, (r, _) in accuracy.items()},
        reliable=tuple(gene for gene, (_, q) in accuracy.items() if q <= FALSE_DISCOVERY_RATE),
        n_new_donors=n_new_donors(meta) if is_final else 0,
        n_exposed=n_spots if n_spots <= n_spanned + 1 else len(tensors.get("bank.expression", ())),
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


def _use(stage: str, address: str) -> str:
    """Write the command that uses a checkpoint."""
    if stage == "pretrain":
        return (
            f"spam finetune --store cohort.zarr --pretrained-ckpt {shlex.quote(address)} --save-dir finetune"
        )
    return f"spam predict slide.svs --ckpt {shlex.quote(address)}"


def _covers(model: ModelReport) -> dict[str | None, dict[str, None]]:
    """List what is under each licence; None for what has no stated licence."""
    covers: dict[str | None, dict[str, None]] = {}
    for section, licence in model.licences.items():
        covers.setdefault(licence, {})[f"section {section}"] = None
    for name in encoder_licences(model.encoder) or (None,):
        covers.setdefault(name, {})[f"encoder {model.encoder['name']}"] = None
    return covers


def _text(model: ModelReport) -> str:
    where = model.name.partition("#")[0].rstrip("/")
    title = where.removesuffix(f"/{CHECKPOINT_NAME}").rsplit("/", 1)[-1].split("@")[0]
    use = _use(model.stage, f"{where}#sha256={model.sha256}" if is_remote(where) else where)
    encoder = model.encoder
    licences = " and ".join(encoder_licences(encoder)) or None
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
        If a licence forbids sharing, another checkpoint is at the address, or the address names a file or cannot be written to.
    """
    assert config.ckpt is not None  # checked by ModelPushConfig
    assert config.to is not None
    path, address = config.ckpt, shown(str(config.to)).rstrip("/")
    if address.endswith(Path(CHECKPOINT_NAME).suffix) or (is_remote(address) and "#" in address):
        message = f"{address!r} names a file. Push to its folder or repository, such as hf://org/name."
        raise StoreError(message)
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
    there = place.read(CHECKPOINT_NAME)
    is_same = hashlib.sha256(there).hexdigest() == model.sha256
    if there and not is_same and not config.overwrite:
        message = f"{address!r} has another {CHECKPOINT_NAME}. Push to another address, or replace it with --overwrite."
        raise StoreError(message)
    exposed = f"the expression of {model.n_exposed} training spots, " if model.n_exposed else ""
    names = ", ".join(model.donors)
    _log.warning("The checkpoint reveals %sdigests of its sections, and their names: %s", exposed, names)
    if is_same:
        files.pop(CHECKPOINT_NAME)
    # The path of a folder on this machine may name a person.
    folder = Path(address.removeprefix("file://")).resolve().name
    name = address if is_remote(address) else f"{folder}/{CHECKPOINT_NAME}"
    texts = {
        _DIGEST: f"{model.sha256}  {CHECKPOINT_NAME}\n",
        _README: model_card(dataclasses.replace(model, name=name)),
    }
    with progress.task("pushing", len(files)) as advance:
        for name, file in files.items():
            place.put(name, file.read_bytes(), file)
            advance(note=name)
        for name, text in texts.items():
            place.put(name, text.encode())
        place.finish()
    pinned = f"{shown(place.pinned)}#sha256={model.sha256}"
    exact = pinned if is_remote(address) else f"{address}/{CHECKPOINT_NAME}"
    return ModelTransfer(
        source=str(path),
        to=address,
        address=exact,
        use=_use(model.stage, exact),
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
        If the folder has another file of one of these names, without ``--overwrite``, or another process writes to it.
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
        adapter = [f"{ADAPTER_NAME}/{name}" for name in _ADAPTER_FILES]
        wanted = [_README, *(adapter if frozen_name(str(model.encoder["name"])) else ())]
        files = {name: data for name in wanted if (data := location.read_beside(name)) is not None}
        if lost := [name for name in wanted[1:] if name not in files]:
            message = f"{location.address!r} lacks the adapter of its encoder ({', '.join(lost)}). Ask the person who shared it."
            raise StoreError(message)
        files[_DIGEST] = f"{model.sha256}  {CHECKPOINT_NAME}\n".encode()
        files[CHECKPOINT_NAME] = source.read_bytes()
        old = {name: (out / name).read_bytes() for name in files if (out / name).is_file()}
        files = {name: data for name, data in files.items() if old.get(name) != data}
        if (others := [name for name in files if name in old]) and not config.overwrite:
            message = f"{str(out)!r} has another {', '.join(others)}. Choose another folder, or replace files with --overwrite."
            raise OutputExistsError(message)
        for name, data in files.items():
            (out / name).parent.mkdir(exist_ok=True)
            with replacing(out / name) as partial:
                partial.write_bytes(data)
        advance()
    exact = str(out / CHECKPOINT_NAME)
    return ModelTransfer(
        source=shown(config.address),
        to=str(out),
        address=exact,
        use=_use(model.stage, exact),
        sha256=model.sha256,
        files=tuple(files),
    )
