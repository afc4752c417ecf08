"""An encoder with its adapter and the head that it is trained through: only these two learn."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from spam.encoders.tile_network import TileNetwork

__all__ = ["AdaptationNetwork"]


class AdaptationNetwork(nn.Module):
    """Encoder, adapter and head, as the training loop takes them.

    The frozen part works as it does when it embeds: batch statistics are not updated and nothing of it is dropped. A
    checkpoint holds what is trained, and nothing of the frozen weights.

    Parameters
    ----------
    encoder
        Network whose backbone has an adapter, see `add_lora`.
    head
        What the features are trained through.
    """

    def __init__(self, encoder: TileNetwork, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.train()

    def train(self, mode: bool = True) -> "AdaptationNetwork":  # noqa: FBT001, FBT002  as torch has it
        """Switch the dropout of adapter and head; everything else stays as in use."""
        super().train(mode)
        self.encoder.eval()
        for name, module in self.encoder.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # torch's overloads
        """Return what is trained."""
        trained = {name for name, value in self.named_parameters() if value.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,  # noqa: FBT001, FBT002  as torch has it
        assign: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """Load what `state_dict` returned; the frozen weights are there already."""
        if strict and (other := sorted(self.state_dict().keys() ^ state_dict.keys())):
            message = f"the state of an adaptation does not fit its network: {', '.join(other[:5])}"
            raise RuntimeError(message)
        with torch.no_grad():  # not strict: frozen weights are not in it, and what is was compared above
            return super().load_state_dict(state_dict, strict=False, assign=assign)
