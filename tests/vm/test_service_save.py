"""Saving a QEMU through a service: for whom, into which files, and what becomes of the VM where
anybody dies, lies or is silent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator

import pagecheck
import pagecheck.service as service_package
import pagecheck.service.remote_save  # for users who may not load it
from pagecheck import Client
from pagecheck.workers.writer import CAP_SYS_RESOURCE
from tests.support.command import PAGECHECK, assert_fails
from tests.support.command import pagecheck as command
from tests.support.file_systems import mounted
from tests.support.guests import booted
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess, StartService
from tests.support.service_fixtures import short_folder, start_service
from tests.support.users import NOBODY, Forked, needs_root
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu, bare_qemu, memfd_backend
from tests.vm.saved_guests import SavedGuest, goes_on, restored

__all__ = ["short_folder", "start_service"]

pytestmark = [pytest.mark.long, needs_root, pytest.mark.timeout(180)]

OWNER = NOBODY - 1  # of QEMU
WATCHER = NOBODY - 2
STOPPER = NOBODY - 3
SAVER = NOBODY - 4
SIZE = 64 << 20
SCHEMA: dict[str, Any] = json.loads(files(service_package).joinpath("schema.json").read_text())


@pytest.fixture(scope="module")
def qemu() -> Iterator[BareQemu]:
    """Its RAM is all there, so that a rate makes a copy as slow as one likes; 4 MiB are random."""
    backend = memfd_backend(f"{SIZE >> 20}M", more=",share=on,prealloc=on")
    with bare_qemu(*backend, "-machine", "memory-backend=mem0", uid=OWNER) as running:
        with ram_of(running).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), os.urandom(4 << 20), SIZE // 2)
        yield running


def ram_of(qemu: BareQemu) -> Path:
    """The memfd that its RAM is in."""
    links = Path(f"/proc/{qemu.pid}/fd").iterdir()
    return next(each for each in links if "memory-backend" in os.readlink(each))


@pytest.fixture
def running(qemu: BareQemu) -> BareQemu:
    """The same, running, and no event of before is left."""
    if qemu.status() != "running":
        qemu.qmp("cont")
    qemu.own_events()
    return qemu


@pytest.fixture
def service(start_service: StartService, short_folder: Path) -> ServiceProcess:
    path = short_folder / "policy.toml"
    rules = ((WATCHER, ""), (STOPPER, "pause = true"), (SAVER, "save = true"))
    path.write_text(
        "".join(
            f"[[allow]]\nusers = [{user}]\nvms_of = [{OWNER}, 0]\n{more}\n" for user, more in rules
        )
    )
    short_folder.chmod(0o755)
    return start_service("--policy", path, "--allow-uid", OWNER, "--max-pause", 30, "-v")


@pytest.fixture
def folder() -> Iterator[Path]:
    """On the disk, and everybody's."""
    with tempfile.TemporaryDirectory(prefix="pctest-", dir="/var/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def saving(
    service: ServiceProcess, socket: str | Path, directory: Path, uid: int = 0, **more: Any
) -> Forked:
    """A save that a user has begun."""

    def work() -> None:
        with Client(service.path) as client:
            client.save(f"qmp:{socket}", directory, **more)

    return Forked(work, uid)


def saved(*arguments: Any, **more: Any) -> str:
    """The same, to its end: the error, or ""."""
    return saving(*arguments, **more).wait()


@pytest.mark.parametrize("uid", [0, OWNER, SAVER])
def test_who_may_save(running: BareQemu, service: ServiceProcess, folder: Path, uid: int) -> None:
    assert saved(service, running.socket, folder / "one", uid) == ""
    assert running.status() == "running"
    assert running.own_events() == ["STOP", "RESUME"]
    for each in (folder / "one", *(folder / "one").iterdir()):
        assert each.stat().st_uid == uid
        assert each.stat().st_mode & 0o077 == 0
    verified = pagecheck.verify(folder / "one")
    assert verified.snapshot.machine is not None
    assert verified.snapshot.machine.vmm == "qemu"
    assert verified.snapshot.state is not None
    assert f"user {uid}: qmp:" in service.stderr_text()


