"""Shortages that pass, with the kernel's own limits: a client is told, the others are served, and
nothing has to be started again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagecheck import Client
from pagecheck.errors import ResourceError
from pagecheck.service.replies import RemoteBlock
from tests.support.bitmaps import bits
from tests.support.command import limited
from tests.support.hostile import Witness, connected, fds, greeted
from tests.support.known_ram import KnownRam
from tests.support.processes import living
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

CLONE_NEWNS, MS_REC_PRIVATE = 0x00020000, 0x44000
CAP_SYS_ADMIN, CAP_SYS_RESOURCE, PR_CAPBSET_DROP = 21, 24, 24


def ordinary_root(most: int) -> Callable[[], None]:
    """Few descriptors, and none of the capabilities that lift the limit for those on their way; as
    the systemd unit has it."""

    def prepare() -> None:
        libc = ctypes.CDLL(None)
        for capability in (CAP_SYS_ADMIN, CAP_SYS_RESOURCE):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    return prepare


def small_dev_shm(mib: int) -> Callable[[], None]:
    """A /dev/shm of its own."""

    def prepare() -> None:
        libc = ctypes.CDLL(None)
        assert libc.unshare(CLONE_NEWNS) == 0
        assert libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None) == 0
        assert libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, b"size=%dm" % mib) == 0

    return prepare


def is_right(client: Client, ram: KnownRam) -> bool:
    (block,) = client.attach(ram.fd, name="once")
    found = client.check([block]).blocks[0]
    client.detach(block)
    return bool((bits(found.zero, ram.pages) == ram.zero).all())


def refusal(client: Client, block: RemoteBlock) -> str:
    """What the service says where it has no worker; what one had in hand is undecided first."""
    with pytest.raises(ResourceError) as caught:  # noqa: PT012
        while True:
            assert client.check([block]).blocks[0].counts.undecided
    return str(caught.value)


def kill_workers(service: ServiceProcess) -> None:
    workers = service.children()
    for worker in workers:
        worker.kill()
    wait_for(lambda: not living(workers), "the workers dead")


def replaced(service: ServiceProcess) -> int:
    with Client(service.path) as client:
        return client.stats()["workers_replaced"]


@pytest.mark.usefixtures("needs_root")
def test_clients_that_read_no_answer_take_no_channel_from_others(start_service) -> None:
    """Each answer's memfd is on its way until it is read."""
    service = start_service("--max-clients", 16, preexec_fn=ordinary_root(256))
    ram = KnownRam(64)
    with contextlib.ExitStack() as stack, Witness(service.path) as witness:
        for _ in range(12):
            deaf = stack.enter_context(connected(service.path))
            deaf.result("attach", {}, [ram.fd])
            deaf.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                deaf.socket.send(b'{"execute": "check", "arguments": {"block": 0}}\n' * 200)
        wait_for(lambda: _in_flight() > 100, "answers on their way")
        witness.await_rounds(20)
        assert _in_flight() < 12 * 20
    assert replaced(service) == 0
    assert "lost" not in service.stderr_text()
    ram.close()


def _in_flight() -> int:
    """Descriptors on their way in all Unix sockets here. Source: unix_show_fdinfo()."""
    found = 0
    for process in Path("/proc").glob("[0-9]*/fdinfo"):
        with contextlib.suppress(OSError):
            for each in process.iterdir():
                with contextlib.suppress(OSError):
                    for line in each.read_text().splitlines():
                        if line.startswith("scm_fds:"):
                            found += int(line.split()[1])
    return found


def test_no_descriptor_is_told_and_passes(start_service) -> None:
    service = start_service(preexec_fn=limited(resource.RLIMIT_NOFILE, 64))
    ram = KnownRam(64)
    with Client(service.path) as client, contextlib.ExitStack() as stack:
        (mine,) = client.attach(ram.fd, name="mine")
        held = [stack.enter_context(connected(service.path)) for _ in range(3)]
        errors = []
        for each in held:
            for number in range(32):
                message, _fds = each.execute("attach", {"name": f"n{number}"}, [ram.fd])
                if "error" in message:
                    errors.append(message["error"])
        assert {each["class"] for each in errors} == {"ResourceError"}
        assert "open files" in errors[0]["desc"]
        for _ in range(64 - fds(service.pid)):  # too few for a block may do for a check
            held.append(stack.enter_context(connected(service.path)))
        with pytest.raises(ResourceError, match="open files"):
            client.check([mine])
        for each in held:
            each.close()
        wait_for(lambda: fds(service.pid) < 50, "their descriptors closed")
        assert client.check([mine]).blocks[0].counts.undecided == 0
        assert is_right(client, ram)
    assert replaced(service) == 0
    ram.close()


