"""Bad input: one line on stderr, the right exit code, and with --json one object on stdout."""

import json
import os
import resource
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.command import PAGECHECK, assert_fails, environment, pagecheck
from tests.support.rams import PAGE, sparse_file
from tests.support.snapshots import make_snapshot, some_ram


def assert_error(code: int, *arguments: object, word: str = "", **options: object) -> None:
    """One line on stderr, and one error object with the same message on stdout."""
    done = pagecheck("scan", "--json", *arguments, **options)
    line = assert_fails(done, code, word)
    assert done.stdout.count("\n") == 1
    body = json.loads(done.stdout)
    assert list(body) == ["version", "error"]
    assert body["version"] == 1
    assert set(body["error"]) == {"class", "message"}
    assert line == f"pagecheck: {body['error']['message']}\n"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("missing", "No such file"),
        ("folder", "directory"),
        ("fifo", "pipe"),
        ("socket", "socket"),
        ("/dev/zero", "character device"),
        ("empty", "empty"),
        ("odd", "not a multiple of the page size"),
        ("loop", "symbolic links"),
        ("", "No such file"),
        ("x" * 300, "too long"),
        ("y/" * 3000, "too long"),
        ("empty/below", "Not a directory"),
        ("fd:99", "no such open descriptor"),
        ("fd:-1", "fd:N"),
        ("fd:", "fd:N"),
        ("fd:x", "fd:N"),
        ("fd:99999999999999999999", "fd:"),
        ("fd:4294967299", "fd:"),
        ("shm:/pc-no-such-name", "no shared-memory object"),
        ("shm:name", "shm:/name"),
        ("shm:/", "shm:/name"),
        ("shm:/a/b", "shm:/name"),
        ("shm:/..", "shm:"),
        ("shm:/" + "z" * 400, "shm:"),
    ],
    ids=lambda value: value[:30],
)
def test_bad_source(folder: Path, tmp_path: Path, source: str, word: str):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    (tmp_path / "odd").write_bytes(b"x" * 5000)
    (tmp_path / "loop").symlink_to("loop")
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(tmp_path)
    listener.bind("socket")
    try:
        assert_error(2, source, word=word, cwd=tmp_path)
    finally:
        listener.close()


@pytest.mark.long(but="--page-size")
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--page-size", "5000"], 2),
        (["--page-size", "0"], 2),
        (["--page-size", "2K"], 2),
        (["--page-size", "-4096"], 2),
        (["--page-size", "4K4"], 2),
        (["--page-size", "K"], 2),
        (["--page-size", "١٢"], 2),
        (["--page-size", "1G"], 2),
        (["--page-size", "1180591620717411303424"], 2),
        (["--channels", "0"], 2),
        (["--channels", "-1"], 2),
        (["--channels", "257"], 2),
        (["--channels", "99999999999999999999"], 2),
        (["--channels", "two"], 2),
        (["--batch-pages", "0"], 2),
        (["--batch-pages", "32769"], 2),
        (["--offset", "1"], 2),
        (["--offset", "1T"], 2),
        (["--offset", "280K"], 2),
        (["--length", "0"], 2),
        (["--length", "4097"], 2),
        (["--length", "284K"], 2),
        (["--offset", "276K", "--length", "8K"], 2),
        (["--length", "99999999999999999999999K"], 2),
        (["--kind", "both"], 2),
        (["--kind", "diff", "--engine", "none"], 2),
        (["--kind", "diff", "--holes", "read"], 2),
        (["--holes", "maybe"], 2),
        (["--engine", "gpu"], 2),
        (["--engine", "dsa"], 3),
        (["--engine", "dsa", "--wq", "/dev/dsa/wq99.0"], 3),
        (["--wq", "wq0.0"], 2),
        (["--wq", ""], 2),
        (["--wq", "model:size=0"], 2),
        (["--wq", "model:size=64,threshold=65"], 2),
        (["--wq", "model:mode=fast"], 2),
        (["--wq", "model:colour=red"], 2),
        (["--wq", "model:seed=-1"], 2),
        (["--engine", "dsa", "--wq", "model:faults=gremlins"], 2),
        (["--engine", "dsa", "--wq", "model:transfer=2K"], 2),
        (["--engine", "cpu", "--wq", "model:"], 2),
        (["--engine", "none", "--wq", "model:"], 2),
        (["--fallback"], 2),
        (["--kernel", "sse9"], 2),
        (["--kernel", ""], 2),
        (["--kernel", "neon"], 2),
        (["--nice", "20"], 2),
        (["--nice", "-21"], 2),
        (["--max-rate", "0"], 2),
        (["--max-rate", "-5"], 2),
        (["--deadline", "0"], 2),
        (["--deadline", "-1"], 2),
        (["--deadline", "nan"], 2),
        (["--deadline", "soon"], 2),
        (["--stall", "0"], 2),
        (["--stall", "nan"], 2),
        (["--stall", "-inf"], 2),
        (["--ranges", "--json"], 2),
        (["--no-such-option"], 2),
        (["second-source"], 2),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else str(value),
)
def test_bad_option(ram: Path, options: list[str], code: int):
    assert_error(code, *options, ram)