@pytest.mark.parametrize("uid", [WATCHER, STOPPER])
def test_who_may_not(running: BareQemu, service: ServiceProcess, folder: Path, uid: int) -> None:
    told = saved(service, running.socket, folder / "one", uid)
    assert told.startswith("AccessError: ")
    assert "may be looked at, but not saved" in told
    assert "refused to process" in service.stderr_text()
    assert running.own_events() == []
    assert list(folder.iterdir()) == []


def test_the_same_as_without_the_service(
    running: BareQemu, service: ServiceProcess, folder: Path
) -> None:
    running.qmp("stop")
    assert saved(service, running.socket, folder / "by", OWNER, live=True) == ""
    assert saved(service, running.socket, folder / "zst", compress="zstd") == ""
    assert running.status() == "paused"  # as before
    report = pagecheck.save(f"qmp:{running.socket}", folder / "own", disks="none", live=True)
    assert report.pause is not None
    assert not report.pause.stopped_by_us
    assert report.pause_without_live is None
    one, other = (pagecheck.info(folder / name) for name in ("own", "by"))
    assert (folder / "own/mem0.ram").read_bytes() == (folder / "by/mem0.ram").read_bytes()
    assert one.blocks == other.blocks
    assert one.machine == other.machine
    assert one.state is not None
    assert other.state is not None
    assert one.state.size == other.state.size
    compressed = pagecheck.verify(folder / "zst").snapshot.blocks[0]
    assert compressed.chunks == one.blocks[0].chunks


@pytest.mark.usefixtures("guest_files")
def test_a_guest_goes_on_from_it(service: ServiceProcess, folder: Path) -> None:
    """Saved by a user who may do no more than the policy says, restored by root."""
    with tempfile.TemporaryDirectory(prefix="pctest-", dir="/dev/shm") as name:
        qmp = ("-qmp", f"unix:{name}/qmp,server=on,wait=off")
        Path(name).chmod(0o755)
        asked = {"random_mb": 2, "zeros_mb": 1, "check_every_s": 0}
        with booted(backend="private", extra=qmp, **asked) as guest:
            guest.wait_check()
            guest.pause()
            last = guest.count()
            assert saved(service, f"{name}/qmp", folder / "one", SAVER) == ""
            command = [word for word in guest.command if word not in qmp]
    names = [each.name for each in pagecheck.info(folder / "one").blocks]
    known = SavedGuest(folder / "one", command, last, names)
    ram = Path("/dev/shm") / f"pctest-{os.getpid()}-service.ram"
    log = folder / "console"
    options = ("--ram", str(ram), "--quiet")
    try:
        with restored(known, ram, log, *options) as front:
            assert goes_on(front.pid, log, last)
    finally:
        ram.unlink(missing_ok=True)


class Attached(NamedTuple):
    """A client that speaks the protocol by hand, with the VM attached."""

    client: RawClient
    block: int

    def save(self, fd: int, **more: Any) -> dict[str, Any]:
        """The arguments of a save, sent with one descriptor."""
        arguments = {"blocks": [self.block], **more}
        self.client.send({"execute": "save", "arguments": arguments, "id": 1}, [fd])
        return arguments


@pytest.fixture
def attached(running: BareQemu, service: ServiceProcess) -> Iterator[Attached]:
    with RawClient(service.path) as client:
        client.receive()
        found = client.result("attach", {"qmp": str(running.socket), "swapped": "read"})
        yield Attached(client, found["block"])


