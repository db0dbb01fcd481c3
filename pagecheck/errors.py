"""Every exception of pagecheck: one class per party at fault, each with its exit code."""

from __future__ import annotations


class PagecheckError(Exception):
    """Root of all errors that pagecheck raises deliberately.

    Attributes:
        exit_code: the exit status of the command line.
    """

    exit_code = 4


class UsageError(PagecheckError):
    """What the user asked for is invalid: an option, an offset, a page size."""

    exit_code = 2


class SourceError(PagecheckError):
    """The RAM source cannot be used: missing, unreadable, empty, of the wrong kind."""

    exit_code = 2


class StorageStalled(PagecheckError):
    """The file system did not answer before the deadline: not even the file's size is known."""

    exit_code = 1


class OutputError(PagecheckError):
    """The results cannot be written to the requested destination."""

    exit_code = 2


class EngineError(PagecheckError):
    """The engine or kernel is not supported here, or too few workers start."""

    exit_code = 3


class StartTimeout(EngineError):
    """A worker was not ready in time."""


class ResourceError(PagecheckError):
    """The host lacks a resource that pagecheck needs: a full /dev/shm, a limit on open files,
    processes, threads, file sizes or memory."""

    exit_code = 4


class LimitError(PagecheckError):
    """A limit of the service was reached: clients, blocks, channels, the length of a line."""

    exit_code = 4


class AccessError(PagecheckError):
    """The service does not permit this to this user."""

    exit_code = 3


class PeerError(PagecheckError):
    """The peer at a socket (service, client, VMM) closed the connection, does not answer, or breaks
    the protocol."""

    exit_code = 3


class InternalError(PagecheckError):
    """A bug in pagecheck."""

    exit_code = 4
