"""Errors that a user can fix, each a child of `SpamError` and of a matching builtin.

The command line prints the message alone and exits with 2; any other exception is a bug and exits with 1.
"""


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