@pytest.fixture
def ram_file(folder: Path) -> Iterator[int]:
    fd = os.open(folder / "ram", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


def test_what_is_said_conforms(attached: Attached, ram_file: int, running: BareQemu) -> None:
    attached.save(ram_file, progress=True, live=True, max_rate=SIZE)
    while "event" in (message := attached.client.receive())[0]:
        pass
    answer, fds = message
    Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": "#/$defs/from-service"}]}).validate(answer)
    definition = {**SCHEMA, "anyOf": [{"$ref": "#/$defs/save-return"}]}
    Draft202012Validator(definition).validate(answer["return"])
    assert [os.fstat(fd).st_size for fd in fds] == [
        answer["return"]["blocks"][0]["zero"]["bytes"],
        answer["return"]["state_bytes"],
    ]
    assert os.pread(fds[1], 4, 0) == b"QEVM"
    for fd in fds:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        os.close(fd)
    numbers = attached.client.result("query-stats")["numbers"]
    assert numbers["saves"] == 1
    assert numbers["saved_bytes"] > 0
    assert numbers["pauses"] == 1
    assert running.status() == "running"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (os.O_RDONLY, "is not open for reading and writing"),
        (os.O_WRONLY, "is not open for reading and writing"),
        (os.O_RDWR | os.O_APPEND, "is open for appending"),
        (os.O_PATH, "is not open for reading and writing"),
    ],
)
def test_files_that_cannot_be_written(
    attached: Attached, ram_file: int, folder: Path, running: BareQemu, flags: int, told: str
) -> None:
    assert ram_file
    fd = os.open(folder / "ram", flags)
    try:
        error = attached.client.error("save", {"blocks": [attached.block]}, [fd])
    finally:
        os.close(fd)
    assert error["class"] == "UsageError"
    assert error["desc"].startswith(f"file 0: {told}")
    assert running.own_events() == []


def test_what_is_no_file(attached: Attached, folder: Path, running: BareQemu) -> None:
    ends = [*os.pipe(), os.memfd_create("ram"), os.open(folder, os.O_RDONLY)]
    ends.append(os.open("/dev/null", os.O_RDWR))
    try:
        for fd in ends:
            error = attached.client.error("save", {"blocks": [attached.block]}, [fd])
            assert error["class"] == "UsageError"
            assert error["desc"].startswith("file 0: ")
    finally:
        for fd in ends:
            os.close(fd)
    assert running.own_events() == []


@pytest.mark.parametrize("size", [0, SIZE - 4096, SIZE + 1])
def test_a_file_of_another_size(
    attached: Attached, ram_file: int, running: BareQemu, size: int
) -> None:
    os.ftruncate(ram_file, size)
    error = attached.client.error("save", {"blocks": [attached.block]}, [ram_file])
    assert error["desc"] == f"file 0: has {size} bytes, and its block has {SIZE}"
    assert running.own_events() == []


def test_the_ram_itself_is_not_written(attached: Attached, running: BareQemu) -> None:
    fd = os.open(ram_of(running), os.O_RDWR)
    try:
        error = attached.client.error("save", {"blocks": [attached.block]}, [fd])
    finally:
        os.close(fd)
    assert error["class"] == "UsageError"
    assert running.own_events() == []


def test_what_does_not_go_with_it(
    attached: Attached, ram_file: int, service: ServiceProcess
) -> None:
    client, block = attached
    assert service.pid
    error = client.error("save", {"blocks": [block], "max_pause": 31}, [ram_file])
    assert (error["class"], error["desc"]) == (
        "LimitError",
        "max_pause: this service allows 30.0 s",
    )
    error = client.error("save", {"blocks": [block]}, [ram_file, ram_file])
    assert error["desc"] == "save: came with 2 descriptors, needs 1"


def test_a_client_that_hangs_up_in_the_pause(
    attached: Attached, ram_file: int, running: BareQemu
) -> None:
    attached.save(ram_file, max_rate=1 << 20)
    running.wait_event("STOP")
    attached.client.close()
    running.wait_event("RESUME")
    assert running.status() == "running"


def test_a_client_that_reads_nothing(attached: Attached, ram_file: int, running: BareQemu) -> None:
    attached.save(ram_file)
    running.wait_event("STOP")
    running.wait_event("RESUME")
    answer, fds = attached.client.receive()
    assert answer["return"]["pause"]["stood_still"]
    for fd in fds:
        os.close(fd)


