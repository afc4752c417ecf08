"""Errors that a user can mend, each a child of `SpamError` and of the builtin it is a kind of.

A message says what was wrong (with the value), what was expected, where, and what to do next. The command line prints
the message alone and exits with 2; anything that is not a `SpamError` is our bug and exits with 1.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "EncoderError",
    "MissingInputError",
    "NotApplicableError",
    "OutputExistsError",
    "SectionError",
    "SlideError",
    "SpamError",
    "StoreError",
    "TileError",
]


class SpamError(Exception):
    """Something that the user can mend; the message says how."""


class ConfigError(SpamError, ValueError):
    """An option or configuration value that cannot be used."""


class MissingInputError(SpamError, FileNotFoundError):
    """A file or folder that was named but is not there."""


class OutputExistsError(SpamError, FileExistsError):
    """A result that would be overwritten without having been asked to."""


class SectionError(SpamError, ValueError):
    """Counts, table and coordinates of a section do not fit together."""


class SlideError(SpamError, ValueError):
    """A slide image cannot be read, or lacks what is needed to cut tiles from it."""


class TileError(SpamError, ValueError):
    """A tile cannot be cut, or a tile file does not fit what was asked for."""


class EncoderError(SpamError, ValueError):
    """An encoder is unknown, cannot be reached, or does not fit its card."""


class StoreError(SpamError, ValueError):
    """A feature store is missing something, is damaged, or has another format."""


class CheckpointError(SpamError, ValueError):
    """A checkpoint cannot be read, or does not fit the store that it is used with."""


class NotApplicableError(SpamError, ValueError):
    """A method that has nothing to work on in a fold of a benchmark; the others can go on."""
