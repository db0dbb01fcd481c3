"""The kernel's ptrace access rule, computed. Pure: what it asks for is in `credentials.py`.

Facts: to inspect (PTRACE_MODE_READ_FSCREDS: maps, pagemap) the caller's file system ids must equal
the target's real, effective and saved ids; the target must be dumpable, in the caller's user
namespace, and have no capability that the caller lacks. To read (PTRACE_MODE_ATTACH_REALCREDS:
process_vm_readv) the same holds of the caller's real ids, and Yama must permit it. CAP_SYS_PTRACE
in the target's user namespace is enough for all of it but Yama's scope 3. A security module may
refuse more.
Source: __ptrace_may_access() in kernel/ptrace.c, cap_ptrace_access_check() and cap_capable() in
security/commoncap.c, yama_ptrace_access_check() in security/yama/yama_lsm.c.

Danger: a service that reads for its clients must refuse what the kernel would refuse them.
Decision: what is not known is a refusal. Not in /proc are the Landlock domain of a client and the
process that PR_SET_PTRACER names. Not used are CAP_PERFMON and,
for Yama, that a client is the target's ancestor. CAP_PERFMON is enough to inspect since Linux 6.14
(may_access_mm() in kernel/fork.c).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pagecheck.vmm.process.credentials import (
    EFFECTIVE,
    FS,
    INITIAL_USER_NAMESPACE,
    NOT_KNOWN,
    REAL,
    Credentials,
    Host,
    Target,
    UserNamespace,
)

CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2
CAP_SYS_PTRACE: Final = 19
# Source: linux/capability.h, by number.
_CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)


class Refusal(NamedTuple):
    """Why a process may not be inspected or read, and what to do.

    Attributes:
        why: a clause on the process, such as "it runs as uid 107, pagecheck as uid 1000".
        way_out: a clause that says what to do.
    """

    why: str
    way_out: str

    def __str__(self) -> str:
        """Both, as the end of a message."""
        return f"{self.why}; {self.way_out}"


def refusal(target: Target, who: Credentials, host: Host, *, read: bool) -> Refusal | None:
    """The rule.

    Args:
        target: the process whose memory is asked for.
        who: who asks.
        host: where.
        read: whether memory is to be read, rather than mappings inspected.

    Returns:
        The first reason; None where the kernel would permit it.
    """
    powerful = _has_capability(who, target.namespaces)
    if (why := _unmapped(target, who, host)) is not None:
        return why
    if not powerful and (why := _without_capability(target, who, read=read)) is not None:
        return why
    if target.dumpable is False and not (powerful and _reaches_all(who)):
        return _not_dumpable("it is", who)
    if read and (why := _yama(who, host.yama, powerful=powerful)) is not None:
        return why
    if read and who.is_own and (why := _page_map(target, who)) is not None:
        return why
    if target.dumpable is None and not (powerful and _reaches_all(who)):
        return _not_dumpable("it may be", who)
    return None if who.is_own else _label(who, host)


def _has_capability(who: Credentials, namespaces: tuple[UserNamespace, ...]) -> bool:
    """Whether they have CAP_SYS_PTRACE in the first of these namespaces: in their effective set, or
    because their user made the namespace below theirs."""
    below: UserNamespace | None = None
    for each in namespaces:
        if each.place == who.user_namespace:
            made = below is not None and below.owner == who.uids[EFFECTIVE]
            return made or _has(who, CAP_SYS_PTRACE)
        below = each
    return False


def _has(who: Credentials, *capabilities: int) -> bool:
    return any(who.effective >> each & 1 for each in capabilities)


def _reaches_all(who: Credentials) -> bool:
    """Whether a capability of theirs reaches the namespace that any program was started in, which
    may be one above that of the process's ids."""
    place = who.user_namespace
    initial = place is not None and place[1] == INITIAL_USER_NAMESPACE
    return who.is_own or (initial and _has(who, CAP_SYS_PTRACE))


def _unmapped(target: Target, who: Credentials, host: Host) -> Refusal | None:
    """All ids without a number in our user namespace look the same."""
    if host.unmapped is None or who.is_own:
        return None
    uid, gid = host.unmapped
    if uid in (*who.uids, *target.credentials.uids) or gid in (*who.gids, *target.credentials.gids):
        return Refusal(
            "an id of its own or of the client has no number in the service's user namespace",
            "run the service in the initial user namespace",
        )
    return None


def _without_capability(target: Target, who: Credentials, *, read: bool) -> Refusal | None:
    theirs = target.credentials
    return (
        _ids("uid", theirs.uids, who, who.uids, read=read)
        or _ids("gid", theirs.gids, who, who.gids, read=read)
        or _namespace(target, who)
        or (None if target.dumpable is False else _capabilities(theirs, who, read=read))
    )


