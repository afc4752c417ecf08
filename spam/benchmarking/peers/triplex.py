"""Target, neighbourhood and whole section, each with its own encoder and loss, fused by attention: the idea of TRIPLEX."""

import dataclasses

import torch
from torch import nn
from torch.nn.functional import mse_loss, scaled_dot_product_attention

from spam.benchmarking.method_inputs import InputView
from spam.benchmarking.method_training import Schedule
from spam.typing import Bool, Float, Int64

from .fitting import Peer, PeerNetwork, References
from .fold_tensors import FoldTensors

__all__ = ["TRIPLEX", "AttentionBlock", "MultiResolution"]

_DIM = 128
_HEADS = 4
_DROPOUT = 0.2
_DISTILLATION = 0.3  # alpha of the paper


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Outputs:
    """Centred expression from the fused token, and from each of the three views alone."""

    fused: torch.Tensor
    views: tuple[torch.Tensor, ...]


class AttentionBlock(nn.Module):
    """Attention and a feed-forward layer, both on normalised input and with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_DIM)
        self.query = nn.Linear(_DIM, _DIM, bias=False)
        self.key_value = nn.Linear(_DIM, 2 * _DIM, bias=False)
        self.out = nn.Sequential(nn.Linear(_DIM, _DIM), nn.Dropout(_DROPOUT))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(_DIM), nn.Linear(_DIM, 2 * _DIM), nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(2 * _DIM, _DIM)
        )  # fmt: skip

    def forward(
        self,
        query: Float[torch.Tensor, "b s dim"],
        tokens: Float[torch.Tensor, "b t dim"],
        is_usable: Bool[torch.Tensor, "b t"] | None = None,
    ) -> Float[torch.Tensor, "b s dim"]:
        """Let each query attend to the tokens; each row must have a usable one (None: all are)."""
        q = _split(self.query(self.norm(query)))
        k, v = (_split(part) for part in self.key_value(self.norm(tokens)).chunk(2, dim=-1))
        mask = None if is_usable is None else is_usable[:, None, None, :]
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        query = query + self.out(attended)
        out: torch.Tensor = query + self.feed_forward(query)
        return out


class MultiResolution(PeerNetwork):
    r"""Three views of a spot, each with an encoder and a head of its own, and a fusion that the views are distilled from.

    The target view is the spot's own image; the neighbour view is self-attention over it and its ``task.k`` nearest
    spots; the global view is self-attention over all spots of the section and their places. The global token attends to
    the target token and, with the same layer, to the neighbour tokens; the sum is the fused token. The loss is

    .. math:: \|f - y\|^2 + \sum_v (1 - \alpha) \|f_v - y\|^2 + \alpha \|f - f_v\|^2, \qquad \alpha = 0.3

    with mean squares over rows and genes. Memory grows with the square of a section's spots.

    Source: TRIPLEX, Chung et al., CVPR 2024, arXiv 2403.07592; code of the authors at github.com/NEXGEM/TRIPLEX.
    Relative to the paper: the target encoder is a small network on frozen features that all methods share (a ResNet-18
    that is trained there), so there is one target token instead of 49; neighbour tokens are the nearest spots instead
    of 25 tiles of a larger field; places enter by a small network instead of a convolution over the spots' grid; one
    layer of width 128 per encoder instead of two of 512; outputs are centred, so they are not cut off at zero.
    """

    def __init__(self, fold: FoldTensors, n_genes: int) -> None:
        super().__init__(fold)
        n_inputs = fold.inputs.shape[1]
        self.target = nn.Sequential(
            nn.Linear(n_inputs, _DIM), nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(_DIM, _DIM)
        )
        self.neighbour_input, self.global_input = nn.Linear(n_inputs, _DIM), nn.Linear(n_inputs, _DIM)
        self.place = nn.Sequential(nn.Linear(2, _DIM), nn.GELU(), nn.Linear(_DIM, _DIM))
        self.offset = nn.Linear(fold.offset.shape[2], _DIM, bias=False)
        self.neighbour_block, self.global_block = AttentionBlock(), AttentionBlock()
        self.fusion_block = AttentionBlock()
        self.norm = nn.LayerNorm(_DIM)
        self.dropout = nn.Dropout(_DROPOUT)
        self.heads = nn.ModuleList([nn.Linear(_DIM, n_genes) for _ in range(4)])

    def forward(self, rows: Int64[torch.Tensor, " b"]) -> _Outputs:
        """Centred expression of these rows, from each view and fused."""
        target = self.target(self.fold.inputs[rows])
        neighbours, is_usable = self._neighbour_tokens(rows)
        whole = self._global_tokens(rows)
        fused = self.fusion_block(whole[:, None], target[:, None])
        fused = self.norm(fused + self.fusion_block(whole[:, None], neighbours, is_usable))[:, 0]
        n_usable = is_usable.sum(dim=1, keepdim=True)
        mean_neighbour = (neighbours * is_usable[:, :, None]).sum(dim=1) / n_usable
        tokens = (fused, target, mean_neighbour, whole)
        first, *views = (head(self.dropout(token)) for head, token in zip(self.heads, tokens, strict=True))
        return _Outputs(fused=first, views=tuple(views))

    def loss(
        self, rows: Int64[torch.Tensor, " b"], expression: Float[torch.Tensor, "b n_genes"]
    ) -> Float[torch.Tensor, ""]:
        """Squared errors of fusion and views, and what sets the views apart from the fusion."""
        out = self(rows)
        total = mse_loss(out.fused, expression)
        for view in out.views:
            total = total + (1 - _DISTILLATION) * mse_loss(view, expression)
            total = total + _DISTILLATION * mse_loss(view, out.fused)
        return total

    def predict(
        self, rows: Int64[torch.Tensor, " b"], references: References
    ) -> Float[torch.Tensor, "b n_genes"]:
        """Centred expression from the fused token; `references` are not looked at."""
        out: _Outputs = self(rows)
        return out.fused

    def _neighbour_tokens(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of each spot and its neighbours (b, 1 + t, dim), and which of them are there."""
        fold = self.fold
        own = self.neighbour_input(fold.inputs[rows])[:, None]
        others = self.neighbour_input(fold.inputs[fold.neighbours[rows]]) + self.offset(fold.offset[rows])
        tokens = torch.cat([own, others], dim=1)
        is_usable = torch.cat([torch.ones(len(rows), 1, dtype=torch.bool), fold.is_usable[rows]], dim=1)
        return self.neighbour_block(tokens, tokens, is_usable), is_usable

    def _global_tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """Tokens of these rows after each has attended to all spots of its section, (b, dim)."""
        fold = self.fold
        section = fold.section[rows]
        out = fold.inputs.new_empty(len(rows), _DIM)
        for number in section.unique():  # type: ignore[no-untyped-call]
            everywhere = fold.section == number
            tokens = self.global_input(fold.inputs[everywhere]) + self.place(fold.place[everywhere])
            is_asked = section == number
            own = self.global_input(fold.inputs[rows[is_asked]]) + self.place(fold.place[rows[is_asked]])
            out[is_asked] = self.global_block(own[None], tokens[None])[0]
        return out


def _split(x: torch.Tensor) -> torch.Tensor:
    """Split channels among the heads: (b, n, dim) -> (b, heads, n, dim / heads)."""
    heads: torch.Tensor = x.unflatten(-1, (_HEADS, -1))  # type: ignore[no-untyped-call]
    return heads.transpose(1, 2)


TRIPLEX = Peer(
    name="TRIPLEX-style",
    view=InputView(),
    build=MultiResolution,
    schedule=Schedule(epochs=24, lr=5e-4, batch_size=128),
)
