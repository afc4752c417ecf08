"""Four published ideas, re-implemented on the same frozen features: ST-Net, BLEEP, TRIPLEX and DeepSpot/STFlow."""

import torch
from torch import nn
from torch.nn.functional import mse_loss, normalize, scaled_dot_product_attention

from spam.models.networks import CrossAttention
from spam.typing import Bool, Float

from .methods import InputView, Method, Schedule
from .peer_fitting import FoldTensors, Peer, PeerNetwork, References, Rows, Scalar, Values


class TileRegression(PeerNetwork):
    """One hidden layer from the components of a single tile to all genes, by squared error.

    Source: ST-Net, He et al. 2020, doi 10.1038/s41551-020-0578-x; DeepPT, Hoang et al. 2024, doi
    10.1038/s43018-024-00793-2. Relative to the papers: ST-Net fine-tunes a DenseNet-121 under a linear head; DeepPT
    compresses 2048 frozen ResNet-50 features to 512 by an autoencoder and averages five heads of 512 hidden units. Here
    features are frozen and come from the shared encoder, principal components replace the autoencoder, and features and
    targets are relative to their section.
    """

    def __init__(self, fold: FoldTensors, n_genes: int) -> None:
        super().__init__(fold)
        hidden = 512  # as in DeepPT
        self.layers = nn.Sequential(
            nn.Linear(fold.inputs.shape[1], hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, n_genes)
        )

    def forward(self, rows: Rows) -> Values:
        """Centred expression of these rows."""
        out: torch.Tensor = self.layers(self.fold.inputs[rows])
        return out


class ContrastiveRetrieval(PeerNetwork):
    """Aligns images with expression; predicts the mean profile of the 50 reference spots with the nearest profiles.

    Distance is the cosine between the embedding of the image and those of the reference *profiles*. Averages all
    references if there are fewer than 50.

    Source: BLEEP, Xie et al., NeurIPS 2023, arXiv 2306.01859; github.com/bowang-lab/BLEEP. Relative to the paper: the same
    projection heads (width 256, one hidden layer, residual, layer norm), soft targets, temperature 1 and average of the top
    50; the image encoder is frozen and shared by all methods, with all tile sizes, instead of a trained ResNet-50; profiles
    are centred within their section instead of aligned by Harmony.
    """

    def __init__(self, fold: FoldTensors, n_genes: int) -> None:
        super().__init__(fold)
        self.image_head = _ProjectionHead(fold.inputs.shape[1])
        self.profile_head = _ProjectionHead(n_genes)

    def loss(self, rows: Rows, expression: Values) -> Scalar:
        """Contrastive loss between the images of these rows and their profiles."""
        return soft_target_contrast(self.image_head(self.fold.inputs[rows]), self.profile_head(expression))

    def predict(self, rows: Rows, bank: References) -> Values:
        """Mean of the nearest profiles of the bank."""
        query = normalize(self.image_head(self.fold.inputs[rows]), dim=1)
        keys = normalize(self.profile_head(bank), dim=1)
        nearest = (query @ keys.T).topk(min(50, len(bank)), dim=1).indices
        return bank[nearest].mean(dim=1)


