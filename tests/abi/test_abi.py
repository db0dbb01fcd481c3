"""Headers of releases beside the service of now, and headers of now beside released services."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pagecheck.include import folder, library
from tests.support.known_ram import KnownRam
from tests.support.service import ServiceProcess, StartService

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RELEASES = {"0.1.0": "1d60a602eb48755eecb48dcec4c3e31848b9c8bc"}
HEADERS = ("pagecheck.h", "libpagecheck.h")
ENGINES = {"cpu": ["--engine", "cpu"], "dsa": ["--engine", "dsa", "--wq", "model:"]}
PAGES = 2048
WAYS = ["range", "offsets", "again"]

# Old headers are compiled without warnings of compilers that they never met.
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-O2")
STRICT = ("-Wall", "-Wextra", "-Werror")


def git(*arguments: str) -> bytes | None:
    """What git says; None where it has not what was asked for, or is not there."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def released(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the release, built."""
    archive = git("archive", "--format=tar", RELEASES[release])
    if archive is None:
        pytest.skip(f"commit {RELEASES[release]} is not here: a shallow clone, or no repository")
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("no setuptools, to build a release")
    made = tmp_path_factory.mktemp(release)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(made, filter="data")
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=made, check=True, capture_output=True, timeout=120)
    return made


def compiled(headers: Path | str, out: Path, *flags: str) -> Path:
    """exercise.c with the headers of that folder."""
    source = HERE / "exercise.c"
    subprocess.run(["gcc", *FLAGS, f"-I{headers}", source, "-o", out, *flags], check=True)
    return out


def exercise(program: Path, service: ServiceProcess, **environment: str) -> None:
    """Runs it, and compares every bit of what it was answered."""
    ram = KnownRam(PAGES, seed=7)
    try:
        ran = subprocess.run(
            [program, service.path, str(ram.fd), str(ram.pages)],
            pass_fds=[ram.fd],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environment},
        )
        assert ran.returncode == 0, (ran.stdout, ran.stderr)
        assert [line.split()[0] for line in ran.stdout.splitlines()] == WAYS
        for line in ran.stdout.splitlines():
            pairs = np.array([[int(w, 16) for w in p.split(",")] for p in line.split()[1:]], "<u8")
            zero, decided = np.unpackbits(pairs.T.copy().view(np.uint8), axis=1, bitorder="little")
            assert decided.all()
            np.testing.assert_array_equal(zero.astype(bool), ram.zero)
    finally:
        ram.close()


@pytest.mark.parametrize("name", HEADERS)
def test_the_copies_are_those_of_their_commit(release: str, name: str) -> None:
    text = git("show", f"{RELEASES[release]}:pagecheck/include/{name}")
    if text is None:
        pytest.skip(f"commit {RELEASES[release]} is not here: a shallow clone, or no repository")
    assert (HERE / release / name).read_bytes() == text


@pytest.mark.parametrize("engine", ENGINES)
def test_a_header_of_now(start_service: StartService, tmp_path: Path, engine: str) -> None:
    """What the others are compared with: the program itself is right."""
    program = compiled(folder(), tmp_path / "exercise", *STRICT)
    exercise(program, start_service(*ENGINES[engine]))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_released_header(
    start_service: StartService, tmp_path: Path, release: str, engine: str
) -> None:
    program = compiled(HERE / release, tmp_path / "exercise")
    exercise(program, start_service(*ENGINES[engine]))


def test_the_library_with_a_released_header(
    start_service: StartService, tmp_path: Path, release: str
) -> None:
    """A program that was compiled then finds libpagecheck.so.1 of now at its start."""
    where = Path(library())
    flags = ("-DUSE_LIBRARY", f"-L{where.parent}", f"-l:{where.name}")
    program = compiled(HERE / release, tmp_path / "exercise", *flags)
    exercise(program, start_service("--engine", "cpu"), LD_LIBRARY_PATH=str(where.parent))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_released_service(
    start_service: StartService, tmp_path: Path, short_folder: Path, released: Path, engine: str
) -> None:
    program = compiled(folder(), tmp_path / "exercise", *STRICT)
    path = str(short_folder / "released")
    service = start_service(
        *ENGINES[engine],
        command=[sys.executable, "-m", "pagecheck", "serve", "--socket", path],
        path=path,
        cwd=released,
        env={**os.environ, "PYTHONPATH": str(released)},
    )
    assert f"{released}/pagecheck/native" in Path(f"/proc/{service.pid}/maps").read_text()
    exercise(program, service)
