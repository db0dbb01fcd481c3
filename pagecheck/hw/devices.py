"""DSA devices and work queues as values, and the host that they are looked for on."""

from __future__ import annotations

import errno
import os
from collections import namedtuple

from pagecheck.native import _native

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

PAGE_BYTES: Final = 4096


class WorkQueue(
    namedtuple(
        "WorkQueue",
        "name path device mode size threshold max_batch max_transfer version numa_node submit "
        "batches unusable note ats prs enqcmds_retries",
        defaults=(True, True, 0),
    )
):
    """One work queue; a number that sysfs does not give is 0.

    Attributes:
        name: such as wq0.0.
        path: its device node, which need not exist.
        device: such as dsa0.
        mode: "shared", "dedicated" or, where sysfs holds neither, "unknown".
        size: entries.
        threshold: entries that a shared queue admits, which is all that anybody can use: the
            kernel's own submissions for users are bounded by it too; 0 for a dedicated queue.
        max_batch: descriptors of a batch.
        max_transfer: bytes of a descriptor.
        version: of the device: 0x100 (Sapphire and Emerald Rapids), 0x200 (Granite Rapids).
        numa_node: of the device; -1 for none.
        submit: how descriptors would be submitted: "enqcmd", "movdir64b", "write"; None: not.
        batches: whether a batch descriptor can be submitted that way.
        unusable: None, or one line: why it cannot be used; and the fix.
        note: None, or one line: why a usable queue is slower than it could be; and the fix.
        ats: whether the device may ask the IOMMU for translations ahead; where not (ats_disable),
            a record that it cannot write is lost.
        prs: whether the device may ask for absent pages (prs_disable is 0); descriptors with a page
            to compare never do.
        enqcmds_retries: how often the kernel tries a write(2) to a full shared queue.
    """

    __slots__ = ()
    name: str
    path: str
    device: str
    mode: str
    size: int
    threshold: int
    max_batch: int
    max_transfer: int
    version: int
    numa_node: int
    submit: str | None
    batches: bool
    unusable: str | None
    note: str | None
    ats: bool
    prs: bool
    enqcmds_retries: int


class Device(
    namedtuple(
        "Device",
        "name version state cmd_status entries numa_node max_batch max_transfer queues unusable",
    )
):
    """One DSA device; the fields are as those of its queues.

    Attributes:
        state: "enabled", "disabled", "halted", or what else sysfs holds.
        cmd_status: of the last command that an administrator gave it; 0 is success.
        entries: of all its queues together.
        queues: all its work queues, usable or not, in order.
    """

    __slots__ = ()
    name: str
    version: int
    state: str
    cmd_status: int
    entries: int
    numa_node: int
    max_batch: int
    max_transfer: int
    queues: tuple[WorkQueue, ...]
    unusable: str | None


def probe_map(path: str) -> int:
    """Opens a work queue for an instant and maps its portal.

    Returns:
        0, or the errno of the mapping.

    Raises:
        OSError: it cannot be opened; EBUSY: a dedicated queue that another process has open.
    """
    import mmap

    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        mmap.mmap(fd, PAGE_BYTES, mmap.MAP_SHARED, mmap.PROT_WRITE).close()
    except OSError as error:
        return error.errno or errno.EIO
    except ValueError:  # a file too short to be a portal
        return errno.EINVAL
    finally:
        os.close(fd)
    return 0


def may_open(path: str) -> bool:
    """Whether the node's mode lets this process read and write it."""
    return os.access(path, os.R_OK | os.W_OK, effective_ids=True)


class Host:
    """Where to look, and whom to ask; the defaults are this machine.

    Attributes:
        sysfs: root of sysfs.
        dev: folder of the device nodes.
        cpu_why_not: from "enqcmd" or "movdir64b" to None, or why the CPU cannot run it.
        may_open: whether a node's mode lets this process open it.
        probe_map: opens and maps a node for an instant; see the function of that name.
    """

    __slots__ = ("cpu_why_not", "dev", "may_open", "probe_map", "sysfs")

    def __init__(
        self,
        sysfs: str = "/sys",
        dev: str = "/dev",
        cpu_why_not: Callable[[str], str | None] = _native.cpu_why_not,
        may_open: Callable[[str], bool] = may_open,
        probe_map: Callable[[str], int] = probe_map,
    ) -> None:
        self.sysfs = sysfs
        self.dev = dev
        self.cpu_why_not = cpu_why_not
        self.may_open = may_open
        self.probe_map = probe_map

    @property
    def devices(self) -> str:
        """The folder of the DSA and IAX devices."""
        return f"{self.sysfs}/bus/dsa/devices"
