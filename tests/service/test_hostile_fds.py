"""Wrong, changing and too many descriptors: refused, closed, and nobody else notices."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest

from tests.support.hostile import Witness, as_before, await_goodbye, connected, fds, greeted
from tests.support.known_ram import KnownRam
from tests.support.processes import living
from tests.support.rams import PAGE
from tests.support.raw_client import mapped
from tests.support.stalling_fs import stalling_fs
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

PAGES = 256


@pytest.fixture
def wrong_fds(tmp_path):
    """By name: what is no guest RAM."""
    with contextlib.ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        pipe, pipe_in = os.pipe()
        keep(pipe_in)
        ours, theirs = (stack.enter_context(each) for each in socket.socketpair())
        memfd = keep(os.memfd_create("good"))
        os.ftruncate(memfd, PAGES * PAGE)
        disk = tmp_path / "disk.ram"
        disk.write_bytes(bytes(PAGE))
        epoll = stack.enter_context(select.epoll())
        on_disk = keep(os.open(disk, os.O_RDONLY))
        yield {
            "directory": keep(os.open("/", os.O_RDONLY)),
            "directory on tmpfs": keep(os.open("/dev/shm", os.O_RDONLY)),
            "pipe": keep(pipe),
            "socket": ours.fileno(),
            "its pair": theirs.fileno(),
            "/dev/zero": keep(os.open("/dev/zero", os.O_RDWR)),
            "/dev/null": keep(os.open("/dev/null", os.O_RDWR)),
            "eventfd": keep(os.eventfd(0)),
            "epoll": epoll.fileno(),
            "pidfd": keep(os.pidfd_open(os.getpid())),
            "O_PATH": keep(os.open(f"/proc/self/fd/{memfd}", os.O_PATH)),
            "write-only": keep(os.open(f"/proc/self/fd/{memfd}", os.O_WRONLY)),
            "empty": keep(os.memfd_create("empty")),
            "/proc": keep(os.open("/proc/self/mem", os.O_RDONLY)),
            "disk": on_disk,
        }


def test_wrong_descriptors_are_refused_and_closed(service, wrong_fds):
    with as_before(service), Witness(service.path), greeted(service.path) as client:
        ram = KnownRam(PAGES)
        number = client.result("attach", {}, [ram.fd])["block"]
        open_now = fds(service.pid)
        for name, fd in wrong_fds.items():
            attach = client.error("attach", {}, [fd])
            assert attach["class"] == "SourceError", (name, attach)
            check = client.error("check", {"block": number, "bitmap": True}, [fd])
            assert check["class"] in ("SourceError", "UsageError"), (name, check)
        # The witness opens one or two for the answer that it is being given.
        wait_for(lambda: fds(service.pid) <= open_now, "the descriptors closed")
        assert client.result("check", {"block": number})["blocks"][0]["counts"]["undecided"] == 0
        ram.close()


def test_sizes_that_fit_no_page_and_sizes_that_fit_no_service(service):
    with as_before(service), greeted(service.path) as client:
        odd, huge = os.memfd_create("odd"), os.memfd_create("huge")
        os.ftruncate(odd, 3 * PAGE + 17)
        os.ftruncate(huge, 1 << 60)
        try:
            assert client.error("attach", {}, [odd])["class"] in ("UsageError", "SourceError")
            refused = client.error("attach", {"name": "huge"}, [huge])
            assert refused["class"] == "LimitError"
            assert str(1 << 60) in refused["desc"]
            for arguments in ({"offset": 1 << 59, "size": PAGE}, {"offset": PAGE}, {"size": PAGE}):
                client.execute("attach", {"name": f"n{len(arguments)}", **arguments}, [huge])
            for offset, size in ((1 << 62, 1 << 62), (PAGE, 1 << 62), (1, PAGE), (0, PAGE + 1)):
                arguments = {"offset": offset, "size": size}
                refused = client.error("attach", arguments, [huge])
                assert refused["class"] in ("UsageError", "LimitError"), (arguments, refused)
            assert os.fstat(huge).st_blocks == 0
        finally:
            os.close(odd)
            os.close(huge)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_memfd_that_is_cut_grown_and_punched_while_it_is_checked(service, sealed):
    import fcntl

    fd = os.memfd_create("restless", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGES * PAGE)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    ended = threading.Event()

    def restless() -> None:
        rng = np.random.default_rng(3)
        content = b"\7" * PAGE
        while not ended.is_set():
            page = int(rng.integers(PAGES))
            os.pwrite(fd, content, page * PAGE)
            os.truncate(fd, PAGES * PAGE * 2)
            if not sealed:
                os.truncate(fd, page * PAGE)
                os.truncate(fd, PAGES * PAGE)
            os.pwrite(fd, content, (PAGES - 1 - page) * PAGE)

    with as_before(service), Witness(service.path, channel=True), greeted(service.path) as client:
        size = {"size": PAGES * PAGE}
        number = client.result("attach", size, [fd])["block"]
        thread = threading.Thread(target=restless)
        thread.start()
        try:
            for kind in ("full", "diff") * 25:
                message, fds = client.execute("check", {"block": number, "kind": kind})
                for each in fds:
                    os.close(each)
                known = ("UsageError", "SourceError")
                assert "return" in message or message["error"]["class"] in known, message
        finally:
            ended.set()
            thread.join()
    os.close(fd)


def test_too_many_descriptors_and_descriptors_that_nobody_asked_for(service):
    null = os.open("/dev/null", os.O_RDONLY)
    with as_before(service), Witness(service.path):
        with greeted(service.path) as client:
            for command in ("query-stats", "query-blocks", "detach", "check", "close-channel"):
                arguments = {"detach": {"block": 0}, "close-channel": {"channel": 0}}
                assert client.error(command, arguments.get(command), [null] * 8)
            client.send(b"no JSON\n", [null] * 8)
            assert client.receive()[0]["error"]["class"] == "PeerError"
            client.send(b"\n", [null])
            assert client.receive()[0]["error"]["class"] == "PeerError"
            assert client.error("attach", {}, [null, null])["class"] == "UsageError"
        with greeted(service.path) as client:
            client.send({"execute": "attach"}, [null] * 9)
            (said,) = await_goodbye(client)
            assert said["error"]["class"] == "LimitError"
        with greeted(service.path) as client:  # in the middle of a line
            client.send(b'{"execute": "query', [null] * 4)
            client.send(b'-blocks"', [null] * 4)
            client.send(b"}\n")
            assert "8 descriptors" in client.receive()[0]["error"]["desc"]
            client.send(b'{"execute": "query', [null] * 5)
            client.send(b'-blocks"', [null] * 5)
            (said,) = await_goodbye(client)
            assert said["error"]["class"] == "LimitError"
    os.close(null)


def test_descriptors_with_half_lines_go_with_their_client(service):
    null = os.open("/dev/null", os.O_RDONLY)
    with as_before(service):
        clients = [connected(service.path) for _ in range(20)]
        before = fds(service.pid)
        for client in clients:
            client.send(b'{"execute"', [null] * 8)
        wait_for(lambda: fds(service.pid) >= before + 8 * len(clients), "they arrived")
        for client in clients:
            client.close()
    os.close(null)


def test_half_a_line_that_holds_its_own_socket_does_not_keep_a_dead_client_alive(service):
    """The service itself would hold the last descriptor of the other end, and never read its end
    of file."""
    with as_before(service):
        for _ in range(3):
            client = connected(service.path)
            client.send(b'{"execute"', [client.socket.fileno()])
            client.close()


def test_looking_through_a_writable_descriptor_changes_nothing(service):
    with as_before(service), greeted(service.path) as client:
        ram = KnownRam(PAGES)
        content = os.pread(ram.fd, ram.size, 0)
        before = os.fstat(ram.fd)
        number = client.result("attach", {}, [ram.fd])["block"]
        channel, (ring,) = client.execute("open-channel")
        assert "return" in channel
        os.close(ring)
        for kind in ("full", "diff", "full"):
            message, (fd,) = client.execute("check", {"block": number, "kind": kind})
            found = mapped(fd, message["return"]["blocks"][0]["bitmaps"], PAGES)
            assert (found["normal"] == ~ram.zero).all()
        after = os.fstat(ram.fd)
        assert os.pread(ram.fd, ram.size, 0) == content
        for what in ("st_size", "st_blocks", "st_mtime_ns", "st_ctime_ns"):
            assert getattr(after, what) == getattr(before, what), what
        assert after.st_atime_ns == before.st_atime_ns
        ram.close()


def test_a_fuse_file_is_refused_without_being_asked_anything(service):
    with stalling_fs() as fs, as_before(service), Witness(service.path):
        fd = fs.open()
        fs.stall("GETATTR")
        with greeted(service.path) as client:
            ram = KnownRam(PAGES)
            client.socket.settimeout(5)
            number = client.result("attach", {}, [ram.fd])["block"]
            for _ in range(3):
                assert client.error("attach", {}, [fd])["class"] == "SourceError"
                bitmap = {"block": number, "bitmap": True}
                assert client.error("check", bitmap, [fd])["class"] == "SourceError"
            ram.close()
        os.close(fd)


def test_a_path_that_would_stall_is_not_looked_at(service):
    """Of root, or the service's own user: the service's threads are everybody's."""
    with stalling_fs() as fs, as_before(service), Witness(service.path):
        fs.stall("LOOKUP", "GETATTR", "OPEN")
        with greeted(service.path) as client:
            client.socket.settimeout(5)
            for _ in range(3):
                error = client.error("attach", {"source": fs.path})
                assert error["class"] == "SourceError"
                assert "does not open it" in error["desc"]