def test_the_longest_pause(attached: Attached, ram_file: int, running: BareQemu) -> None:
    attached.save(ram_file, max_rate=1 << 20, max_pause=0.2)
    answer, _fds = attached.client.receive()
    assert answer["error"]["class"] == "SourceError"
    assert "nothing was saved" in answer["error"]["desc"]
    assert running.own_events() == ["STOP", "RESUME"]
    numbers = attached.client.result("query-stats")["numbers"]
    assert numbers["pauses"] == 1  # the VM was stopped, though for nothing
    assert numbers["pause_seconds"] > 0  # of the 0.2 s, which begin before QEMU is asked to stop
    assert numbers.get("saves", 0) == 0


def test_a_service_that_is_killed_in_the_pause(
    running: BareQemu, service: ServiceProcess, folder: Path
) -> None:
    process = saving(service, running.socket, folder / "one", OWNER, max_rate=1 << 20)
    running.wait_event("STOP")
    service.kill()
    running.wait_event("RESUME")
    told = process.wait()
    assert told.startswith("PeerError: ")
    assert "hung up" in told
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("live", [False, True])
def test_a_client_that_ends_in_the_middle(
    running: BareQemu, service: ServiceProcess, folder: Path, number: signal.Signals, live: bool
) -> None:
    how = {"max_rate": 1 << 20, "live": live}
    process = saving(service, running.socket, folder / "one", OWNER, **how)
    if live:  # the copy runs ahead, and nothing is stopped
        wait_for(lambda: "save" in doing(service), "it copies")
    else:
        running.wait_event("STOP")
    process.send_signal(number)
    told = process.wait()
    assert told == ("SIGKILL" if number == signal.SIGKILL else "KeyboardInterrupt: ")
    if not live:
        running.wait_event("RESUME")
    assert not (folder / "one").exists()
    wait_for(lambda: not doing(service), "the service gave it up")
    assert saved(service, running.socket, folder / "two", OWNER) == ""
    assert [each.name for each in folder.iterdir()] == ["two"]  # what was left is removed
    assert running.status() == "running"


def test_workers_write_in_the_client_s_place(
    running: BareQemu, service: ServiceProcess, folder: Path
) -> None:
    """With its file system user id, and without what exceeds quotas; one that is killed is
    replaced by another such."""
    process = saving(service, running.socket, folder / "one", OWNER, max_rate=16 << 20)
    running.wait_event("STOP")
    killed = wait_for(lambda: writers(service), "a worker of the save")
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: set(writers(service)) - set(killed), "another in its place")
    assert process.wait() == ""
    assert running.own_events()[-1] == "RESUME"
    assert pagecheck.verify(folder / "one").snapshot.blocks[0].normal >= (4 << 20) // 4096


def writers(service: ServiceProcess) -> list[int]:
    """The service's workers that write as OWNER."""
    found = []
    for each in service.children():
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{each.pid}/status").read_text().splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            if status["Uid"].split() == ["0", "0", "0", str(OWNER)]:
                assert not int(status["CapEff"], 16) & (1 << CAP_SYS_RESOURCE)
                found.append(each.pid)
    return found


def test_a_service_with_mounts_of_its_own(
    running: BareQemu, start_service: StartService, short_folder: Path, folder: Path
) -> None:
    """As systemd gives one: what a file is on is known by the client's table."""
    path = short_folder / "socket"
    own = ["unshare", "--mount", PAGECHECK, "serve", "--socket", str(path)]
    own += ["--allow-uid", str(OWNER)]
    service = start_service(command=own, path=str(path))
    steps: list[tuple[int, int]] = []
    with Client(path) as client:
        how = {"live": True, "progress": lambda *step: steps.append(step), "max_rate": SIZE}
        client.save(f"qmp:{running.socket}", folder / "one", **how)
    assert steps == sorted(steps)
    assert steps[-1] == (3 * SIZE, 3 * SIZE)
    path.chmod(0o666)
    assert saved(service, running.socket, folder / "two", OWNER) == ""


