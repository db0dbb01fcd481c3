"""May a process be read: what /proc shows, and what it hides."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from pagecheck.vmm.process import access
from pagecheck.vmm.process.access import credentials_of, may_inspect, may_read
from pagecheck.vmm.process.credentials import NOT_KNOWN, host_of
from tests.support.users import in_a_child, needs_root


def test_this_process_and_its_children() -> None:
    assert may_inspect(os.getpid()) is None
    assert may_read(os.getpid()) is None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert may_read(child.pid) is None
        assert may_read(child.pid, credentials_of(os.getpid())) is None
        assert child.stdin is not None
        child.stdin.close()


def test_no_such_process() -> None:
    for pid in (1 << 22, 1 << 40):
        for found in (may_inspect(pid), may_read(pid), may_read(pid, credentials_of("self"))):
            assert found is not None
            assert found.why == "there is no such process"


def test_a_process_that_has_ended() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = may_read(child.pid)
    assert found is not None
    assert found.why == "it has ended"
    child.wait()


@needs_root
def test_a_proc_that_hides_others(shm_folder: Path) -> None:
    shm_folder.chmod(0o755)
    made = subprocess.run(
        ["mount", "-t", "proc", "-o", "hidepid=2", "none", shm_folder], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"mount: {made.stderr.decode()}")
    target = os.getpid()

    def look() -> None:
        found = may_read(target, proc=str(shm_folder))
        assert found is not None
        assert found.why == f"{shm_folder} hides it (hidepid)"

    try:
        in_a_child(look)
    finally:
        subprocess.run(["umount", shm_folder], check=True)


def test_a_forbidden_system_call_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_errno_of_read", lambda _pid: errno.EPERM)
    found = may_read(os.getpid())
    assert found is not None
    assert "process_vm_readv is forbidden or not known here" in found.why
    assert "seccomp" in found.way_out


def fake(folder: Path, pid: str, status: str) -> None:
    (folder / pid).mkdir()
    (folder / pid / "status").write_text(status)
    (folder / pid / "maps").write_text("")
    (folder / pid / "uid_map").write_text("0 0 4294967295\n")


STATUS = "Name:\tqemu\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t \nCapPrm:\t0\nCapEff:\t{}\n"


def test_what_proc_does_not_show_is_a_refusal(tmp_path: Path) -> None:
    """A process of nobody's without a user namespace."""
    fake(tmp_path, "self", STATUS.format(0))
    fake(tmp_path, "4711", STATUS.format(0))
    who = credentials_of("4711", str(tmp_path))
    assert who.uids == (7, 7, 7, 7)
    found = may_read(4711, who, str(tmp_path))
    assert found is not None
    assert "cannot be seen by the service" in found.why


@pytest.mark.parametrize("text", ["", "Name:\tqemu\n", STATUS.format("x"), STATUS.replace("7", "")])
def test_a_status_that_is_not_linuxs(tmp_path: Path, text: str) -> None:
    fake(tmp_path, "4711", text)
    with pytest.raises(OSError, match="not as Linux writes it"):
        credentials_of(4711, str(tmp_path))


def test_a_security_module_that_refuses_what_the_rule_permits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "refusal", lambda *_given, **_more: None)
    for pid, label in (("self", "unconfined"), ("4711", "libvirt-1 (enforce)")):
        fake(tmp_path, pid, STATUS.format(0))
        (tmp_path / pid / "attr").mkdir()
        (tmp_path / pid / "attr" / "current").write_text(label + "\n")
    found = may_read(4711, proc=str(tmp_path))
    assert found is not None
    assert "its label is 'libvirt-1 (enforce)', pagecheck's is 'unconfined'" in found.why
    assert "AppArmor" in found.way_out


@pytest.mark.parametrize(
    ("text", "expected"), [("0\n", 0), ("1\n", 1), ("3\n", 3), ("", NOT_KNOWN), ("x", NOT_KNOWN)]
)
def test_yama(tmp_path: Path, text: str, expected: int) -> None:
    assert host_of(str(tmp_path)).yama == NOT_KNOWN  # no /proc/sys at all: subset=pid
    folder = tmp_path / "sys" / "kernel"
    folder.mkdir(parents=True)
    assert host_of(str(tmp_path)).yama == 0
    (folder / "yama").mkdir()
    (folder / "yama" / "ptrace_scope").write_text(text)
    assert host_of(str(tmp_path)).yama == expected
