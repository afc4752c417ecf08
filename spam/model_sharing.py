"""`spam model`: describe, verify, push and pull a checkpoint."""

import dataclasses
import hashlib
import logging
from pathlib import Path

from spam.atomic import claimed, replacing
from spam.encoders import read_adapter
from spam.encoders.lora_adapter import CARD, CONFIG, WEIGHTS, frozen_name
from spam.errors import OutputExistsError, StoreError
from spam.model_card import ModelReport, describe_file, model_card, usage
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import ADAPTER_NAME, CHECKPOINT_NAME
from spam.schemas.model_config import ModelConfig, ModelPullConfig, ModelPushConfig
from spam.schemas.records import Record
from spam.store import local_file
from spam.store.destinations import destination
from spam.store.remote import RemoteLocation, cache_folder, is_remote, shown, split_address, stated_digest
from spam.store.sharing_terms import model_objections, require_sharing_allowed, usual_name

_log = logging.getLogger(__name__)
_README, _DIGEST = "README.md", f"{CHECKPOINT_NAME}.sha256"
_ADAPTER_FILES = (CARD, CONFIG, WEIGHTS)
_ADVICE = "State a missing licence with --licence (of `spam embed`, before training, or of `spam model push`)"


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
    return describe_file(local_file(config.ckpt, CHECKPOINT_NAME), _shown(config.ckpt))


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
    path, address = local_file(config.ckpt, CHECKPOINT_NAME), shown(str(config.to)).rstrip("/")
    if address.endswith(Path(CHECKPOINT_NAME).suffix) or (is_remote(address) and "#" in address):
        message = f"{address!r} names a file. Push to its folder or repository, such as hf://org/name."
        raise StoreError(message)
    model = describe_file(path, path.name)
    if config.licence is not None:
        stated = usual_name(config.licence)
        licences = {name: licence or stated for name, licence in model.licences.items()}
        objections = model_objections(model.encoders, licences)
        model = dataclasses.replace(model, licences=licences, objections=objections)
    has_the_right = config.i_have_the_right_to_share
    require_sharing_allowed("checkpoint", model.objections, _ADVICE, has_the_right=has_the_right)
    files = {CHECKPOINT_NAME: path, **_adapter_files(path, str(model.encoders[0]["name"]))}
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
        use=usage(model, exact),
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
        model = describe_file(source, shown(config.address))
        adapter = [f"{ADAPTER_NAME}/{name}" for name in _ADAPTER_FILES]
        wanted = [_README, *(adapter if frozen_name(str(model.encoders[0]["name"])) else ())]
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
        use=usage(model, exact),
        sha256=model.sha256,
        files=tuple(files),
    )