def test_kernel_that_this_cpu_lacks(ram: Path):
    kernels = json.loads(pagecheck("kernels", "--json").stdout)["kernels"]
    lacking = [kernel["name"] for kernel in kernels if not kernel["usable"]]
    if not lacking:
        pytest.skip("this CPU has every kernel of its architecture")
    assert_error(3, "--kernel", lacking[0], ram, word=lacking[0])


def test_without_json_stdout_is_empty():
    done = pagecheck("scan", "/nowhere")
    assert_fails(done, 2, "/nowhere", "No such file")
    assert done.stdout == ""


def test_no_command_and_unknown_command():
    assert_fails(pagecheck("scna"), 2, "scna")
    assert_fails(pagecheck("scan"), 2, "SOURCE")
    done = pagecheck("--json")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_huge_sparse_file(folder: Path):
    """Its bitmaps do not fit into /dev/shm: said at once, without filling it."""
    path = folder / "huge"
    with open(path, "wb") as file:
        file.truncate(1 << 62)
    assert_error(4, path, word="/dev/shm")


@pytest.mark.parametrize("descriptors", [12, 20, 60])
def test_more_channels_than_can_start(ram: Path, descriptors: int):
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    assert_error(4, "--channels", "100", ram, word="channels", preexec_fn=few)


@pytest.fixture
def unshare() -> list[str]:
    """A command that gives its command a mount namespace of its own."""
    for flags in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        command = ["unshare", *flags]
        if shutil.which("unshare"):
            probe = "mount -t tmpfs none /dev/shm"
            if subprocess.run([*command, "sh", "-c", probe], capture_output=True).returncode == 0:
                return command
    pytest.skip("no mount namespaces here: unshare --mount is not permitted")


@pytest.mark.parametrize("options", ["size=4k", "size=64k", "size=200k", "nr_inodes=3", "ro"])
def test_full_shm(unshare: list[str], tmp_path: Path, options: str):
    path = sparse_file(tmp_path / "ram", 64, {1: b"x"})
    script = (
        f"mount -t tmpfs -o {options} none /dev/shm && {PAGECHECK} scan --json --channels 8 {path};"
        " code=$?; ls -A /dev/shm; exit $code"
    )
    done = subprocess.run(
        [*unshare, "sh", "-c", script], capture_output=True, text=True, env=environment()
    )
    assert_fails(done, 4, "/dev/shm")
    assert done.stdout.count("\n") == 1  # the error object; no name was left behind
    assert json.loads(done.stdout)["error"]["class"] == "ResourceError"


@pytest.mark.parametrize("size", ["4k", "100k"])
@pytest.mark.parametrize("what", ["save", "restore", "selftest"])
def test_full_shm_of_a_snapshot(unshare: list[str], tmp_path: Path, what: str, size: str):
    content = some_ram(600)
    saved, ram, out = tmp_path / "saved", tmp_path / "ram", tmp_path / "out"
    make_snapshot(saved, {"pc.ram": content})
    ram.write_bytes(content)
    arguments = {
        "save": f"save --channels 2 {ram} {out}",
        "restore": f"restore --channels 2 --onto --ram {ram} {saved}",
        "selftest": "selftest --minutes 0.01",
    }[what]
    script = (
        f"mount -t tmpfs -o size={size} none /dev/shm && {PAGECHECK} {arguments};"
        " code=$?; ls -A /dev/shm; exit $code"
    )
    done = subprocess.run(
        [*unshare, "sh", "-c", script], capture_output=True, text=True, env=environment()
    )
    assert_fails(done, 4, "/dev/shm")
    assert done.stdout == ""  # no name was left behind
    assert not out.exists()
    assert ram.read_bytes() == content


def test_unreadable_as_another_user(unshare: list[str], tmp_path: Path):
    path = sparse_file(tmp_path / "ram", 4, {})
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything (root)")
    assert_error(2, path, word="Permission denied")


def test_page_size_hint_of_an_odd_file(folder: Path):
    path = sparse_file(folder / "ram", 5, {})
    assert_error(2, "--page-size", "8K", path, word="--page-size")
    assert path.stat().st_size == PAGE * 5
