# SPDX-License-Identifier: Apache-2.0
"""Everything that numabench raises on purpose. A message names the call, the argument and the remedy."""


class NumabenchError(Exception):
    """Root of all errors of this package; ``errno`` is the system's error number, or 0."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class Unsupported(NumabenchError):
    """This machine, kernel or container cannot do what was asked."""


class PlacementError(NumabenchError):
    """Pages or threads cannot be, or are not, where they were asked to be."""


class HugePagesUnavailable(PlacementError):
    """The pool of huge pages on the node is too small."""


class TopologyError(NumabenchError):
    """A topology cannot be read, or names something that is not there."""


class RecordError(NumabenchError):
    """A record file is unreadable, foreign, or of an unknown schema."""


class UsageError(NumabenchError):
    """An argument is not one of those allowed."""