class _ProjectionHead(nn.Module):
    """Linear map, then a residual layer and layer norm."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        dim = 256
        self.project = nn.Linear(n_inputs, dim)
        self.refine = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(0.1))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Float[torch.Tensor, "b n_inputs"]) -> Float[torch.Tensor, "b d"]:
        projected = self.project(x)
        out: torch.Tensor = self.norm(projected + self.refine(projected))
        return out


def soft_target_contrast(
    image: Float[torch.Tensor, "b d"], profile: Float[torch.Tensor, "b d"]
) -> Float[torch.Tensor, ""]:
    r"""Symmetric contrastive loss with soft targets, so that similar spots are not negatives.

    .. math::
        L = \tfrac12 H(T, P I^\top) + \tfrac12 H(T, I P^\top), \qquad T = \mathrm{softmax}((I I^\top + P P^\top) / 2)

    with images `I`, profiles `P` and the row-wise cross-entropy `H`, a mean over rows; the temperature is 1.

    Relative to BLEEP: the authors' code uses the transpose of `T` for the second direction, whose rows do not sum to 1. The
    similarities are symmetric, so the softmax in that direction gives `T` itself.
    """
    logits = profile @ image.T
    targets = ((image @ image.T + profile @ profile.T) / 2).softmax(dim=1)
    by_profile, by_image = (-(targets * x.log_softmax(dim=1)).sum(dim=1) for x in (logits, logits.T))
    return (by_profile + by_image).mean() / 2


class NeighbourhoodSet(PeerNetwork):
    r"""Predicts from a spot, the maximum over its neighbours, and attention to them by content and relative position.

    .. math:: \hat y_i = \rho\big(\phi(x_i),\ \max_j \phi(x_j),\ \mathrm{attend}(\phi(x_i), \{\phi(x_j), r_{ij}\})\big)

    where `j` runs over the ``task.k`` nearest spots of the section. Without neighbours both terms are zero.

    Source: DeepSpot, Nonchev et al. 2025, doi 10.1101/2025.02.09.25321567; STFlow, Huang et al., ICML 2025, arXiv
    2506.05361. Relative to the papers: DeepSpot also sums over tiles inside the spot, and takes the median of ten `phi`
    and the mean of ten `rho`; here other tile sizes are part of each spot's input, and whole networks are averaged.
    STFlow refines a joint sample of the whole slide by flow matching with rotation-invariant attention; here attention
    over near spots is kept, and expression is regressed in one step by squared error.
    """

    def __init__(self, fold: FoldTensors, n_genes: int) -> None:
        super().__init__(fold)
        dim, heads, dropout = 128, 4, 0.3
        self.phi = nn.Sequential(nn.Linear(fold.inputs.shape[1], dim), nn.GELU(), nn.Dropout(dropout))
        self.attend = CrossAttention(dim, dim, dim, heads, bias_dim=fold.offset.shape[2], dropout=0.0)
        self.rho = nn.Sequential(nn.Dropout(dropout), nn.Linear(3 * dim, n_genes))

    def forward(self, rows: Rows) -> Values:
        """Centred expression of these rows."""
        fold = self.fold
        is_usable = fold.is_usable[rows]
        spot = self.phi(fold.inputs[rows])
        tokens = self.phi(fold.inputs[fold.neighbours[rows]])  # (b, t, dim)
        attended = self.attend(spot, tokens, fold.offset[rows], is_usable)
        # GELU is above -1, so an unused entry is the maximum only if the spot has no neighbour.
        masked = tokens.masked_fill(~is_usable[:, :, None], -1.0)
        has_any = is_usable.any(dim=1, keepdim=True)
        largest = masked.amax(dim=1) * has_any if masked.shape[1] else torch.zeros_like(spot)
        out: torch.Tensor = self.rho(torch.cat([spot, largest, attended], dim=1))
        return out


_TRIPLEX_DIM, _TRIPLEX_HEADS, _TRIPLEX_DROPOUT = 128, 4, 0.2
_DISTILLATION = 0.3  # alpha of the paper


class AttentionBlock(nn.Module):
    """Attention and a feed-forward layer, both pre-normalised and residual."""

    def __init__(self) -> None:
        super().__init__()
        dim, dropout = _TRIPLEX_DIM, _TRIPLEX_DROPOUT
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )  # fmt: skip

    def forward(
        self,
        query: Float[torch.Tensor, "b s dim"],
        tokens: Float[torch.Tensor, "b t dim"],
        is_usable: Bool[torch.Tensor, "b t"] | None = None,
    ) -> Float[torch.Tensor, "b s dim"]:
        """Let each query attend to the tokens; each row must have a usable one (None: all are)."""
        projected = (self.query(self.norm(query)), *self.key_value(self.norm(tokens)).chunk(2, dim=-1))
        # (b, n, dim) -> (b, heads, n, dim / heads)
        q, k, v = (x.unflatten(-1, (_TRIPLEX_HEADS, -1)).transpose(1, 2) for x in projected)
        mask = None if is_usable is None else is_usable[:, None, None, :]
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        query = query + self.out(attended)
        out: torch.Tensor = query + self.feed_forward(query)
        return out


class MultiResolution(PeerNetwork):
    r"""Three views of a spot, each with its encoder and head, distilled from a fusion of all three.

    The target view is the spot's own image; the neighbour view is self-attention over it and its ``task.k`` nearest
    spots; the global view is self-attention over all spots of the section and their coordinates. The global token attends
    to the target token and, with the same layer, to the neighbour tokens; the sum is the fused token. The loss is

    .. math:: \|f - y\|^2 + \sum_v (1 - \alpha) \|f_v - y\|^2 + \alpha \|f - f_v\|^2, \qquad \alpha = 0.3

    with mean squares over rows and genes. Memory grows with the square of a section's spots.

    Source: TRIPLEX, Chung et al., CVPR 2024, arXiv 2403.07592; github.com/NEXGEM/TRIPLEX. Relative to the paper: the target
    encoder is a small network on shared frozen features (there a trained ResNet-18), so there is one target token instead of
    49; neighbour tokens are the nearest spots instead of 25 tiles of a larger field; coordinates enter by a small network
    instead of a convolution over the spots' grid; one layer of width 128 per encoder instead of two of 512; outputs are
    centred, so they are not clipped at zero.
    """

    def __init__(self, fold: FoldTensors, n_genes: int) -> None:
        super().__init__(fold)
        n_inputs, dim = fold.inputs.shape[1], _TRIPLEX_DIM
        self.target = nn.Sequential(
            nn.Linear(n_inputs, dim), nn.GELU(), nn.Dropout(_TRIPLEX_DROPOUT), nn.Linear(dim, dim)
        )
        self.neighbour_input, self.global_input = nn.Linear(n_inputs, dim), nn.Linear(n_inputs, dim)
        self.place = nn.Sequential(nn.Linear(2, dim), nn.GELU(), nn.Linear(dim, dim))
        self.offset = nn.Linear(fold.offset.shape[2], dim, bias=False)
        self.neighbour_block, self.global_block = AttentionBlock(), AttentionBlock()
        self.fusion_block = AttentionBlock()
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(_TRIPLEX_DROPOUT)
        self.heads = nn.ModuleList([nn.Linear(dim, n_genes) for _ in range(4)])

    def forward(self, rows: Rows) -> Values:
        """Centred expression of these rows from the fused token."""
        return self.views(rows)[0]

    def views(self, rows: Rows) -> list[torch.Tensor]:
        """Centred expression of these rows from the fused token, then from target, neighbour and global view."""
        target = self.target(self.fold.inputs[rows])
        neighbours, is_usable = self._neighbour_tokens(rows)
        whole = self._global_tokens(rows)
        fused = self.fusion_block(whole[:, None], target[:, None])
        fused = self.norm(fused + self.fusion_block(whole[:, None], neighbours, is_usable))[:, 0]
        n_usable = is_usable.sum(dim=1, keepdim=True)
        mean_neighbour = (neighbours * is_usable[:, :, None]).sum(dim=1) / n_usable
        tokens = (fused, target, mean_neighbour, whole)
        return [head(self.dropout(token)) for head, token in zip(self.heads, tokens, strict=True)]

    def loss(self, rows: Rows, expression: Values) -> Scalar:
        """Squared errors of fusion and views, and the distillation term."""
        fused, *views = self.views(rows)
        total = mse_loss(fused, expression)
        for view in views:
            total = total + (1 - _DISTILLATION) * mse_loss(view, expression)
            total = total + _DISTILLATION * mse_loss(view, fused)
        return total

    def _neighbour_tokens(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of each spot and its neighbours (b, 1 + t, dim), and which of them are usable."""
        fold = self.fold
        own = self.neighbour_input(fold.inputs[rows])[:, None]
        others = self.neighbour_input(fold.inputs[fold.neighbours[rows]]) + self.offset(fold.offset[rows])
        tokens = torch.cat([own, others], dim=1)
        is_usable = torch.cat([torch.ones(len(rows), 1, dtype=torch.bool), fold.is_usable[rows]], dim=1)
        return self.neighbour_block(tokens, tokens, is_usable), is_usable

    def _global_tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """Tokens of these rows after attention to all spots of their section, (b, dim)."""
        fold = self.fold
        section = fold.section[rows]
        out = fold.inputs.new_empty(len(rows), _TRIPLEX_DIM)
        for number in section.unique():  # type: ignore[no-untyped-call]
            everywhere = fold.section == number
            tokens = self.global_input(fold.inputs[everywhere]) + self.place(fold.place[everywhere])
            is_asked = section == number
            own = self.global_input(fold.inputs[rows[is_asked]]) + self.place(fold.place[rows[is_asked]])
            out[is_asked] = self.global_block(own[None], tokens[None])[0]
        return out


PEERS: tuple[Method, ...] = (
    Peer(
        name="ST-Net MLP",
        view=InputView(scales="smallest"),
        build=TileRegression,
        schedule=Schedule(epochs=40, lr=3e-4),
    ),
    Peer(
        name="BLEEP",
        build=ContrastiveRetrieval,
        schedule=Schedule(epochs=40, weight_decay=1e-3, batch_size=128),
    ),
    Peer(name="TRIPLEX-style", build=MultiResolution, schedule=Schedule(epochs=24, lr=5e-4, batch_size=128)),
    Peer(name="STFlow/DeepSpot-style set", build=NeighbourhoodSet, schedule=Schedule(epochs=40)),
)
"""In the order of the tables."""
