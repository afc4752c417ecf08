"""Refuses arrays that claim to be far larger than what their file holds, before memory is set aside for them."""

__all__ = ["claim_fault"]

_FREE_BYTES = 2**28  # a claim of 256 MB can harm nobody, whatever it was packed into
_MOST_COMPRESSION = 100  # floating-point features shrink by less than 2, coordinates of a grid by some 10


def claim_fault(n_claimed: int, n_stored: int) -> str | None:
    """Word the fault of an array of `n_claimed` bytes that takes up `n_stored` bytes of its file, if it is one."""
    if n_claimed <= max(_FREE_BYTES, _MOST_COMPRESSION * n_stored):
        return None
    return f"claims {n_claimed:,} bytes but takes up {n_stored:,} in the file"