def doing(service: ServiceProcess) -> list[str]:
    """What other clients have the service do."""
    with Client(service.path) as client:
        found = [each["doing"] for each in client.stats()["sessions"]]
    return [each for each in found if each not in (None, "query-stats")]


def test_a_frozen_client(running: BareQemu, service: ServiceProcess, folder: Path) -> None:
    process = saving(service, running.socket, folder / "one", OWNER, max_rate=16 << 20)
    running.wait_event("STOP")
    process.send_signal(signal.SIGSTOP)
    running.wait_event("RESUME")
    process.send_signal(signal.SIGCONT)
    assert process.wait() == ""
    pagecheck.verify(folder / "one")


def test_by_the_command(running: BareQemu, service: ServiceProcess, folder: Path) -> None:
    via = ("save", "--via", service.path)
    where = (f"qmp:{running.socket}", folder / "one")
    done = command(*via, "--json", "--quiet", *where)
    assert json.loads(done.stdout)["state_bytes"] > 0
    pagecheck.verify(folder / "one")
    assert_fails(command(*via, *where), 2, "exists, and is left as it is")
    for option, told in (
        (("--then", "quit"), "--then quit: a service ends no VM; save without --via"),
        (("--engine", "cpu"), "--engine is the service's to choose; drop it or --via"),
        (("--channels", "2"), "--channels is the service's to choose; drop it or --via"),
    ):
        assert_fails(command(*via, *option, where[0], folder / "two"), 2, told)
    assert_fails(command(*via, folder / "one/mem0.ram", folder / "two"), 2, "is a file")
    assert_fails(command(*via, f"pid:{running.pid}", folder / "two"), 2, "by its process id")
    assert [each.name for each in folder.iterdir()] == ["one"]


def test_a_full_disk(attached: Attached, running: BareQemu, tmp_path: Path) -> None:
    """It is the service that finds it, whose workers write."""
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(mounted(tmp_path, "ext4", "16M", "-m", "0"))
        file, fill = (stack.enter_context((at / name).open("w+b")) for name in ("ram", "fill"))
        os.ftruncate(file.fileno(), SIZE)
        free = os.statvfs(at)
        os.posix_fallocate(fill.fileno(), 0, free.f_bavail * free.f_frsize - (1 << 20))
        # With a rate nothing is copied before the pause.
        asked = {"blocks": [attached.block], "max_rate": 1 << 40}
        error = attached.client.error("save", asked, [file.fileno()])
    assert error["class"] == "OutputError"
    assert "No space left" in error["desc"]
    # Before the stop, where memory has room for a copy ahead of it.
    assert running.own_events() in ([], ["STOP", "RESUME"])
    assert running.status() == "running"


def test_no_file_that_another_s_qemu_names_is_touched(
    service: ServiceProcess, folder: Path
) -> None:
    """It may be anybody's, or on a file system that never answers."""
    disk = folder / "disk"
    disk.write_bytes(bytes(1 << 20))
    disk.chmod(0o666)
    empty = folder / "disk.pagecheck-0badcaf0.qcow2"  # as a killed save leaves one
    empty.write_bytes(b"")
    os.chown(empty, OWNER, OWNER)
    args = ("-drive", f"file={os.path.relpath(disk)},format=raw,if=virtio")
    backend = memfd_backend("64M", more=",share=on")
    with bare_qemu(*backend, "-machine", "memory-backend=mem0", *args, uid=OWNER) as vm:
        told = saved(service, vm.socket, folder / "one", OWNER, disks="overlay")
        assert told.startswith("AccessError: ")
        assert "only for root and its own user" in told
        assert saved(service, vm.socket, folder / "two", OWNER, disks="none") == ""
        assert empty.exists()
        assert saved(service, vm.socket, folder / "three", disks="overlay") == ""
        assert not empty.exists()
        assert vm.status() == "running"
    known = [pagecheck.info(folder / name).disks[0] for name in ("two", "three")]
    name = os.path.relpath(disk)
    assert [each.path for each in known] == [name, f"{Path.cwd()}/{name}"]
    assert [each.other["written_ns"] is None for each in known] == [True, False]
