"""The symmetric contrastive loss of stage 1, exact in bounded memory, and the recall that judges it."""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from spam.errors import ConfigError
from spam.typing import Float, Int64

__all__ = ["check_contrast", "info_nce", "partner_rank", "precise_directions", "recall_at_k"]

# Similarities of unit vectors in float32 carry rounding of this size: closer ones are ties.
_TIE = 1e-6


class _SymmetricInfoNCE(torch.autograd.Function):
    """InfoNCE of rows of unit length; no more than `chunk_rows` rows of the logits exist at a time."""

    @staticmethod
    def forward(
        ctx: Any, a: torch.Tensor, b: torch.Tensor, temperature: float, mixing: float, chunk_rows: int
    ) -> torch.Tensor:
        row_lse = a.new_empty(len(a))
        column_lse = a.new_full((len(b),), -torch.inf)
        for start in range(0, len(a), chunk_rows):
            logits = (a[start : start + chunk_rows] / temperature) @ b.T
            row_lse[start : start + chunk_rows] = logits.logsumexp(1)
            column_lse = torch.logaddexp(column_lse, logits.logsumexp(0))
        ctx.save_for_backward(a, b, row_lse, column_lse)
        ctx.settings = (temperature, mixing, chunk_rows)
        own = (a * b).sum(1) / temperature
        return mixing * (row_lse - own).mean() + (1 - mixing) * (column_lse - own).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, row_lse, column_lse = ctx.saved_tensors
        temperature, mixing, chunk_rows = ctx.settings
        grad_a, grad_b = -b, -a  # of the own partner's logit, in both directions
        with torch.autocast(a.device.type, enabled=False):
            for start in range(0, len(a), chunk_rows):
                rows = slice(start, start + chunk_rows)
                logits = (a[rows] / temperature) @ b.T
                # In place: two chunks at most exist at once.
                share = (logits - row_lse[rows, None]).exp_().mul_(mixing)
                share += logits.sub_(column_lse).exp_().mul_(1 - mixing)
                grad_a[rows] += share @ b
                grad_b += share.T @ a[rows]
        scale = grad / (len(a) * temperature)
        return grad_a * scale, grad_b * scale, None, None, None


def info_nce(
    a: Float[torch.Tensor, "b d"],
    b: Float[torch.Tensor, "b d"],
    *,
    temperature: float,
    mixing: float = 0.5,
    chunk_rows: int = 4096,
) -> Float[torch.Tensor, ""]:
    r"""Contrast each row of `a` with its partner in `b` against all other rows, in both directions.

    .. math::
        L = m \, L_{a \to b} + (1 - m) \, L_{b \to a}, \qquad
        L_{a \to b} = -\frac{1}{n} \sum_i \log
        \frac{\exp(s_{ii} / \tau)}{\sum_j \exp(s_{ij} / \tau)}

    with cosine similarities :math:`s_{ij}`. A mean over rows, computed in float32 (float64 for float64) also
    under autocast. It is ln(batch) where all similarities are equal. Memory grows with ``chunk_rows * b``,
    not with b².

    Source: van den Oord et al., arXiv 1807.03748; symmetric form: Radford et al., arXiv 2103.00020. Relative
    to the paper: the temperature is fixed, and `mixing` weighs the two directions (0.5 in CLIP).

    Parameters
    ----------
    a, b
        Embeddings of any length but 0; row `i` of one belongs to row `i` of the other.
    temperature
        Positive; smaller is sharper.
    mixing
        Weight of the direction a -> b, in [0, 1].
    chunk_rows
        Rows of the similarity matrix that are held at a time.

    Raises
    ------
    ConfigError
        If there is no other row to contrast with, or an argument is outside its range.
    """
    fault = f"chunk_rows={chunk_rows!r}, but it must be at least 1" if chunk_rows < 1 else ""
    check_contrast(a, b, temperature=temperature, mixing=mixing, other_fault=fault)
    with torch.autocast(a.device.type, enabled=False):
        unit_a, unit_b = precise_directions(a, b)
        loss: torch.Tensor = _SymmetricInfoNCE.apply(unit_a, unit_b, temperature, mixing, chunk_rows)
    return loss


def check_contrast(
    a: torch.Tensor, b: torch.Tensor, *, temperature: float, mixing: float, other_fault: str = ""
) -> None:
    """Refuse what cannot be contrasted, all faults at once.

    Raises
    ------
    ConfigError
        If there is no other row to contrast with, shapes differ, an argument is outside its range, or there is `other_fault`.
    """
    faults = [
        f"{len(a)} row(s), but a contrast needs at least 2 (--batch-size)" if len(a) < 2 else "",
        f"a and b of shapes {tuple(a.shape)!r} and {tuple(b.shape)!r}, but they must be equal"
        if a.shape != b.shape
        else "",
        f"temperature={temperature!r}, but it must be positive (--temperature)"
        if not temperature > 0
        else "",
        f"mixing={mixing!r}, but it must be in [0, 1] (--mixing)" if not 0 <= mixing <= 1 else "",
        other_fault,
    ]
    if any(faults):
        message = "InfoNCE was given " + "; ".join(fault for fault in faults if fault)
        raise ConfigError(message)


def precise_directions(
    a: Float[torch.Tensor, "n d"], b: Float[torch.Tensor, "m d"]
) -> tuple[Float[torch.Tensor, "n d"], Float[torch.Tensor, "m d"]]:
    """Rows of length 1, in float32 (float64 for float64)."""
    precise = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return nn.functional.normalize(a.to(precise), dim=1), nn.functional.normalize(b.to(precise), dim=1)


@torch.no_grad()
def partner_rank(a: Float[torch.Tensor, "b d"], b: Float[torch.Tensor, "b d"]) -> Int64[torch.Tensor, " b"]:
    """Count, for each row of `a`, the rows of `b` that are at least as similar to it (cosine) as its partner.

    The partner counts, so 1 is the best. So does a row that is as similar as the partner within float32 rounding: where
    all embeddings are equal, every rank is the number of rows.

    Raises
    ------
    ConfigError
        If there are no rows, or the shapes differ.
    """
    if not len(a) or a.shape != b.shape:
        message = (
            f"ranks of partners need two equal, non-empty sets of rows, not shapes {tuple(a.shape)!r} and "
            f"{tuple(b.shape)!r}; give the embeddings of the same spots"
        )
        raise ConfigError(message)
    unit_a = nn.functional.normalize(a.float(), dim=1)
    unit_b = nn.functional.normalize(b.float(), dim=1)
    ranks = []
    for start in range(0, len(a), 4096):
        rows = unit_a[start : start + 4096]
        own = (rows * unit_b[start : start + 4096]).sum(1, keepdim=True)
        ranks.append((rows @ unit_b.T >= own - _TIE).sum(1))
    return torch.cat(ranks)


def recall_at_k(ranks: Int64[torch.Tensor, " b"], *, k: int) -> float:
    """Share of rows whose partner is among the `k` most similar rows, by their `partner_rank`. Chance is k / b.

    Raises
    ------
    ConfigError
        If `k` is below 1, or there are no rows.
    """
    if k < 1 or not len(ranks):
        message = f"recall@k needs k >= 1 and at least one row, not k={k!r} with {len(ranks)} rows"
        raise ConfigError(message)
    return int((ranks <= k).sum()) / len(ranks)
