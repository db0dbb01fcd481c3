"""What one client may have the service do with running VMs: never more than it could do itself,
unless the policy file says so.

Rule: the process whose memory is asked for must be one that the kernel would let the client
ptrace (`vmm/process/ptrace_rule.py`), and a VMM's socket one that it could connect to. A client
that has all rights that the service has is not judged: the kernel judges the service itself. The
policy lends a client the eyes of another user: for processes that are that user's alone, dumpable
(which cannot be seen of root's), and in the service's user namespace. Stopping a VM takes
the client's own right to connect to its VMM or to ptrace it, or a policy that says so.

Danger: everything here may change while it is looked at. Decision: the process is judged before the
first look at its memory and after the last one, also where that ends in an error, whose text tells
what was seen; and its address space must be the same one all the time: only by executing a program
could it have become another user's meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck.errors import AccessError, PagecheckError, SourceError
from pagecheck.service.limits import Peer
from pagecheck.service.naming import Named, elsewhere
from pagecheck.shm import mounts
from pagecheck.vmm.hold.acting import User
from pagecheck.vmm.process.access import may_read
from pagecheck.vmm.process.credentials import EFFECTIVE, Credentials, host_of, target_of
from pagecheck.vmm.process.memory import ProcessMemory
from pagecheck.vmm.process.ptrace_rule import CAP_DAC_OVERRIDE, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from pagecheck.service.client_process import ClientProcess
    from pagecheck.service.policy import Policy, What
    from pagecheck.service.resources import HeldBlock
    from pagecheck.vmm.vm import Vm

NO_GROUP: Final = 65534  # of a user that the host does not know by name

log = logging.getLogger(__name__)


class May(NamedTuple):
    """What a client may do with a VM beyond looking at it.

    Attributes:
        pause: stop it.
        save: have its RAM's content and its devices' state.
        write: whatever its VMM, and who may ptrace that, can do.
    """

    pause: bool
    save: bool
    write: bool


class Rights:
    """Of one client."""

    def __init__(self, peer: Peer, process: ClientProcess, policy: Policy) -> None:
        self._peer = peer
        self._process = process
        self._policy = policy

    @property
    def group(self) -> int:
        """The client's own group."""
        return self._process.gid

    @property
    def process_number(self) -> int:
        """What /proc calls the client's process; 0 where nothing is known of it."""
        return self._process.number

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Around a command: a refusal is a line in the log, too."""
        try:
            yield
        except AccessError as error:
            self._log(error)
            raise

    def _log(self, error: PagecheckError) -> None:
        peer = self._peer
        log.warning("refused to process %d of user %d: %s", peer.pid, peer.uid, error)

    def ask(self, source: str, kind: str, sender: int) -> Admission:
        """What the client may have done to one VM.

        Args:
            source: for messages.
            kind: what it begins with.
            sender: the process that sent the request, as the kernel says.

        Raises:
            AccessError: it is not known what the client may do, or it may not connect to any
                socket here.
        """
        who = self._require_known(source, sender)
        admission = Admission(source, who, self._policy)
        if kind != "pid" and not admission.users:
            raise AccessError(
                f"{source}: the service cannot connect there as the client would; run the service "
                "as root, or connect as the service's user"
            )
        return admission

    def _require_known(self, source: str, sender: int) -> Credentials:
        try:
            return self._process.known(sender)
        except AccessError as error:
            raise AccessError(f"{source}: {error}") from error

    def require_same_pids(self, source: str, sender: int) -> None:
        """A process id means what it means to the client.

        Raises:
            SourceError: it may be another process.
            AccessError: it is not known who the client is.
        """
        self._require_known(source, sender)
        if not self._process.shares_pids():
            raise self._elsewhere(source, "pid")

    def require_same_socket(self, named: Named, place: tuple[int, int]) -> None:
        """A socket that was connected to is the one that the client sees at its path.

        Args:
            place: device and inode of the socket.

        Raises:
            SourceError: it is another one, or the client cannot see it at all.
        """
        path = named.source.removeprefix(f"{named.kind}:")
        if not self._process.shares_paths() and self._process.seen(path) != place:
            raise self._elsewhere(named.source, named.kind)

    def _elsewhere(self, source: str, kind: str) -> SourceError:
        error = elsewhere(source, kind)
        self._log(error)
        return error


class Admission:
    """The right to open one VM; a context manager.

    Attributes:
        users: those in whose names the VMM's socket may be connected to, in order; None stands for
            the service's own.
        is_full: whether the client has all rights that the service has.
    """

    def __init__(self, source: str, who: Credentials, policy: Policy) -> None:
        self.is_full = _has_our_rights(who)
        self._source = source
        self._who = who
        self._gids = {who.gids[EFFECTIVE], *who.groups}
        self._policy = policy
        self._spaces: dict[int, int] = {}  # of processes that were let in, by number
        self._let_in: list[ProcessMemory] = []
        self._may_ptrace = self.is_full
        self._owner = -1  # by whose leave the policy let a process in
        own = self._own_users()
        self._own_count = len(own)
        self.users: tuple[User | None, ...] = (*own, *self._policy_users())

    def _own_users(self) -> tuple[User | None, ...]:
        if self.is_full:
            return (None,)
        uid = self._who.uids[EFFECTIVE]
        if os.geteuid() or not uid:  # we cannot take its place: of root, without its capabilities
            return ()
        return (User(uid, self._who.gids[EFFECTIVE], self._who.groups),)

    def _policy_users(self) -> tuple[User | None, ...]:
        if self.is_full:
            return ()
        owners = self._policy.owners(self._who.uids[EFFECTIVE], self._gids)
        return tuple(_as_user(uid) for uid in owners if uid == os.geteuid() or not os.geteuid())

    def __call__(self, process: ProcessMemory) -> None:
        """Lets a process be looked at; called before the first look and after the last one.

        Raises:
            AccessError: the client may not look at it.
        """
        if self.is_full:
            return
        first = process.number not in self._spaces
        if first:
            with contextlib.suppress(OSError):
                path = f"/proc/{process.number}/pagemap"
                self._spaces[process.number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._judge(process)
        if first:
            self._let_in.append(process)
        space = self._spaces.get(process.number, -1)
        if space < 0 or not os.pread(space, 8, 0):
            raise AccessError(
                f"{self._source}: process {process.pid} ended, or executed another program, while "
                "it was inspected; try again"
            )
        if first and mounts.process_may_stall(process.number) is not None:
            raise AccessError(
                f"{self._source}: process {process.pid} maps a file on a file system that could "
                "stall the service"
            )

    def _judge(self, process: ProcessMemory) -> None:
        why = may_read(process.number, self._who)
        if why is None:
            self._may_ptrace = True
            return
        try:
            target = target_of(process.number)
        except OSError:
            raise AccessError(f"{self._source}: {why}") from None
        uids = target.credentials.uids
        ours = target_of(_our_number()).credentials.user_namespace
        alone = len(set(uids)) == 1 and not target.elsewhere
        if (
            alone
            and target.dumpable is not False
            and ours is not None
            and ours == target.credentials.user_namespace
            and uids[EFFECTIVE] in self._owners("look")
        ):
            self._owner = uids[EFFECTIVE]
            return
        raise AccessError(
            f"{self._source}: process {process.pid} of user {uids[EFFECTIVE]} may not be read by "
            f"user {self._who.uids[EFFECTIVE]}, by the kernel's rule for ptrace: {why}"
        )

    def _owners(self, what: What) -> Sequence[int]:
        return self._policy.owners(self._who.uids[EFFECTIVE], self._gids, what)

    def may(self, vm: Vm) -> May:
        """What else the client may do with the VM, once it was opened."""
        connected_itself = vm.can_pause and vm.connected_as < self._own_count
        pause = connected_itself or self._may_ptrace or self._owner in self._owners("pause")
        write = connected_itself and self._may_ptrace
        return May(pause, write or self._owner in self._owners("save"), write)

    def judge(self, vm: Vm) -> May:
        """What else the client may do with a VM that was opened before, as of now.

        Raises:
            AccessError: it may not even look at it any more.
        """
        if not self.is_full:
            ProcessMemory(vm.pid, self).close()
        return self.may(vm)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """An error tells what was seen of a process, too: it is judged again before that is sent.

        Raises:
            AccessError: the client may not look at it any more.
        """
        try:
            if isinstance(error, PagecheckError) and not isinstance(error, AccessError):
                for process in self._let_in:
                    self(process)
        finally:
            for fd in self._spaces.values():
                os.close(fd)
            self._spaces = {}


def require_may_pause(held: Sequence[HeldBlock]) -> None:
    """Raises AccessError where the client may only look at a VM that it asks to have stopped."""
    for each in held:
        if each.vm is not None and each.vm.can_pause and not each.may_pause:
            raise AccessError(
                f"{each.vm.text}: may be looked at, but not stopped: that takes the right to "
                "connect to its VMM or to ptrace it, or `pause = true` in the service's policy"
            )


def _our_number() -> int:
    return int(os.readlink("/proc/self"))


def _has_our_rights(who: Credentials) -> bool:
    """Whether the kernel would let the client ptrace the service itself, or inspect it as the same
    user, and its groups are all those of the service."""
    try:
        us = target_of(_our_number())._replace(dumpable=True)
        host = host_of()
    except (OSError, ValueError):
        return False
    same_user = who.uids[EFFECTIVE] == us.credentials.uids[EFFECTIVE]
    if refusal(us, who, host, read=not same_user) is not None:
        return False
    ours = {us.credentials.gids[EFFECTIVE], *us.credentials.groups}
    return ours <= {who.gids[EFFECTIVE], *who.groups} or bool(who.effective >> CAP_DAC_OVERRIDE & 1)


def _as_user(uid: int) -> User | None:
    """A user with the groups that the host gives it; None for the service's own."""
    if uid == os.geteuid():
        return None
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return User(uid, NO_GROUP, ())
    return User(uid, found.pw_gid, tuple(os.getgrouplist(found.pw_name, found.pw_gid)))
