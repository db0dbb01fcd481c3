"""The example VMM in C: built by every compiler, run on both engines, killed at any moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.example import BUILDS, ROOT, build
from tests.support.processes import living
from tests.support.waiting import wait_for

ENGINES = {"cpu": ["--engine", "cpu"], "dsa": ["--engine", "dsa", "--wq", "model:"]}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("gcc", tmp_path_factory.mktemp("example"))


def run(program: Path, socket: str, *more: object) -> dict[str, float]:
    ran = subprocess.run(
        [program, "--socket", socket, *map(str, more)], capture_output=True, timeout=60, text=True
    )
    assert ran.returncode == 0, (ran.stdout, ran.stderr)
    counted = json.loads(ran.stdout)
    assert counted["wrong"] == 0
    assert counted["fallback"] == 0
    assert counted["undecided"] == 0
    assert counted["zero"] + counted["normal"] == counted["pages"]
    assert min(counted["zero"], counted["normal"]) > 1000
    return counted


@pytest.mark.long(but="gcc")
@pytest.mark.parametrize("kind", BUILDS)
def test_every_compiler(start_service, tmp_path: Path, kind: str) -> None:
    program = build(kind, tmp_path)
    service = start_service("--engine", "cpu")
    run(program, service.path, "--size", "64M", "--packets", 256, "--channels", 2)


@pytest.mark.long(but="dsa-2")
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("engine", ENGINES)
def test_channels_on_both_engines(start_service, program: Path, engine: str, channels: int) -> None:
    service = start_service(*ENGINES[engine])
    for outstanding in (1, 8):
        counted = run(
            *(program, service.path, "--size", "64M", "--packets", 256),
            *("--channels", channels, "--outstanding", outstanding),
        )
        assert counted["pages"] == 256 * 128


@pytest.mark.parametrize("engine", ENGINES)
def test_spinning_on_both_sides(start_service, program: Path, engine: str) -> None:
    service = start_service(*ENGINES[engine])
    run(program, service.path, "--size", "64M", "--packets", 256, "--spin-us", 50)


def test_killed_at_any_moment(start_service, program: Path) -> None:
    """The service goes on, and the workers of the dead go with them."""
    service = start_service("--engine", "cpu")
    idle = {child.pid for child in psutil.Process(service.pid).children()}
    rng = random.Random(7)
    for _ in range(12):
        victim = subprocess.Popen(
            [program, "--socket", service.path, "--size", "16M", "--channels", "3", "--loop"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            victim.wait(rng.random() * 0.4)
        victim.kill()
        victim.wait(10)
    run(program, service.path, "--size", "16M", "--packets", 32)
    wait_for(
        lambda: {child.pid for child in psutil.Process(service.pid).children()} == idle,
        "the workers of dead clients are gone",
        20,
    )


@pytest.mark.parametrize("death", ["killed", "ended"])
def test_it_goes_on_by_itself_without_the_service(start_service, program: Path, death: str) -> None:
    service = start_service("--engine", "cpu")
    vmm = subprocess.Popen(
        [
            *(program, "--socket", service.path, "--size", "64M", "--channels", "2"),
            *("--packets", "400", "--hold", "--may-fall-back"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert vmm.stdout is not None
    assert "ready" in vmm.stdout.readline()
    workers = psutil.Process(service.pid).children()
    if death == "killed":
        service.kill()
        # They would go on answering, rightly, until they notice.
        wait_for(lambda: not living(workers), "the workers are gone")
    else:
        assert service.stop() == 0
    out, _ = vmm.communicate("go\n", timeout=60)
    counted = json.loads(out)
    assert vmm.returncode == 0
    assert counted["wrong"] == 0
    assert counted["fallback"] > 0
    assert counted["zero"] + counted["normal"] == counted["pages"] == 400 * 128


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--socket", "/nonexistent/socket"], 3),
        ([], 2),
        (["--socket", "x", "--channels", "0"], 2),
        (["--socket", "x", "--nonsense"], 2),
    ],
)
def test_what_makes_no_sense(program: Path, arguments: list[str], code: int) -> None:
    ran = subprocess.run([program, *arguments], capture_output=True, timeout=20, text=True)
    assert ran.returncode == code
    assert ran.stderr.strip()


def test_the_header_is_found(tmp_path: Path) -> None:
    """By `pagecheck --includes`, and by pkg-config where that is installed."""
    flag = subprocess.run(
        [sys.executable, "-m", "pagecheck", "--includes"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
    assert Path(flag.removeprefix("-I"), "pagecheck.h").is_file()
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    where = {"PKG_CONFIG_PATH": str(ROOT / "pagecheck/share/pkgconfig"), "PATH": os.environ["PATH"]}
    asked = ["pkg-config", "--cflags", "--modversion", "pagecheck"]
    said = subprocess.run(asked, env=where, capture_output=True, check=True, text=True).stdout
    from pagecheck import __version__

    assert __version__ in said
    cflags = subprocess.run(
        asked[:2] + asked[3:], env=where, capture_output=True, check=True, text=True
    ).stdout.split()
    source = tmp_path / "empty.c"
    source.write_text("#include <pagecheck.h>\nint main(void) { return 0; }\n")
    subprocess.run(["gcc", "-D_GNU_SOURCE", *cflags, source, "-o", tmp_path / "empty"], check=True)
