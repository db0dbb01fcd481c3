"""Every exception of the guest tool, one class per reason to act differently."""


class GuestError(Exception):
    """The guest could not be made, or did not do what it was made for."""


class MissingPiece(GuestError):
    """This machine lacks something that a guest needs; the message says how to get it."""


class DeadlinePassed(GuestError):
    """Something that was waited for did not come in time."""


class QmpError(GuestError):
    """QEMU refused a QMP command, or its monitor did not speak QMP."""
