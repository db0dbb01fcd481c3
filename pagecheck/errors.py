"""Every exception of pagecheck: one class per party at fault, each with its exit code; and the one
form in which errors travel between processes of ours, and from the service to its clients."""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Any, Final


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


class SnapshotError(PagecheckError):
    """The snapshot is not whole, not as its manifest says, or of a version that is not known."""

    exit_code = 5


class InternalError(PagecheckError):
    """A bug in pagecheck."""

    exit_code = 4


CLASSES: Final = {
    name: each
    for name, each in list(globals().items())
    if isinstance(each, type) and issubclass(each, PagecheckError)
}


def to_wire(error: BaseException) -> dict[str, Any]:
    """An error as members of a message.

    Returns:
        `class` and `desc`, its text; for an OSError `class` is "OSError", and `errno`
        and, where it is known, `file` are there, too. What nobody expected is an InternalError.
    """
    if isinstance(error, OSError) and error.errno is not None:
        members = {"class": "OSError", "desc": error.strerror or "", "errno": error.errno}
        return members if error.filename is None else {**members, "file": str(error.filename)}
    if not isinstance(error, PagecheckError):
        error = InternalError(f"a bug in pagecheck: {type(error).__name__}: {error}")
    # Of a subclass that others do not know, the class that it stems from.
    kind = next(each.__name__ for each in type(error).__mro__ if each in CLASSES.values())
    return {"class": kind, "desc": str(error)}


def from_wire(
    members: object, where: str = "", unknown: type[PagecheckError] = InternalError
) -> PagecheckError | OSError:
    """The error that `to_wire` made these members of.

    Args:
        members: as received; may be anything.
        where: what its text begins with, such as "channel 3: "; an OSError has no such text.
        unknown: the class of an error whose own is not known here.
    """
    if not isinstance(members, dict):
        return unknown(f"{where}an error of an unknown form was reported")
    number = members.get("errno")
    if members.get("class") == "OSError" and isinstance(number, int):
        return OSError(number, str(members.get("desc")), members.get("file"))
    kind = CLASSES.get(str(members.get("class")), unknown)
    return kind(f"{where}{members.get('desc')}")
