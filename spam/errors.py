"""Errors that a user can fix, each a child of `SpamError` and of a matching builtin.

The command line prints the message alone and exits with 2; any other exception is a bug and exits with 1.
"""

import reprlib
from typing import Any


class SpamError(Exception):
    """An error that the user can fix; the message states how."""


class ConfigError(SpamError, ValueError):
    """An invalid option or configuration value."""


class MissingInputError(SpamError, FileNotFoundError):
    """An input file or folder that does not exist."""


class OutputExistsError(SpamError, FileExistsError):
    """An existing result that would be overwritten without ``--overwrite``."""


class SectionError(SpamError, ValueError):
    """Counts, table and coordinates of a section that do not match."""


class SlideError(SpamError, ValueError):
    """A slide that cannot be read, or lacks what tiles need."""


class TileError(SpamError, ValueError):
    """A tile that cannot be cut, or a tile file of the wrong kind."""


class EncoderError(SpamError, ValueError):
    """An encoder that is unknown, unreachable, or does not match its card."""


class StoreError(SpamError, ValueError):
    """A feature store that is incomplete, damaged, or of another format."""


class CheckpointError(SpamError, ValueError):
    """A checkpoint that cannot be read, or does not match the store."""


class NotApplicableError(SpamError, ValueError):
    """A method that cannot be applied in a fold of a benchmark; the other methods continue."""


class _Short(reprlib.Repr):
    """Shows the beginning and the end of a long value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlevel = 2

    def repr_int(self, x: int, level: int) -> str:
        """Describe a very long integer, which Python refuses to convert to text."""
        digits = round(x.bit_length() * 0.30103)  # log10(2)
        return f"a whole number of about {digits} digits" if digits > self.maxlong else repr(x)


_short = _Short()


_SINGULAR = {"have": "has", "are": "is", "match": "matches", "share": "shares"}


def counted(n: int, noun: str, verb: str = "") -> str:
    """Write a number with its noun, and a verb given in the plural: ``1 row has``, ``2 rows have``."""
    verb = _SINGULAR[verb] if verb and n == 1 else verb
    return f"{n} {noun}{'' if n == 1 else 's'} {verb}".rstrip()


def shortened(value: Any) -> str:
    """Quote a value for a message as `repr` does; of a long one only the beginning and the end."""
    return _short.repr(value)