def _ids(
    kind: str, theirs: tuple[int, ...], who: Credentials, mine: tuple[int, ...], *, read: bool
) -> Refusal | None:
    asked = {mine[FS], mine[REAL]} if read else {mine[FS]}
    three = theirs[:FS]
    if len(asked.union(three)) == 1:
        return None
    if len(set(three)) > 1:
        shown = ", ".join(map(str, three))
        return Refusal(f"its real, effective and saved {kind} differ ({shown})", _by_root(who))
    other = next(each for each in (mine[FS], mine[REAL]) if each != three[0])
    return Refusal(
        f"it runs as {kind} {three[0]}, {_called(who)} as {kind} {other}",
        f"{_act(who)} as {kind} {three[0]}, or {_as_root(who)}",
    )


def _namespace(target: Target, who: Credentials) -> Refusal | None:
    if target.namespaces and who.user_namespace is not None:
        if target.namespaces[0].place == who.user_namespace:
            return None
    elif who.is_own:
        if not target.elsewhere:
            return None  # what hides it has another reason, which follows
    else:
        return Refusal(
            "its user namespace, or the client's, cannot be seen by the service",
            "run the service as root",
        )
    return Refusal(f"it is in another user namespace than {_called(who)}", _by_root(who))


def _not_dumpable(it_is: str, who: Credentials) -> Refusal:
    return Refusal(
        f"{it_is} not dumpable (PR_SET_DUMPABLE 0, or a program with set-uid or capabilities)",
        _by_root(who),
    )


def _capabilities(theirs: Credentials, who: Credentials, *, read: bool) -> Refusal | None:
    more = theirs.permitted & ~who.effective
    if read:
        more |= theirs.permitted & ~who.permitted
    if not more:
        return None
    names = [_name(bit) for bit in range(more.bit_length()) if more >> bit & 1]
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Refusal(
        f"it has capabilities that {_called(who)} lacks ({', '.join(names[:3])}{rest})",
        _by_root(who),
    )


def _name(capability: int) -> str:
    known = capability < len(_CAPABILITIES)
    return f"CAP_{_CAPABILITIES[capability]}" if known else f"capability {capability}"


def _yama(who: Credentials, scope: int, *, powerful: bool) -> Refusal | None:
    if scope == NOT_KNOWN and not who.is_own:
        return Refusal(
            "kernel.yama.ptrace_scope cannot be seen by the service",
            "run it with a whole /proc (without subset=pid)",
        )
    if scope >= 3:
        return Refusal(
            "kernel.yama.ptrace_scope is 3: no process may read the memory of another",
            "start the host with a lower scope; shared guest RAM can be scanned all the same",
        )
    if scope in (1, 2) and not powerful:
        return Refusal(
            f"kernel.yama.ptrace_scope is {scope}: reading it takes CAP_SYS_PTRACE",
            f"{_by_root(who)}, or set it to 0: sysctl kernel.yama.ptrace_scope=0",
        )
    return None


def _page_map(target: Target, who: Credentials) -> Refusal | None:
    """pagemap is 0400, so that CAP_SYS_PTRACE alone does not open it. Of a client that is not
    asked: it reads without it."""
    if who.uids[FS] == target.owner or _has(who, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        return None
    return Refusal(
        f"its page map may be opened only by uid {target.owner}",
        f"{_act(who)} with CAP_DAC_READ_SEARCH too",
    )


def _label(who: Credentials, host: Host) -> Refusal | None:
    """A security module decides by labels: for a client with ours as it does for us, and one that
    it does not confine may ptrace all that ids and capabilities let it: AppArmor's `unconfined`,
    and SELinux's type unconfined_t, the third part of its labels."""
    if who.label == host.label or who.label == "unconfined":
        return None
    if who.label.split(":")[2:3] == ["unconfined_t"]:
        return None
    return Refusal(
        f"the client has the security label {who.label or 'none'!r}, and what that one may read is "
        "not known",
        "run the service with the same label",
    )


def _called(who: Credentials) -> str:
    return "pagecheck" if who.is_own else "the client"


def _act(who: Credentials) -> str:
    return "run pagecheck" if who.is_own else "ask"


def _by_root(who: Credentials) -> str:
    return f"{_act(who)} {_as_root(who)}"


def _as_root(who: Credentials) -> str:
    """As whom it would be permitted, after `_act`."""
    if who.uids[EFFECTIVE] == 0 and not _has(who, CAP_SYS_PTRACE):
        return "with CAP_SYS_PTRACE (docker run --cap-add=SYS_PTRACE)"
    return "as root"
