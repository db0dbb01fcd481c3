"""The ptrace access rule where the host cannot be brought into a state: Yama, labels, ids without a
number. tests/processes/test_ptrace_rule.py compares it with the kernel."""

from __future__ import annotations

import pytest

from pagecheck.vmm.process.credentials import (
    INITIAL_USER_NAMESPACE,
    NOT_KNOWN,
    Credentials,
    Host,
    Target,
    UserNamespace,
)
from pagecheck.vmm.process.ptrace_rule import refusal

INITIAL = (4, INITIAL_USER_NAMESPACE)
PTRACE = 1 << 19
QEMU, USER = 107, 1000


def somebody(uid: int, capabilities: int = 0, **more: object) -> Credentials:
    ids = (uid,) * 4
    made = Credentials(ids, ids, (), capabilities, capabilities, INITIAL, "")
    return made._replace(**more)


def vm(uid: int = USER, **more: object) -> Target:
    made = Target(somebody(uid), (UserNamespace(INITIAL, 0),), False, True, uid)
    return made._replace(**more)


def said(target: Target, who: Credentials, *, read: bool = True, **host: object) -> str:
    found = refusal(target, who, Host(0, None, "")._replace(**host), read=read)
    return "" if found is None else str(found)


def test_the_same_user() -> None:
    assert said(vm(), somebody(USER)) == ""


def test_another_user() -> None:
    assert said(vm(QEMU), somebody(USER)) == (
        "it runs as uid 107, the client as uid 1000; ask as uid 107, or as root"
    )
    assert said(vm(QEMU), somebody(USER, is_own=True)) == (
        "it runs as uid 107, pagecheck as uid 1000; run pagecheck as uid 107, or as root"
    )
    assert said(vm(QEMU), somebody(USER, PTRACE)) == ""


def test_the_real_ids_count_for_reading_and_those_of_file_systems_for_inspecting() -> None:
    real_differs = somebody(USER, uids=(QEMU, USER, USER, USER))
    assert said(vm(), real_differs, read=False) == ""
    assert "it runs as uid 1000, the client as uid 107" in said(vm(), real_differs)
    fs_differs = somebody(USER, gids=(USER, USER, USER, QEMU))
    assert "it runs as gid 1000, the client as gid 107" in said(vm(), fs_differs, read=False)


@pytest.mark.parametrize("which", ["uids", "gids"])
def test_ids_that_are_the_same_two(which: str) -> None:
    """Found by random processes."""
    who = somebody(USER)._replace(**{which: (USER, QEMU, QEMU, QEMU)})
    target = vm(credentials=somebody(USER)._replace(**{which: (QEMU, QEMU, USER, QEMU)}))
    assert "differ" in said(target, who)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_set_uid_program(place: int) -> None:
    ids = [USER] * 4
    ids[place] = 0
    target = vm(credentials=somebody(USER, uids=tuple(ids)))
    assert "its real, effective and saved uid differ" in said(target, somebody(USER))


@pytest.mark.parametrize("scope", [1, 2])
def test_yama_takes_the_capability(scope: int) -> None:
    text = said(vm(), somebody(USER, is_own=True), yama=scope)
    assert text.startswith(f"kernel.yama.ptrace_scope is {scope}: reading it takes CAP_SYS_PTRACE;")
    assert text.endswith("as root, or set it to 0: sysctl kernel.yama.ptrace_scope=0")
    assert said(vm(), somebody(USER, PTRACE), yama=scope) == ""
    assert said(vm(), somebody(USER), yama=scope, read=False) == ""


def test_yama_forbids_it_to_all() -> None:
    assert "no process may read" in said(vm(), somebody(0, -1), yama=3)
    assert said(vm(), somebody(0, -1), yama=3, read=False) == ""


def test_yama_that_cannot_be_seen_is_a_refusal_of_others() -> None:
    assert "cannot be seen" in said(vm(), somebody(0, -1), yama=NOT_KNOWN)
    assert said(vm(), somebody(0, -1, is_own=True), yama=NOT_KNOWN) == ""
    assert said(vm(), somebody(0, -1), yama=NOT_KNOWN, read=False) == ""