def test_a_process_that_maps_what_would_stall_is_not_looked_at(service):
    program = (
        "import mmap, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)\n"
        "os.close(fd); print('ready', flush=True); sys.stdin.read()"
    )
    with stalling_fs() as fs, as_before(service), Witness(service.path):
        command = [sys.executable, "-c", program, fs.path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as vmm:
            assert vmm.stdout.readline() == b"ready\n"
            fs.stall("LOOKUP", "GETATTR", "OPEN")
            with greeted(service.path) as client:
                client.socket.settimeout(5)
                error = client.error("attach", {"source": f"pid:{vmm.pid}:ram"})
                assert "does not open it" in error["desc"]
            fs.end()


def test_a_close_that_never_returns_holds_up_its_own_client_only(service):
    """close(2) waits for FUSE's FLUSH, and not even SIGKILL ends that wait. What ends all the same
    on SIGTERM: the socket, the workers, every other client. The process itself stays a zombie with
    one thread until the file system answers or dies."""
    with stalling_fs() as fs:
        fd = fs.open()
        fs.stall("FLUSH")
        with greeted(service.path) as client, Witness(service.path) as witness:
            client.send({"execute": "attach"}, [fd])
            fs.await_word("FLUSH")
            witness.await_rounds(10)
            assert witness.longest < 5
        children = service.children()
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not os.path.lexists(service.path), "the socket gone", 3)
        wait_for(lambda: not living(children), "the workers gone", 10)
        wait_for(lambda: _is_zombie(service.pid), "its own threads gone", 3)
        with contextlib.suppress(ProcessLookupError):
            assert service.names() == []
        fs.end()
        assert service.process.wait(5) == 0
        with contextlib.suppress(OSError):  # the file system is dead
            os.close(fd)


def _is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