@pytest.mark.usefixtures("needs_root")
def test_a_full_dev_shm_passes(start_service) -> None:
    service = start_service(preexec_fn=small_dev_shm(24))
    ram = KnownRam(64)
    filler = Path(f"/proc/{service.pid}/root/dev/shm/filler")
    with Client(service.path) as client:
        (block,) = client.attach(ram.fd)
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        kill_workers(service)
        assert "/dev/shm is full" in refusal(client, block)
        filler.unlink()
        wait_for(lambda: client.check([block]).blocks[0].counts.undecided == 0, "checks again")
        assert is_right(client, ram)
    ram.close()


@pytest.mark.usefixtures("needs_root")
def test_no_process_is_told_and_passes(start_service) -> None:
    service = start_service()
    ram = KnownRam(64)
    with pids_cgroup() as cgroup, Client(service.path) as client:
        (block,) = client.attach(ram.fd)
        (cgroup / "cgroup.procs").write_text(str(service.pid))
        (cgroup / "pids.max").write_text("1")
        kill_workers(service)
        with pytest.raises(ResourceError, match="no more processes or threads"):
            client.open_channel()
        assert "no more processes or threads" in refusal(client, block)
        (cgroup / "pids.max").write_text("max")
        wait_for(lambda: client.check([block]).blocks[0].counts.undecided == 0, "checks again")
        assert is_right(client, ram)
        assert service.stop() == 0
    ram.close()


@contextlib.contextmanager
def pids_cgroup() -> Iterator[Path]:
    """A cgroup that limits processes and threads, of either version."""
    places = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]
    place = next((each for each in places if (each / "cgroup.procs").exists()), None)
    made = None if place is None else place / f"pctest-{os.getpid()}"
    try:
        if made is not None:
            made.mkdir()
    except OSError:
        made = None
    if made is None or not (made / "pids.max").exists():
        pytest.skip("needs a cgroup hierarchy with the pids controller that root may write")
    try:
        yield made
    finally:
        wait_for(lambda: not (made / "cgroup.procs").read_text(), "the cgroup empty")
        made.rmdir()


def test_a_service_that_lost_every_worker_for_good_ends(start_service, tmp_path: Path) -> None:
    """So that whoever started it starts it again; here its program was taken away."""
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    service = start_service(
        command=[str(python), "-P", "-m", "pagecheck", "serve", "--socket", str(tmp_path / "s")],
        path=str(tmp_path / "s"),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    ram = KnownRam(64)
    with greeted(service.path) as client:
        client.result("attach", {}, [ram.fd])
        python.unlink()
        kill_workers(service)
        with contextlib.suppress(EOFError, OSError):
            while True:  # until every channel has met it
                client.execute("check", {"block": 0})
        assert service.process.wait(15) == 3
    assert "no channel is left" in service.stderr_text().splitlines()[-1]
    assert service.stderr_text().splitlines()[-1].startswith("pagecheck: ")
    assert not os.path.lexists(service.path)
    assert service.names() == []
    service.was_killed = True
    ram.close()


def test_a_client_without_a_descriptor_goes_on_later(service: ServiceProcess) -> None:
    """What it opened and could not take is closed again at the service."""
    ram = KnownRam(64)
    with Client(service.path) as client:
        (block,) = client.attach(ram.fd)
        errors: list[Exception] = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            for ask in (client.open_channel, lambda: client.check([block])):
                try:
                    ask()
                except Exception as error:
                    errors.append(error)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [type(each) for each in errors] == [ResourceError, ResourceError]
        assert "open files" in str(errors[0])
        assert client.stats()["channels"] == 0
        assert client.check([block]).blocks[0].counts.undecided == 0
        client.open_channel().close()
    ram.close()
