"""Another process's memory: its mappings, and the files behind them, opened read-only.

Danger: a process id can be given to another process at any moment, and means another process in
another namespace. Decision: a pidfd is opened first, the kernel itself names that process's folder
in /proc, and `verify` shows at the end that the process and the mappings that were used were there
all the time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from pagecheck import clock
from pagecheck.errors import PagecheckError, SourceError
from pagecheck.shortage import errno_of, is_limit, refused
from pagecheck.vmm.process.access import may_inspect, may_read
from pagecheck.vmm.process.maps import Mapping, is_still_mapped, parse_maps
from pagecheck.vmm.process.proof import NoFile, OpenFile, Unproved, open_behind

F_GET_SEALS: Final = 1034  # Source: linux/fcntl.h; Python has no name for it before 3.12

PF_EXITING: Final = 0x4  # Source: linux/sched.h
_PENDING: Final = re.compile(rb"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", re.MULTILINE)
_SIGKILL_PENDING: Final = 1 << 8

_MAPPING: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
_PRESENT: Final = ("Rss:", "Private_Hugetlb:", "Shared_Hugetlb:")
_PID: Final = re.compile(r"^Pid:\t(-?\d+)$", re.MULTILINE)


Admit = Callable[["ProcessMemory"], None]


def _not_opened(pid: int, error: OSError | OverflowError) -> PagecheckError:
    """Why a process cannot be opened. A thread's number has been EINVAL, and ENOENT since Linux
    6.16."""
    leader = _leader_of(pid)
    if leader not in (0, pid):
        return SourceError(f"pid:{pid}: is a thread of process {leader}; give pid:{leader}")
    number = errno_of(error)
    if number in (0, errno.ESRCH, errno.EINVAL, errno.ENOENT):
        return SourceError(f"process {pid}: no such process; 'pagecheck vms' lists VMs")
    return refused(f"process {pid}: cannot be opened", error, "pidfd_open")


def _leader_of(number: int) -> int:
    """The process that a thread belongs to; 0: there is no such thread."""
    try:
        with open(f"/proc/{number}/status", "rb") as file:
            found = re.search(rb"^Tgid:\s*(\d+)$", file.read(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


class DetailedMapping(NamedTuple):
    """A mapping with more of what /proc/PID/smaps says.

    Attributes:
        flags: its two-letter flags, such as "um".
        present: bytes of it that are in memory, of huge pages too.
    """

    mapping: Mapping
    flags: frozenset[str]
    present: int


def number_in_proc(pidfd: int, pid: int) -> int:
    """What /proc calls a process: another number where /proc is of another pid namespace.

    Args:
        pid: as it was given.

    Raises:
        SourceError: it ended, or /proc does not show it.

    Source: pidfd_show_fdinfo() in the kernel's fs/pidfs.c (kernel/fork.c before 6.9).
    """
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
            found = _PID.search(file.read())
    except OSError as error:
        if is_limit(error):
            raise refused(f"process {pid}: its number cannot be read", error) from error
        raise SourceError(
            f"process {pid}: /proc is not ours; mount one in this pid namespace"
        ) from error
    number = pid if found is None else int(found[1])
    if number <= 0:
        raise SourceError(f"process {pid}: ended, or /proc is of another pid namespace")
    return number


class ProcessMemory:
    """One process, by its pidfd, and what it maps.

    Attributes:
        pid: as it was given.
        number: what /proc calls it.
        folder: the process's in /proc.
        used: mappings whose files were opened.
    """

    def __init__(self, pid: int, admit: Admit | None = None) -> None:
        """Opens the process.

        Args:
            admit: called before anything of it is looked at, and by `verify` again; raises where it
                may not be.

        Raises:
            SourceError: there is no such process, or /proc does not show it.
        """
        self.pid = pid
        self._admit = admit
        self._pidfd = -1
        self.used: list[Mapping] = []
        try:
            self._pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            raise _not_opened(pid, error) from error
        try:
            self.number = number_in_proc(self._pidfd, pid)
            self.folder = f"/proc/{self.number}"
            if admit is not None:
                admit(self)
                self._require_alive()
        except BaseException:
            self.close()
            raise

    def mappings(self) -> list[Mapping]:
        """What it maps now, in order of address.

        Raises:
            SourceError: its maps may not be read, or it ended.
        """
        text = self._map_text("maps")
        if not text:
            raise SourceError(f"process {self.pid}: maps no memory; it is ending, or is not a VMM")
        return parse_maps(text)

    def duplicate(self) -> ProcessMemory:
        """The same process, open on its own; nothing of it was used yet.

        Raises:
            OSError: there is no descriptor left.
        """
        other = object.__new__(ProcessMemory)
        other.pid, other.number, other.folder = self.pid, self.number, self.folder
        other.used, other._admit = [], None
        other._pidfd = fcntl.fcntl(self._pidfd, fcntl.F_DUPFD_CLOEXEC, 0)
        return other

    def open_memory(self) -> tuple[int, int]:
        """Opens what says which pages are present, /proc/PID/pagemap, and the memory itself. Both
        descriptors stay with the address space that the process has now, whatever becomes of it.

        Raises:
            SourceError: its memory may not be read, or it ended.
        """
        what = "its memory cannot be read"
        with contextlib.ExitStack() as undo:
            found = []
            for name in ("pagemap", "mem"):
                try:
                    found.append(os.open(f"{self.folder}/{name}", os.O_RDONLY | os.O_CLOEXEC))
                except OSError as error:
                    raise self._refused(error, what) from error
                undo.callback(os.close, found[-1])
            why = may_read(self.pid) if self.number == self.pid else None
            self._require_alive()
            if why is not None:
                raise SourceError(f"process {self.pid}: {what}: {why}")
            undo.pop_all()
        pagemap, memory = found
        return pagemap, memory

    def detailed_mappings(self) -> Iterator[DetailedMapping]:
        """What it maps now, with more on each mapping; the kernel walks all page tables for it.

        Raises:
            SourceError: as `mappings`.

        Source: show_smap() in the kernel's fs/proc/task_mmu.c.
        """
        line, present = "", 0
        for each in self._map_text("smaps").split("\n"):
            if each.startswith("VmFlags:"):
                yield DetailedMapping(parse_maps(line)[0], frozenset(each.split()[1:]), present)
            elif each.startswith(_PRESENT):
                present += int(each.split()[1]) << 10
            elif _MAPPING.match(each):
                line, present = each, 0

    def _map_text(self, name: str) -> str:
        try:
            with open(f"{self.folder}/{name}", "rb") as file:
                text = os.fsdecode(file.read())
        except OSError as error:
            raise self._refused(error, "its memory map cannot be read") from error
        self._require_alive()
        return text

    def require_whole(self) -> None:
        """Raises SourceError where the process is being killed: the kernel may take the pages of
        such a process away before it ends, and they look as if they never were.

        Source: __oom_reap_task_mm() in the kernel's mm/oom_kill.c, process_mrelease(2);
        get_signal() in kernel/signal.c, do_exit() in kernel/exit.c; flags and pending signals in
        Documentation/filesystems/proc.rst.
        """
        try:
            with open(f"{self.folder}/status", "rb") as file:
                pending = _PENDING.findall(file.read())
            with open(f"{self.folder}/stat", "rb") as file:
                flags = int(file.read().rpartition(b")")[2].split()[6])
        except OSError as error:
            raise self._refused(error, "its state cannot be read") from error
        except (ValueError, IndexError) as error:
            raise self._ended() from error
        # On its way out a thread takes SIGKILL from its own set before its flags say that it ends,
        # and may wait between for requests of io_uring; in the process's set it stays.
        killed = len(pending) != 2 or any(int(each, 16) & _SIGKILL_PENDING for each in pending)
        if killed or flags & PF_EXITING:
            raise SourceError(f"process {self.pid}: is being killed")

    def program(self) -> str:
        """The path of its program; empty where it cannot be read."""
        try:
            return os.readlink(f"{self.folder}/exe")
        except OSError:
            return ""

    def command_line(self) -> list[str]:
        """The words that it was started with; one empty word where they cannot be read."""
        try:
            with open(f"{self.folder}/cmdline", "rb") as file:
                return os.fsdecode(file.read()).split("\0")
        except OSError:
            return [""]

    def comm(self) -> str:
        """The name of its program, at most 15 characters; empty where it cannot be read."""
        try:
            with open(f"{self.folder}/comm", "rb") as file:
                return os.fsdecode(file.read()).strip()
        except OSError:
            return ""

    def open_file(self, mapping: Mapping) -> OpenFile | None:
        """Opens the file behind a mapping, read-only. It is proved to be that file once `verify`
        found the mapping still there.

        Returns:
            The open file; None where it is not a regular file, but a device.

        Raises:
            SourceError: no way leads to it, or nothing proves that it is this one.
        """
        what = f"the file behind {_named(mapping)} cannot be "
        try:
            file = open_behind(self.folder, self._pidfd, mapping)
        except NoFile:
            return None
        except Unproved as error:
            raise SourceError(f"process {self.pid}: {what}known: {error}") from error
        except OSError as error:
            raise self._refused(error, f"{what}opened") from error
        self.used.append(mapping)
        return file

    def verify(self) -> None:
        """Proves that what /proc showed until now was this process's, and that the mappings whose
        files were opened are there still.

        Raises:
            SourceError: it ended, or maps something else there by now.
        """
        if self.used:
            now = self.mappings()
            for each in self.used:
                if not is_still_mapped(each, now):
                    raise SourceError(
                        f"process {self.pid}: {_named(each)} was unmapped or exchanged while it "
                        "was inspected; try again"
                    )
        if self._admit is not None:
            self._admit(self)
        self._require_alive()

    def _require_alive(self) -> None:
        if clock.wait_ready(self._pidfd, 0):
            raise self._ended()

    def _ended(self) -> SourceError:
        return SourceError(f"process {self.pid}: ended while it was inspected")

    def close(self) -> None:
        """Closes the process."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> ProcessMemory:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _refused(self, error: OSError, what: str) -> PagecheckError:
        if is_limit(error):
            return refused(f"process {self.pid}: {what}", error)
        if error.errno in (errno.EACCES, errno.EPERM):
            return SourceError(f"process {self.pid}: {what}: not permitted{self._why_not()}")
        if error.errno in (errno.ENOENT, errno.ESRCH):
            with contextlib.suppress(OSError):
                os.stat(f"{self.folder}/maps")
                return SourceError(f"process {self.pid}: {what}: {error.strerror}")
            return SourceError(f"process {self.pid}: ended, or /proc hides it")
        return SourceError(f"process {self.pid}: {what}: {error.strerror}")

    def _why_not(self) -> str:
        number = number_in_proc(self._pidfd, self.pid)
        why = may_inspect(number)
        if why is None and number == self.pid:
            why = may_read(number)  # which descriptors of it take too
        return "; run pagecheck as root" if why is None else f": {why}"


def is_shared_memory(fd: int) -> bool:
    """Whether it is a file of tmpfs, memfd or hugetlbfs: the kinds that have seals."""
    try:
        fcntl.fcntl(fd, F_GET_SEALS)
    except OSError:
        return False
    return True


def _named(mapping: Mapping) -> str:
    return mapping.path or f"the mapping at {mapping.start:#x}"
