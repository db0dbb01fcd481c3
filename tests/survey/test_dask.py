"""Surveys on real Dask clusters: the same rows, whatever dies, and the cluster as it was before."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecheck._version import __version__
from pagecheck.errors import EngineError, PeerError, SourceError, UsageError
from pagecheck.shm.owner import sweep
from pagecheck.survey import scheduler
from pagecheck.survey.cluster import ClusterRunner
from pagecheck.survey.run import Summary, run_survey
from pagecheck.survey.values import Options
from tests.support.command import (
    assert_fails,
    environment,
    pagecheck,
    start,
    tagged_processes,
)
from tests.support.leftovers import no_command_left, ownerless
from tests.support.needs import unavailable
from tests.support.waiting import Background, wait_for
from tests.survey.dask_clusters import Cluster, cluster

try:
    import distributed
except ImportError:
    unavailable("no Dask: pip install 'pagecheck[survey]'")

MIB = 1 << 20
PAGE = 4096
KILLING = str(Path(__file__).with_name("killing.py"))
FILES = 12


def make(folder: Path, *names: str) -> None:
    """Files of 4 MiB, each of another mix of zeros, holes and data."""
    for number, name in enumerate(names):
        with (folder / name).open("wb") as file:
            file.truncate(4 * MIB)
            file.write(bytes(number * PAGE))
            file.seek(2 * MIB)
            file.write(b"x" * number * PAGE)


@pytest.fixture(scope="module")
def files() -> Iterator[Path]:
    """A folder of RAM files, one of them cut short."""
    with tempfile.TemporaryDirectory(prefix="pctest-", dir="/dev/shm") as name:
        make(Path(name), *(f"{number:02}.ram" for number in range(FILES)))
        (Path(name) / "cut").write_bytes(bytes(PAGE + 1))
        yield Path(name)


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory, marks: Path) -> Iterator[Cluster]:
    """A scheduler with workers, which the tests leave as they found it."""
    with cluster(tmp_path_factory.mktemp("dask"), PCTEST_MARKS=str(marks)) as made:
        made.add_worker("--preload", KILLING)
        made.add_worker("--preload", KILLING)
        yield made


def rows(output: str) -> dict[str, dict[str, Any]]:
    """JSON lines by the file's name, each file once, without times."""
    lines = [json.loads(line) for line in output.splitlines()]
    found = {Path(each.pop("path")).name: each for each in lines}
    assert len(found) == len(lines)
    for each in found.values():
        del each["seconds"]
    return found


@pytest.fixture(scope="module")
def expected(files: Path) -> dict[str, dict[str, Any]]:
    """What this machine finds without a cluster."""
    return rows(pagecheck("survey", "--json", files).stdout)


def surveyed(folder: Path, **how: Any) -> Summary:
    return run_survey([folder], ClusterRunner(Options(), **how))


def test_local_workers_find_the_same_and_leave_nothing(
    files: Path, expected: dict[str, Any]
) -> None:
    with no_command_left():
        done = pagecheck("survey", "--json", "--workers", 2, files)
    assert (done.returncode, done.stderr) == (1, "")
    assert rows(done.stdout) == expected
    assert "truncated" in expected["cut"]["error"]


def test_a_cluster_finds_the_same_and_stays_as_it_was(
    dask: Cluster, files: Path, expected: dict[str, Any]
) -> None:
    done = pagecheck("survey", "--json", "--cluster", dask.address, files)
    assert (done.returncode, done.stderr) == (1, "")
    assert rows(done.stdout) == expected
    assert_as_it_was(dask)


def assert_as_it_was(dask: Cluster) -> None:
    """No task is left on the scheduler, and nothing that pagecheck started in a worker."""
    with distributed.Client(dask.address, set_as_default=False) as client:
        wait_for(lambda: not tasks(client), "no task on the scheduler", 3)
    wait_for(lambda: not dask.children(), "no process in the workers", 3)


def tasks(client: distributed.Client) -> list[str]:
    """What the scheduler knows of; a lambda, since it cannot import this file."""
    return client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))


def test_ctrl_c_ends_what_was_submitted(dask: Cluster, tmp_path: Path, marks: Path) -> None:
    make(tmp_path, "a.ram", "endless-1", "endless-2", "endless-3")
    command = start("survey", "--json", "--cluster", dask.address, tmp_path)
    assert rows(command.stdout.readline())["a.ram"]["zero"] == 1024
    wait_for(lambda: len(list(marks.glob("endless*"))) >= 2, "both workers are at work")
    command.send_signal(signal.SIGINT)
    stdout, stderr = command.communicate(timeout=20)
    assert command.returncode == 130
    assert json.loads(stdout)["error"]["message"] == "interrupted"
    assert "Traceback" not in stderr
    assert_as_it_was(dask)


