"""Every exception of pagecheck: one class per party at fault, each with its exit code."""

from __future__ import annotations


class PagecheckError(Exception):
    """Root of all errors that pagecheck raises on purpose.

    Attributes:
        exit_code: what the command line exits with.
    """

    exit_code = 4


class UsageError(PagecheckError):
    """What the user asked for makes no sense: an option, an offset, a page size."""

    exit_code = 2


class SourceError(PagecheckError):
    """The RAM source cannot be used: missing, unreadable, empty, of the wrong kind."""

    exit_code = 2


class StorageStalled(PagecheckError):
    """The file system did not answer before the deadline; nothing is known, not even the size."""

    exit_code = 1


class OutputError(PagecheckError):
    """Results cannot be written where they were asked for."""

    exit_code = 2


class EngineError(PagecheckError):
    """The engine or kernel cannot run here, or too few workers start."""

    exit_code = 3


class StartTimeout(EngineError):
    """A worker was not ready in time."""


class ResourceError(PagecheckError):
    """The host has no room for what pagecheck needs: a full /dev/shm, a limit on open files,
    processes, threads, file sizes or memory."""

    exit_code = 4


class LimitError(PagecheckError):
    """The service's limits do not allow more: clients, blocks, channels, the length of a line."""

    exit_code = 4


class AccessError(PagecheckError):
    """The service does not do this for this user."""

    exit_code = 3


class PeerError(PagecheckError):
    """The other side of a socket (the service, a client, a VMM) hung up, is silent, or does not
    speak the protocol."""

    exit_code = 3


class InternalError(PagecheckError):
    """A bug in pagecheck."""

    exit_code = 4
