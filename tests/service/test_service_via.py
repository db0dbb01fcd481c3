"""`pagecheck scan --via` says what `pagecheck scan` says, and `pagecheck status` shows what is."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

from pagecheck import Client
from tests.support.command import PAGECHECK, assert_fails, pagecheck
from tests.support.known_ram import KnownRam
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess

DENSE = ("zeros", "first", "middle", "last", "random")
# Of the report: how it went, not what was found.
HOW = {"seconds", "startup_seconds", "channels", "workers", "statistics", "bytes_checked"}


def report_of(*arguments: Any) -> dict[str, Any]:
    done = pagecheck("scan", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    return {key: value for key, value in report.items() if key not in HOW}


def both(service: ServiceProcess, tmp_path: Path, *arguments: Any) -> dict[str, Any]:
    """Scans twice, here and there; the bitmaps must be the same bytes.

    Returns:
        The report of the service.
    """
    found = []
    for name, via in (("here", ()), ("there", ("--via", service.path))):
        out = tmp_path / name
        report = report_of("--out", out, *via, *arguments)
        bitmaps = {
            path.name: path.read_bytes() for path in out.iterdir() if path.name != "report.json"
        }
        assert len(bitmaps) >= 2
        for block in report["blocks"]:
            block.pop("files")
        found.append((report, bitmaps))
    assert found[0] == found[1]
    return found[1][0]


def test_a_file_on_disk(service: ServiceProcess, tmp_path: Path) -> None:
    ram = KnownRam(2000, path=tmp_path / "disk.ram")
    ram.close()
    report = both(service, tmp_path, tmp_path / "disk.ram")
    assert report["total"]["zero"] == int(ram.zero.sum())
    assert report["answer"] == "at-rest"


@pytest.mark.long(but="4K")
@pytest.mark.parametrize("size", ["4K", "8K", "64K", "2M"])
def test_page_sizes_on_tmpfs(
    size: str, service: ServiceProcess, tmp_path: Path, shm_folder: Path
) -> None:
    ram = KnownRam(2048, path=shm_folder / "ram", kinds=("hole",) * 30 + DENSE)
    blocks = ram.st_blocks
    report = both(service, tmp_path, "--page-size", size, shm_folder / "ram")
    bytes_per_page = {"4K": 4096, "8K": 8192, "64K": 65536, "2M": 2 << 20}[size]
    zero = ram.zero.reshape(-1, bytes_per_page // 4096).all(axis=1)
    assert report["total"]["zero"] == int(zero.sum())
    assert ram.st_blocks == blocks
    ram.close()


def test_a_part_of_it(service: ServiceProcess, tmp_path: Path, shm_folder: Path) -> None:
    ram = KnownRam(512, path=shm_folder / "ram")
    part = ("--offset", "64K", "--length", "1M", "--holes", "read")
    report = both(service, tmp_path, *part, shm_folder / "ram")
    assert report["total"]["zero"] == int(ram.zero[16:272].sum())
    ram.close()


def test_shared_memory_by_name(service: ServiceProcess, tmp_path: Path) -> None:
    name = f"/pctest-via-{os.getpid()}"
    ram = KnownRam(300, path=f"/dev/shm{name}")
    try:
        report = both(service, tmp_path, f"shm:{name}")
        assert report["total"]["zero"] == int(ram.zero.sum())
    finally:
        posix_ipc.unlink_shared_memory(name)
        ram.close()


@pytest.mark.parametrize("where", ["disk", "tmpfs"])
def test_a_diff(where: str, service: ServiceProcess, tmp_path: Path, shm_folder: Path) -> None:
    path = (tmp_path if where == "disk" else shm_folder) / "diff"
    ram = KnownRam(1000, path=path, seed=5)
    ram.close()
    report = both(service, tmp_path, "--kind", "diff", path)
    assert report["total"]["unchanged"] == int(ram.hole.sum())
    assert report["total"]["zero"] == int((ram.zero & ~ram.hole).sum())


def test_a_descriptor(service: ServiceProcess, known_ram: KnownRam) -> None:
    options: dict[str, Any] = {"pass_fds": (known_ram.fd,)}
    outputs = [
        pagecheck("scan", "--ranges", *via, f"fd:{known_ram.fd}", **options)
        for via in ((), ("--via", service.path))
    ]
    assert outputs[0].returncode == outputs[1].returncode == 0
    assert outputs[0].stdout == outputs[1].stdout
    assert len(outputs[0].stdout.splitlines()) > 100


def test_nothing_is_left_attached(service: ServiceProcess, tmp_path: Path) -> None:
    ram = KnownRam(64, path=tmp_path / "ram")
    ram.close()
    report_of("--via", service.path, tmp_path / "ram")
    with RawClient(service.path) as client:
        client.receive()
        assert client.result("query-stats")["blocks"] == 0


def test_a_table_and_quiet(service: ServiceProcess, tmp_path: Path) -> None:
    ram = KnownRam(64, path=tmp_path / "ram")
    ram.close()
    done = pagecheck("scan", "--via", service.path, tmp_path / "ram")
    assert done.returncode == 0
    assert "64" in done.stdout
    quiet = pagecheck("scan", "--quiet", "--via", service.path, tmp_path / "ram")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_a_deadline_leaves_pages_undecided(service: ServiceProcess, tmp_path: Path) -> None:
    ram = KnownRam(1024, path=tmp_path / "ram", kinds=["random"])
    ram.close()
    slow = ("--max-rate", "1M", "--deadline", "0.3", "--json")
    done = pagecheck("scan", "--via", service.path, *slow, tmp_path / "ram")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert 0 < report["total"]["undecided"] < 1024
    assert "the deadline passed" in report["notes"][0]


@pytest.mark.long(but="arguments10")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "cpu", "{ram}"], ["--engine", "the service's to choose"]),
        (["--channels", "2", "{ram}"], ["--channels"]),
        (["--batch-pages", "2", "{ram}"], ["--batch-pages"]),
        (["/nowhere/ram"], ["/nowhere/ram", "No such file"]),
        (["{folder}"], ["is a directory"]),
        (["fd:900"], ["fd:900"]),
        (["shm:/no-such-name"], ["shm:/no-such-name"]),
        (["pid:999999999"], ["999999999"]),
        (["--pause", "{ram}"], ["pause"]),
        (["--gpa", "{ram}"], ["guest-physical"]),
        (["--page-size", "5000", "{ram}"], ["5000"]),
        (["--offset", "1", "{ram}"], ["offset 1"]),
        (["--length", "1", "{ram}"], ["length 1"]),
        (["--deadline", "0", "{ram}"], ["deadline"]),
        (["--max-rate", "0", "{ram}"], ["max"]),
        (["--ranges", "--json", "{ram}"], ["exclude each other"]),
    ],
)
def test_mistakes(
    arguments: list[str], words: list[str], service: ServiceProcess, tmp_path: Path
) -> None:
    ram = KnownRam(64, path=tmp_path / "ram")
    ram.close()
    given = [each.format(ram=tmp_path / "ram", folder=tmp_path) for each in arguments]
    assert_fails(pagecheck("scan", "--via", service.path, *given), 2, *words)


def test_no_service(short_folder: Path, tmp_path: Path) -> None:
    for command in (("scan", "/dev/null", "--via"), ("status", "--socket")):
        done = pagecheck(*command, short_folder / "none")
        assert_fails(done, 3, "no service there", "pagecheck serve --socket")


def test_status(service: ServiceProcess, known_ram: KnownRam) -> None:
    with RawClient(service.path) as client:
        client.receive()
        client.result("attach", {"name": "pc.ram"}, [known_ram.fd])
        client.result("check", {"block": 0})
        table = pagecheck("status", "--socket", service.path)
        assert table.returncode == 0
        assert f"process {service.pid}, up " in table.stdout
        assert "2 clients, 1 blocks, 0 direct channels" in table.stdout
        assert "pc.ram 16 MiB" in table.stdout
        assert f"{os.getpid()}" in table.stdout
        as_json = pagecheck("status", "--json", "--socket", service.path)
        found = json.loads(as_json.stdout)
        assert found["pid"] == service.pid
        assert found["numbers"]["checks"] == 1
        assert found["numbers"]["holes"] == int(known_ram.hole.sum())
        mine = next(each for each in found["sessions"] if each["pid"] == os.getpid())
        assert mine["uid"] == os.geteuid()
        assert mine["blocks"][0]["name"] == "pc.ram"
        assert mine["doing"] is None


def test_status_watches_until_the_service_ends(service: ServiceProcess) -> None:
    command = [PAGECHECK, "status", "--watch", "--json", "--interval", "0.1"]
    with subprocess.Popen(
        [*command, "--socket", service.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        looks = [json.loads(watching.stdout.readline()) for _ in range(2)]
        assert looks[1]["uptime_seconds"] > looks[0]["uptime_seconds"]
        assert service.stop() == 0
        _out, said = watching.communicate(timeout=20)
    assert watching.returncode == 3
    assert said.startswith("pagecheck: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("where", ["disk", "tmpfs"])
def test_what_is_no_raw_ram(
    where: str, service: ServiceProcess, tmp_path: Path, shm_folder: Path
) -> None:
    """The client looks at what it passes on, the service at what it opens; both say the same."""
    base = tmp_path if where == "disk" else shm_folder
    data = gzip.compress(os.urandom(50000))
    (base / "packed").write_bytes(data + bytes(-len(data) % 4096))
    (base / "doubtful").write_bytes(b"\x1f\x8b\x08" + bytes(8189))
    via = ("--via", service.path)
    done = pagecheck("scan", *via, base / "packed")
    assert_fails(done, 2, "gzip-compressed data, not raw guest RAM")
    taken = report_of("--format", "raw", *via, base / "packed")
    assert taken["total"]["normal"] > 0
    assert taken["notes"] == []
    (note,) = report_of(*via, base / "doubtful")["notes"]
    assert "begins like gzip-compressed data" in note
    assert report_of("--format", "raw", *via, base / "doubtful")["notes"] == []


def test_the_service_looks_at_what_it_opens(service: ServiceProcess, tmp_path: Path) -> None:
    (tmp_path / "core").write_bytes(gzip.compress(os.urandom(50000)))
    with RawClient(service.path) as client:
        client.receive()  # the greeting
        arguments = {"source": str(tmp_path / "core")}
        client.send({"execute": "attach", "arguments": arguments})
        answer, _fds = client.receive()
        assert answer["error"]["class"] == "SourceError"
        assert "not raw guest RAM" in answer["error"]["desc"]


def test_descriptors_are_taken_for_ram(service: ServiceProcess) -> None:
    """A VMM knows what it passes on, whatever its guest has put at the beginning."""
    fd = os.memfd_create("ram")
    try:
        data = gzip.compress(os.urandom(50000))
        os.write(fd, data + bytes(-len(data) % 4096))
        with Client(service.path) as client:
            assert client.check(client.attach(fd)).blocks[0].counts.normal > 0
    finally:
        os.close(fd)
