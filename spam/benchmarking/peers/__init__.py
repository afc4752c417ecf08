"""Ideas that users would pick instead, re-implemented on the same features."""

__all__: list[str] = []
