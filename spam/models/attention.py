"""Attention of a spot over several tokens: its spatial neighbours, or spots retrieved from other sections."""

import torch
from torch import nn

from spam.errors import ConfigError
from spam.typing import Bool, Float

__all__ = ["CrossAttention"]

# Two or three numbers per token make the bias; a wider layer would only fit noise.
_BIAS_HIDDEN = 16


class CrossAttention(nn.Module):
    r"""Let a query attend to `t` tokens by content and by their relation to it.

    .. math:: \mathrm{softmax}_t(q^\top k_t / \sqrt{d} + \mathrm{MLP}(r_t)) \, v_t

    per head, where :math:`r_t` holds the relation of token and query (relative position, or similarity).

    Source: Vaswani et al., arXiv 1706.03762; additive relative bias: Shaw et al., arXiv 1803.02155. Relative
    to the paper: the bias is a small network of continuous relations instead of a table; tokens are
    normalised first; keys and the last layer of the bias carry no constant, which softmax would cancel; no
    residual connection, for the query enters the merge on its own.

    Parameters
    ----------
    query_dim, token_dim
        Length of the query and of a token.
    dim
        Length of the result, divided among the heads.
    heads
        Number of heads; must divide `dim`.
    bias_dim
        Number of relations per token.
    dropout
        Share of attention weights dropped in training.

    Raises
    ------
    ConfigError
        If `heads` does not divide `dim`.
    """

    def __init__(
        self, query_dim: int, token_dim: int, dim: int, heads: int, *, bias_dim: int, dropout: float
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            message = (
                f"{heads!r} attention heads do not divide a width of {dim!r}; choose --heads to divide it"
            )
            raise ConfigError(message)
        self.heads = heads
        self.dropout = dropout
        self.token_norm = nn.LayerNorm(token_dim)
        self.query = nn.Linear(query_dim, dim)
        self.key = nn.Linear(token_dim, dim, bias=False)
        self.value = nn.Linear(token_dim, dim)
        self.bias = nn.Sequential(
            nn.Linear(bias_dim, _BIAS_HIDDEN), nn.GELU(), nn.Linear(_BIAS_HIDDEN, heads, bias=False)
        )
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        query: Float[torch.Tensor, "b query_dim"],
        tokens: Float[torch.Tensor, "b t token_dim"],
        bias_features: Float[torch.Tensor, "b t bias_dim"],
        mask: Bool[torch.Tensor, "b t"],
    ) -> Float[torch.Tensor, "b dim"]:
        """Attend to the tokens where `mask` is true; a row without any usable token gives zeros.

        What a masked token holds (NaN too) has no influence.
        """
        q, k, v, bias = self._project(query, tokens, bias_features, mask)
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        out: torch.Tensor = self.out(attended.flatten(1))  # (b, heads, 1, dim / heads) -> (b, dim)
        return out * mask.any(dim=1, keepdim=True)

    def attention_weights(
        self,
        query: Float[torch.Tensor, "b query_dim"],
        tokens: Float[torch.Tensor, "b t token_dim"],
        bias_features: Float[torch.Tensor, "b t bias_dim"],
        mask: Bool[torch.Tensor, "b t"],
    ) -> Float[torch.Tensor, "b heads t"]:
        """Weight of each token per head, without dropout; a row sums to 1, or to 0 without usable tokens."""
        q, k, _, bias = self._project(query, tokens, bias_features, mask)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
        weights: torch.Tensor = logits.softmax(dim=-1).squeeze(2)
        return weights * mask.any(dim=1)[:, None, None]

    def _project(
        self, query: torch.Tensor, tokens: torch.Tensor, bias_features: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Make queries, keys, values (b, heads, ., dim / heads) and the additive bias (b, heads, 1, t)."""
        tokens = self.token_norm(tokens.masked_fill(~mask[..., None], 0.0))
        q = self.query(query)[:, None].unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.key(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.value(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        bias = self.bias(bias_features.masked_fill(~mask[..., None], 0.0)).transpose(1, 2)[:, :, None]
        # A row without usable tokens stays unmasked, for softmax over nothing is NaN; it is set to 0 later.
        is_hidden = ~mask & mask.any(dim=1, keepdim=True)
        return q, k, v, bias.to(q.dtype).masked_fill(is_hidden[:, None, None], -torch.inf)
