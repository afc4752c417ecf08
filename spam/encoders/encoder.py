"""A built encoder: uint8 tiles in, float32 features out."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from spam.errors import EncoderError
from spam.schemas.adapter_card import AdapterCard
from spam.schemas.encoder_card import EncoderCard
from spam.typing import Array, Float32

from .network import TileNetwork, weights_digest

__all__ = ["Encoder"]

_log = logging.getLogger(__name__)

_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Encoder:
    """A frozen encoder on a device.

    Parameters
    ----------
    network
        The network with its transform and its pooling.
    device
        Where it runs.
    is_amp
        Whether it runs in the mixed precision of its card; features are float32 all the same.
    is_averaged
        Whether features are means over the eight symmetries of the square: over the four turns of a tile, and of its
        mirror image.
    is_compiled
        Whether the network is compiled (`torch.compile`): the first batch takes minutes, the others less time.
    adapter
        Adapter that was merged into the network, or None.

    Attributes
    ----------
    card
        The card that the encoder was built from.
    weights_sha256
        Digest of the weights, see `weights_digest`; before an adapter was merged into them, since the sums of merging
        may be rounded in another way on another machine.
    lora_sha256
        Digest of the adapter that was merged into the weights, or None.
    device
        Where it runs.
    precision
        Arithmetic of the network: ``float32``, or the type of its mixed precision.
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
        self.weights_sha256 = adapter.weights_sha256 if adapter else weights_digest(network.backbone)
        self.lora_sha256 = adapter.adapter_sha256 if adapter else None
        seen = (*adapter.train_sections, *adapter.val_sections) if adapter else ()
        self.adapted_on = tuple(dict.fromkeys(seen))
        self.device = device
        # Tiles come with the channels last, and convolutions are up to twice as fast that way.
        moved = network.eval().requires_grad_(requires_grad=False).to(device)
        self._network: nn.Module = moved.to(memory_format=torch.channels_last)
        if is_compiled:
            self._network.compile()
        self.precision: Literal["float32", "float16", "bfloat16"] = (
            self.card.precision if is_amp else "float32"
        )
        self._is_averaged = is_averaged
        self._most: int | None = None  # tiles that fit into the memory at once, once that was found out

    def embed(self, tiles: Array) -> Float32[Array, "n_tiles dim"]:
        """Compute the features of tiles, all in one forward pass; no tiles give no rows.

        The parameters and errors are those of `begin`.
        """
        return self.begin(tiles)()

    def begin(self, tiles: Array) -> Callable[[], Float32[Array, "n_tiles dim"]]:
        """Begin to compute features, and return a function that waits for them.

        A GPU goes on with the next batch while the features of the last one are fetched and written; on the CPU they are
        there when this returns.

        Where the tiles do not fit into the memory of the device, they are embedded half by half, and so are all later
        ones; the log says so. Sums are taken in another order then, so last bits may differ.

        Parameters
        ----------
        tiles
            RGB tiles, uint8 (n_tiles, px, px, 3), of the side that the card asks for.

        Raises
        ------
        EncoderError
            If the tiles have another size or type, the features are not of the length that the card states, or not
            even one tile fits into the memory.
        """
        px = self.card.input_px
        if tiles.dtype != np.uint8 or tiles.shape[1:] != (px, px, 3):
            message = (
                f"encoder {self.card.name!r} takes uint8 tiles of {px} x {px} RGB pixels, not "
                f"{tiles.dtype} of shape {tiles.shape}; cut the tiles with TileSpec(out_px={px})"
            )
            raise EncoderError(message)
        if len(tiles) == 0:
            nothing = np.empty((0, self.card.dim), dtype=np.float32)
            return lambda: nothing
        features = self._in_parts(torch.from_numpy(np.require(tiles, requirements=["C", "W"])))
        if features.shape != (len(tiles), self.card.dim):
            message = (
                f"encoder {self.card.name!r} gave features of shape {tuple(features.shape)} for "
                f"{len(tiles)} tiles, expected {self.card.dim} numbers a tile as its card says; "
                "correct dim or pooling of the card"
            )
            raise EncoderError(message)
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

    def _in_parts(self, tiles: Tensor) -> Tensor:
        rows: list[Tensor] = []
        first = 0
        while first < len(tiles):
            part = tiles[first : first + (self._most or len(tiles))]
            try:
                rows.append(self._forward(part))
                first += len(part)
                continue
            except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's has no name of its own
                if not _is_out_of_memory(error):
                    raise
                self._halve(len(part), error)
            # Outside the handler: the error's traceback would keep the tensors of the failed pass.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return torch.cat(rows)

    def _halve(self, n_tiles: int, error: RuntimeError) -> None:
        where = f"the memory of {self.device}"
        if n_tiles == 1:
            message = (
                f"encoder {self.card.name!r} does not fit into {where} with a single tile; free memory, take "
                "a smaller encoder, or --amp, or another --device"
            )
            raise EncoderError(message) from error
        self._most = n_tiles // 2
        _log.warning(
            "%d tiles at once do not fit into %s; going on with %d (--batch-size %d says so at once)",
            n_tiles,
            where,
            self._most,
            self._most,
        )

    def _forward(self, tiles: Tensor) -> Tensor:
        autocast = (
            contextlib.nullcontext()
            if self.precision == "float32"
            else torch.autocast(self.device.type, _PRECISIONS[self.precision])
        )
        with torch.inference_mode(), autocast:
            if self.device.type == "cuda":  # the copy goes on beside the computation
                tiles = tiles.pin_memory().to(self.device, non_blocking=True)
            pixels = tiles.permute(0, 3, 1, 2)
            views = _symmetries(pixels) if self._is_averaged else (pixels,)
            total = sum(self._network(view).float() for view in views)
            features: Tensor = total / (8 if self._is_averaged else 1)
        return features


def _symmetries(pixels: Tensor) -> Iterator[Tensor]:
    """Yield square images, (n, c, h, w), turned by 0, 90, 180 and 270 degrees, and their mirror images likewise."""
    for image in (pixels, pixels.flip(3)):
        for turns in range(4):
            yield image.rot90(turns, (2, 3)).contiguous(memory_format=torch.channels_last)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in str(error)
