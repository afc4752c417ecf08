"""The size that a Zstandard frame says it unpacks to, read from its header before anything is unpacked."""

__all__ = ["frame_size"]

_MAGIC = (0xFD2FB528).to_bytes(4, "little")


def frame_size(data: bytes) -> int | None:
    """Read the content size of a Zstandard frame (RFC 8878, 3.1.1.1); None where there is none, or no frame."""
    if len(data) < 6 or data[:4] != _MAGIC:
        return None
    descriptor = data[4]
    is_single_segment = bool(descriptor & 0x20)
    flag = descriptor >> 6
    if flag == 0 and not is_single_segment:
        return None  # unknown: a decoder would have to unpack it to see
    start = 5 + (not is_single_segment) + (0, 1, 2, 4)[descriptor & 3]
    n_bytes = (1, 2, 4, 8)[flag]
    size = int.from_bytes(data[start : start + n_bytes], "little")
    return size + 256 if n_bytes == 2 else size
