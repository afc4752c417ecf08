"""A built encoder: uint8 tiles in, float32 features out."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from spam.errors import EncoderError
from spam.schemas.encoder_card import AdapterCard, EncoderCard
from spam.typing import Array, Float32

from .lora_adapter import merge_adapter, peft_package, read_adapter
from .tile_network import TileNetwork, weights_digest
from .timm_models import build_timm_model

_log = logging.getLogger(__name__)
_PASS = 2  # tiles of a pass on the CPU: their outputs stay in its caches (benchmarks/results/embedding.md)


class Encoder:
    """A frozen encoder on a device.

    Parameters
    ----------
    is_amp
        Whether it runs in the mixed precision of its card; features are float32 in any case.
    is_averaged
        Whether features are means over the eight symmetries of the square (rotations and reflections of the tile).
    is_compiled
        Whether the network is compiled (`torch.compile`): the first batch takes minutes, the others less time.
    adapter
        Adapter that was merged into the network, or None.

    Attributes
    ----------
    card, device
        What was built, and where it runs.
    weights_sha256
        Digest of the weights before merging an adapter, because sums are rounded differently between machines.
    lora_sha256
        Digest of the merged adapter, or None.
    adapted_on
        Sections whose counts the adapter was trained on or chosen by.
    precision
        Arithmetic of the network: ``float32``, or the mixed precision of its card.
    """

    def __init__(
        self,
        network: TileNetwork,
        *,
        device: torch.device,
        is_amp: bool = False,
        is_averaged: bool = False,
        is_compiled: bool = False,
        adapter: AdapterCard | None = None,
    ) -> None:
        self.card: EncoderCard = network.card
        self.device = device
        self.weights_sha256 = adapter.weights_sha256 if adapter else weights_digest(network.backbone)
        self.lora_sha256 = adapter.adapter_sha256 if adapter else None
        seen = (*adapter.train_sections, *adapter.val_sections) if adapter else ()
        self.adapted_on = tuple(dict.fromkeys(seen))
        self.precision: Literal["float32", "float16", "bfloat16"] = (
            self.card.precision if is_amp else "float32"
        )
        # Tiles come channels-last, and convolutions are up to twice as fast that way.
        moved = network.eval().requires_grad_(requires_grad=False).to(device)
        self._network: nn.Module = moved.to(memory_format=torch.channels_last)
        if is_compiled:
            self._network.compile()
        self._is_averaged = is_averaged
        self._largest_batch: int | None = None  # less than the given tiles if memory is short

    def embed(self, tiles: Array) -> Float32[Array, "n_tiles dim"]:
        """Compute the features of tiles; see `begin`."""
        return self.begin(tiles)()

    def begin(self, tiles: Array) -> Callable[[], Float32[Array, "n_tiles dim"]]:
        """Start computing features, and return a function that waits for them.

        A GPU computes the next batch while the features of the last one are copied and written. On the CPU they are
        complete when this returns: each thread computes passes of two tiles by itself, because threads that share a pass wait
        for each other in every layer, and on busy cores they hardly do anything else. Features do not depend on the number of
        threads. Tiles that do not fit into the memory of the device are embedded in halves, and so are all later batches (logged).
        The order of sums then differs, so the last bits may differ.

        Parameters
        ----------
        tiles
            RGB tiles, uint8 (n_tiles, px, px, 3), px as in the card.

        Raises
        ------
        EncoderError
            If tiles have another shape than the card states, or a single tile does not fit into memory.
        """
        px = self.card.input_px
        if tiles.dtype != np.uint8 or tiles.shape[1:] != (px, px, 3):
            message = f"Encoder {self.card.name!r} takes uint8 tiles of {px} x {px} x 3, not {tiles.dtype} {tiles.shape}."
            raise EncoderError(message)
        given = torch.from_numpy(np.require(tiles, requirements=["C", "W"]))
        if self.device.type == "cpu":
            return self._by_threads(given).numpy
        features = self._in_parts(given)
        if self.device.type != "cuda":
            return features.numpy
        fetched = torch.empty_like(features, device="cpu", pin_memory=True)
        fetched.copy_(features, non_blocking=True)
        is_there = torch.cuda.Event()  # type: ignore[no-untyped-call]
        is_there.record(torch.cuda.current_stream(self.device))

        def wait() -> Float32[Array, "n_tiles dim"]:
            is_there.synchronize()
            return fetched.numpy()

        return wait

    def _by_threads(self, tiles: Tensor) -> Tensor:
        n_threads = torch.get_num_threads()
        if n_threads > 1:  # setting even the same number changes the last bits of MKL's sums
            torch.set_num_threads(1)  # of each of the new threads
        try:
            with ThreadPoolExecutor(n_threads) as threads:
                passes = (tiles[first : first + _PASS] for first in range(0, len(tiles), _PASS))
                return torch.cat(list(threads.map(self._in_parts, passes)))
        finally:
            if n_threads > 1:
                torch.set_num_threads(n_threads)

    def _in_parts(self, tiles: Tensor) -> Tensor:
        rows: list[Tensor] = []
        first = 0
        while first < len(tiles):
            part = tiles[first : first + (self._largest_batch or len(tiles))]
            try:
                rows.append(self._forward(part))
                first += len(part)
                continue
            except RuntimeError as error:
                # On the CPU, an allocation error has no separate class.
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate" not in str(error):
                    raise
                if len(part) == 1:
                    message = f"Encoder {self.card.name!r} exceeds the memory of {self.device}. Use --amp or another --device."
                    raise EncoderError(message) from error
            # Outside the handler, because the traceback would keep the tensors of the failed pass.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._largest_batch = len(part) // 2
            limits = (len(part), self.device, self._largest_batch)
            _log.warning(
                "%d tiles exceed the memory of %s; continuing with %d at a time (--batch-size)", *limits
            )
        return torch.cat(rows)

    def _forward(self, tiles: Tensor) -> Tensor:
        is_mixed = self.precision != "float32"
        autocast = torch.autocast(self.device.type, getattr(torch, self.card.precision), enabled=is_mixed)
        with torch.inference_mode(), autocast:
            if self.device.type == "cuda":  # the copy overlaps with computation
                tiles = tiles.pin_memory().to(self.device, non_blocking=True)
            pixels = tiles.permute(0, 3, 1, 2)
            if not self._is_averaged:
                features: Tensor = self._network(pixels).float()
                return features
            views = (
                image.rot90(turns, (2, 3)).contiguous(memory_format=torch.channels_last)
                for image in (pixels, pixels.flip(3))
                for turns in range(4)
            )
            total: Tensor = sum(self._network(view).float() for view in views)
            return total / 8


def build_network(card: EncoderCard) -> TileNetwork:
    """Build the pretrained network of a card on the CPU, for training.

    Raises
    ------
    EncoderError
        As `build_encoder`.
    """
    return TileNetwork(build_timm_model(card), card)


def build_encoder(
    card: EncoderCard, *, device: torch.device, lora: Path | str | None = None, **options: bool
) -> Encoder:
    """Build the pretrained encoder of a card.

    Parameters
    ----------
    **options
        `is_amp`, `is_averaged` and `is_compiled` of `Encoder`.
    lora
        Adapter folder of `spam adapt`, merged into the weights; the card of the result is `adapted_card`.

    Raises
    ------
    EncoderError
        If the weights are not available (licence, token, network) or do not fit, or the adapter is another encoder's.
    MissingInputError
        If there is no adapter in the folder.
    """
    adapter = None
    if lora is not None:  # checked before weights are downloaded
        adapter = read_adapter(lora)
        peft_package()
    network = build_network(card)
    if lora is not None:
        network = merge_adapter(network, lora)
    return Encoder(network, device=device, adapter=adapter, **options)