def test_capabilities_are_named() -> None:
    target = vm(credentials=somebody(USER, 1 << 12 | 1 << 21 | 1 << 40 | 1 << 41))
    assert "lacks (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE and 1 more)" in said(
        target, somebody(USER)
    )
    dropped = somebody(USER, 0, permitted=-1)
    assert "lacks" in said(target, dropped)
    raised = somebody(USER, (1 << 42) - 1 - PTRACE)
    assert said(target, raised) == ""


def test_one_that_may_not_be_dumpable() -> None:
    assert said(vm(dumpable=False), somebody(USER)).startswith(
        "it is not dumpable (PR_SET_DUMPABLE"
    )
    assert said(vm(dumpable=None), somebody(USER)).startswith("it may be not dumpable")
    assert said(vm(dumpable=None), somebody(USER, PTRACE)) == ""


BELOW, LOWEST = UserNamespace((4, 11), USER), UserNamespace((4, 12), 0)


def test_user_namespaces() -> None:
    inside = vm(namespaces=(LOWEST, BELOW, UserNamespace(INITIAL, -1)))
    assert "in another user namespace" in said(inside, somebody(USER, user_namespace=(4, 13)))
    assert "in another user namespace" in said(inside, somebody(QEMU, uids=inside.credentials.uids,
        gids=inside.credentials.gids, user_namespace=(4, 13)))  # fmt: skip
    assert said(inside, somebody(USER)) == ""  # who made one has every capability below it
    assert said(inside, somebody(QEMU, PTRACE)) == ""
    assert said(vm(QEMU, namespaces=(LOWEST, BELOW)), somebody(QEMU, PTRACE)) != ""


def test_a_capability_of_a_namespace_below_does_not_reach_a_program_of_one_above() -> None:
    inside = somebody(0, -1, user_namespace=BELOW.place)
    target = vm(namespaces=(BELOW, UserNamespace(INITIAL, -1)))
    assert said(target, inside) == ""
    assert "not dumpable" in said(target._replace(dumpable=False), inside)
    assert "may be not dumpable" in said(target._replace(dumpable=None), inside)


def test_a_namespace_that_cannot_be_seen_is_a_refusal() -> None:
    unseen = "its user namespace, or the client's, cannot be seen"
    assert unseen in said(vm(namespaces=()), somebody(USER))
    assert unseen in said(vm(), somebody(USER, user_namespace=None))
    assert said(vm(namespaces=()), somebody(0, PTRACE)) != ""


@pytest.mark.parametrize("which", ["uids", "gids"])
def test_an_id_without_a_number_is_a_refusal(which: str) -> None:
    who = somebody(USER)._replace(**{which: (65534,) * 4})
    target = vm(credentials=who)
    assert said(target, who) == ""
    assert "has no number" in said(target, who, unmapped=(65534, 65534))
    assert "has no number" in said(vm(), who._replace(effective=-1), unmapped=(65534, 65534))


def test_the_label_of_a_client() -> None:
    confined = somebody(USER, label="docker-default (enforce)")
    assert said(vm(), confined, label="docker-default (enforce)") == ""
    assert "'docker-default (enforce)'" in said(vm(), confined, label="unconfined")
    assert said(vm(), somebody(USER, label="unconfined"), label="pagecheck (enforce)") == ""
    assert "label 'none'" in said(vm(), somebody(USER), label="unconfined")
    service = "system_u:system_r:unconfined_service_t:s0"
    login = somebody(USER, label="unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023")
    assert said(vm(), login, label=service) == ""
    container = somebody(USER, label="system_u:system_r:container_t:s0:c1,c2")
    assert "container_t" in said(vm(), container, label=service)


def test_root_without_the_capability_is_told_how_a_container_gets_it() -> None:
    text = said(vm(QEMU), somebody(0, is_own=True))
    assert text.endswith("as uid 107, or with CAP_SYS_PTRACE (docker run --cap-add=SYS_PTRACE)")


def test_the_page_map_is_its_owners() -> None:
    assert "opened only by uid 107" in said(vm(QEMU), somebody(0, PTRACE, is_own=True))
    assert said(vm(QEMU), somebody(0, PTRACE | 1 << 2, is_own=True)) == ""
    assert said(vm(QEMU), somebody(0, PTRACE)) == ""  # process_vm_readv does not take it