def test_a_client_that_is_killed_leaves_no_task(dask: Cluster, tmp_path: Path, marks: Path) -> None:
    make(tmp_path, "endless-4", "endless-5", "endless-6")
    command = start("survey", "--json", "--cluster", dask.address, tmp_path)
    wait_for(lambda: len(list(marks.glob("endless-[456]"))) == 2, "both workers are at work")
    command.kill()
    command.communicate(timeout=20)
    (marks / "stop").touch()
    with distributed.Client(dask.address, set_as_default=False) as client:
        wait_for(lambda: not tasks(client), "no task on the scheduler", 10)
    (marks / "stop").unlink()
    assert len(list(marks.glob("endless-[456]"))) == 2
    wait_for(lambda: not dask.children(), "no process in the workers", 10)


def test_a_worker_that_dies_costs_no_row(
    dask: Cluster, tmp_path: Path, expected: dict[str, Any]
) -> None:
    make(tmp_path, *(f"{number:02}.ram" for number in range(FILES)))
    (tmp_path / "03.ram").rename(tmp_path / "once-killer.ram")
    dask.add_worker("--preload", KILLING)
    done = pagecheck("survey", "--json", "--cluster", dask.address, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(done.stdout)
    assert found["once-killer.ram"]["zero"] == expected["03.ram"]["zero"]
    assert {name: each["zero"] for name, each in found.items() if name != "once-killer.ram"} == {
        name: each["zero"] for name, each in expected.items() if name not in ("cut", "03.ram")
    }
    assert sum(worker.poll() is not None for worker in dask.workers) == 1
    assert_as_it_was(dask)


@pytest.mark.long
def test_a_worker_that_cannot_check_leaves_it_to_others(dask: Cluster, tmp_path: Path) -> None:
    make(tmp_path, *(f"{number:02}.ram" for number in range(FILES)))
    worker = dask.add_worker("--preload", KILLING, PCTEST_REFUSES="1")
    with distributed.Client(dask.address, set_as_default=False) as client:
        client.wait_for_workers(sum(each.poll() is None for each in dask.workers))
    done = pagecheck("survey", "--json", "--cluster", dask.address, tmp_path)
    worker.kill()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(rows(done.stdout)) == FILES


def test_an_error_that_nobody_expects_is_one_of_its_file(dask: Cluster, tmp_path: Path) -> None:
    make(tmp_path, "a.ram", "broken.ram", "c.ram")
    done = pagecheck("survey", "--json", "--cluster", dask.address, tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    found = rows(done.stdout)
    assert found["broken.ram"]["error"] == "ZeroDivisionError: broken.ram"
    assert [found["a.ram"]["error"], found["c.ram"]["error"]] == [None, None]


@pytest.mark.long
def test_a_file_that_kills_workers_is_an_error(tmp_path: Path, marks: Path) -> None:
    make(tmp_path, *(f"{number:02}.ram" for number in range(FILES)))
    (tmp_path / "05.ram").rename(tmp_path / "killer.ram")
    environ = {"DASK_DISTRIBUTED__WORKER__PRELOAD": KILLING, "PCTEST_MARKS": str(marks)}
    done = pagecheck("survey", "--json", "--workers", 2, tmp_path, env={**environment(), **environ})
    wait_for(lambda: not tagged_processes(), "no process left", 3)
    wait_for(lambda: sweep() is not None and not ownerless(), f"names removed: {ownerless()}", 5)
    assert (done.returncode, done.stderr) == (1, "")
    found = rows(done.stdout)
    assert found.pop("killer.ram")["error"] == "each worker that checked it died, 3 times"
    assert len(found) == FILES - 1
    assert [name for name, each in found.items() if each["error"] is not None] == []


@pytest.mark.long
def test_ctrl_c_in_a_terminal_while_local_workers_start(files: Path) -> None:
    """All processes of the terminal get it."""
    with no_command_left():
        command = start("survey", "--workers", 2, files, start_new_session=True)
        wait_for(lambda: len(tagged_processes()) > 2, "a process of the cluster")
        os.killpg(command.pid, signal.SIGINT)
        stdout, stderr = command.communicate(timeout=20)
    assert (command.returncode, stdout) == (130, "")
    assert stderr == "pagecheck: interrupted\n"


def test_without_dask_one_line_says_so(tmp_path: Path, files: Path) -> None:
    (tmp_path / "distributed.py").write_text("raise ImportError(\"No module named 'distributed'\")")
    done = pagecheck(
        "survey", "--workers", 2, files, env={**environment(), "PYTHONPATH": str(tmp_path)}
    )
    assert_fails(done, 3, "pip install 'pagecheck[survey]'")


@pytest.mark.long
def test_a_scheduler_with_tls(tmp_path: Path, files: Path, expected: dict[str, Any]) -> None:
    """By Dask's own configuration, as its users have it."""
    security = distributed.Security.temporary()
    for name in ("ca_file", "client_cert", "client_key"):
        (tmp_path / name).write_text(getattr(security, f"tls_{name}"))
    tls = {"ca-file": "ca_file"}
    for role in ("client", "scheduler", "worker"):
        tls |= {f"{role}__cert": "client_cert", f"{role}__key": "client_key"}
    prefix = "DASK_DISTRIBUTED__COMM__TLS__"
    config = {
        prefix + key.upper().replace("-", "_"): str(tmp_path / name) for key, name in tls.items()
    }
    with cluster(tmp_path, "--protocol", "tls", **config) as made:
        made.add_worker()
        assert made.address.startswith("tls://")
        command = ("survey", "--json", "--cluster", made.address, files)
        done = pagecheck(*command, env={**environment(), **config})
        assert (done.returncode, done.stderr) == (1, "")
        assert rows(done.stdout) == expected
        assert_fails_without(pagecheck(*command), made.address)


def assert_fails_without(done: Any, address: str) -> None:
    assert done.returncode == 3
    assert done.stderr.startswith(f"pagecheck: {address}: no connection to a Dask scheduler: TLS")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory, marks: Path) -> Iterator[Cluster]:
    """A scheduler without a worker; a test adds some, and kills them."""
    with cluster(tmp_path_factory.mktemp("lone"), PCTEST_MARKS=str(marks)) as made:
        yield made


def test_a_scheduler_without_workers_is_said(
    lone: Cluster, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "WORKERS_S", 0.2)
    with pytest.raises(PeerError, match=f"^{lone.address}: no worker has joined"):
        surveyed(files, cluster=lone.address)


def test_where_no_scheduler_is_that_is_said(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "CONNECT_S", 0.3)
    with pytest.raises(PeerError, match=r"^tcp://127.0.0.1:9: no connection to a Dask scheduler"):
        surveyed(files, cluster="tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"^gopher://a:1: unknown address scheme"):
        surveyed(files, cluster="gopher://a:1")


def test_a_worker_that_sees_other_files_is_said(lone: Cluster, shm_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, for a mount")
    make(shm_folder, "a.ram")
    hidden = f'mount -t tmpfs none {shm_folder} && exec "$@"'
    worker = lone.add_worker(before=["unshare", "-m", "sh", "-c", hidden, "sh"])
    line = rf"^{shm_folder}/a.ram: not as it was found, on worker .*: .*No such file.* all workers"
    with pytest.raises(SourceError, match=line):
        surveyed(shm_folder, cluster=lone.address)
    worker.kill()


@pytest.mark.long
def test_a_worker_of_another_version_is_said(
    lone: Cluster, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lone.add_worker("--preload", KILLING)
    monkeypatch.setattr(scheduler, "__version__", "0.0.1")
    line = rf"^worker tcp://127.*: has pagecheck {__version__}, not 0\.0\.1"
    with pytest.raises(EngineError, match=line):
        surveyed(files, cluster=lone.address)


@pytest.mark.long
def test_a_scheduler_that_is_frozen_or_dies_is_said(
    lone: Cluster, tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the worker of the test before."""
    make(tmp_path, "endless-7", "endless-8")
    monkeypatch.setattr(scheduler, "PULSE_S", 0.1)
    monkeypatch.setattr(scheduler, "SILENT_S", 1.0)
    monkeypatch.setattr(scheduler, "END_S", 0.3)
    survey = Background(lambda: surveyed(tmp_path, cluster=lone.address))
    wait_for(lambda: (marks / "endless-7").exists(), "the worker is at work")
    lone.scheduler.send_signal(signal.SIGSTOP)
    with pytest.raises(PeerError, match=f"^{lone.address}: the Dask scheduler has not answered"):
        survey.result()
    lone.scheduler.send_signal(signal.SIGCONT)
    (marks / "stop").touch()
    with distributed.Client(lone.address, set_as_default=False) as client:
        wait_for(lambda: not tasks(client), "no task on the scheduler", 10)
    (marks / "stop").unlink()
    (marks / "endless-7").unlink()
    with no_command_left():
        command = start("survey", "--cluster", lone.address, tmp_path)
        wait_for(lambda: (marks / "endless-7").exists(), "the worker is at work")
        lone.scheduler.kill()
        _, stderr = command.communicate(timeout=20)
    assert command.returncode == 3
    assert stderr == f"pagecheck: {lone.address}: the connection to the Dask scheduler is lost\n"
