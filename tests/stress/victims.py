"""Commands of ours that are killed, and what must hold whatever was killed of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pagecheck.snapshot import manifest
from pagecheck.snapshot.directory import remove_leftovers
from pagecheck.snapshot.verify import verify
from tests.support.api_vmm import ApiVmm, api_vmm
from tests.support.bitmaps import bits
from tests.support.command import Done
from tests.support.faults import COMMAND, WATCHDOG, WORKER
from tests.support.rams import PAGE, sparse_file
from tests.support.snapshots import make_snapshot
from tests.support.waiting import wait_for

PAGES: Final = 600
RUN: Final = 50  # pages of one kind in a row
STALL_S: Final = 0.5  # a worker that stopped is replaced after this
PAUSE_S: Final = 0.5  # a VM that is held runs on after this
VM_MIB: Final = 16
VM_CONTENT: Final = (bytes(PAGE + 7) + b"\1" + bytes(PAGE - 8)) * (VM_MIB << 7)  # see `Guest`
KEPT: Final = frozenset({"ram", "onto", "punched", "saved", "damaged"})


class Site:
    """What the commands work on, in a folder on tmpfs.

    Attributes:
        folder: it; what each command makes there is removed after it was judged.
        zero: bool[PAGES], of the RAM file `ram`: runs of pages that are holes, zeros, or normal.
        content: all of it.
        saved, damaged: a snapshot of it, and one with a byte changed.
        private, shared: stand-ins for VMMs that can be held, by their kind of RAM.
    """

    def __init__(self, folder: Path, private: ApiVmm, shared: ApiVmm) -> None:
        self.folder, self.private, self.shared = folder, private, shared
        kinds = np.arange(PAGES) // RUN % 3
        self.zero = kinds != 2
        normal = dict.fromkeys(np.flatnonzero(~self.zero).tolist(), b"x")
        zeros = dict.fromkeys(np.flatnonzero(kinds == 1).tolist(), b"")
        self.content = sparse_file(folder / "ram", PAGES, zeros | normal).read_bytes()
        self.saved, self.damaged = folder / "saved", folder / "damaged"
        make_snapshot(self.saved, {"pc.ram": self.content})
        shutil.copytree(self.saved, self.damaged)
        with (self.damaged / "pc.ram.ram").open("r+b") as file:
            file.seek(max(normal) * PAGE + 99)
            file.write(b"?")

    def clear(self) -> None:
        """Removes what a save that was killed left, as the next save does, and all results."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            remove_leftovers(fd)
        finally:
            os.close(fd)
        for name in ("out", "snap"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "restored").unlink(missing_ok=True)
        left = {each.name for each in self.folder.iterdir()} - KEPT
        assert not {name for name in left if not name.startswith("vmm-")}

    def require_running(self) -> None:
        """The VMs do, and their RAM is what it was."""
        for vmm in (self.private, self.shared):
            wait_for(lambda vmm=vmm: vmm.state() == "Running", "the VM runs again")
            assert vmm.runs()
        (ram,) = (
            each
            for each in Path(f"/proc/{self.shared.pid}/fd").iterdir()
            if "ch_ram" in os.readlink(each)
        )
        with ram.open("rb") as file:
            assert file.read()[PAGE:] == VM_CONTENT[PAGE:]


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """A site in an empty folder, until the end of the block."""
    with (
        api_vmm("fc", folder / "vmm-private", mib=VM_MIB) as private,
        api_vmm("ch", folder / "vmm-shared", mib=VM_MIB, shared=True) as shared,
    ):
        yield Site(folder, private, shared)


class Victim(NamedTuple):
    """A command.

    Attributes:
        arguments: of the site.
        judge: raises if what it did or left is wrong, however it ended; `whole` says whether
            nothing but one worker was killed, so that it must have done all of its work.
        who: the processes of it that can be killed.
    """

    arguments: Callable[[Site], list[Any]]
    judge: Callable[[Site, Done, bool], None]
    who: tuple[str, ...]


def _judge_scan(site: Site, done: Done, whole: bool) -> None:
    if done.returncode in (0, 1):
        total = json.loads(done.stdout)["total"]
        assert total["zero"] + total["normal"] + total["undecided"] == PAGES
        assert total["zero"] <= site.zero.sum()
    if whole:
        assert (done.returncode, total["zero"]) == (0, site.zero.sum())
    out = site.folder / "out"
    if (out / "report.json").exists():
        block = json.loads((out / "report.json").read_text())["blocks"][0]
        zero = bits((out / "ram.zero").read_bytes(), PAGES)
        normal = bits((out / "ram.normal").read_bytes(), PAGES)
        assert not (zero & ~site.zero).any()
        assert not (normal & site.zero).any()
        assert (~zero & ~normal).sum() == block["undecided"]


def _judge_save(site: Site, done: Done, whole: bool) -> None:
    """Under its name there is a whole snapshot or nothing."""
    snap = site.folder / "snap"
    assert snap.exists() >= (done.returncode == 0)
    if whole:
        assert done.returncode == 0
    if snap.exists():
        verify(snap)
        (block,) = manifest.read(snap).blocks
        assert (snap / block.file).read_bytes() == site.content


def _judge_held(site: Site, done: Done, _whole: bool) -> None:
    site.require_running()
    snap = site.folder / "snap"
    if done.args[1] == "save":
        assert snap.exists() >= (done.returncode == 0)
    if snap.exists():
        verify(snap)
        (block,) = manifest.read(snap).blocks
        assert (snap / block.file).read_bytes()[PAGE:] == VM_CONTENT[PAGE:]


def _judge_verify(_site: Site, done: Done, whole: bool) -> None:
    assert done.returncode == 0 or not whole


def _judge_damaged(_site: Site, done: Done, whole: bool) -> None:
    assert done.returncode == 5 if whole else done.returncode != 0


def _judge_restore(site: Site, done: Done, whole: bool) -> None:
    """A file that has the name has all of the RAM."""
    restored = site.folder / "restored"
    assert restored.exists() >= (done.returncode == 0)
    assert not whole or restored.exists()
    if restored.exists():
        assert restored.read_bytes() == site.content


def _onto(site: Site) -> list[Any]:
    (site.folder / "onto").write_bytes(site.content[::-1])
    return ["restore", "--quiet", "--onto", "--ram", site.folder / "onto", site.saved]


def _judge_onto(site: Site, done: Done, whole: bool) -> None:
    """Each page is what it was, or what it is to be."""
    there = (site.folder / "onto").read_bytes()
    assert len(there) == len(site.content)
    if done.returncode == 0 or whole:
        assert there == site.content


def _punched(site: Site) -> list[Any]:
    (site.folder / "punched").write_bytes(site.content)
    return ["punch", "--quiet", site.folder / "punched"]


def _judge_punched(site: Site, done: Done, whole: bool) -> None:
    """Whatever happened, what is read is the same."""
    assert (site.folder / "punched").read_bytes() == site.content
    if done.returncode == 0 or whole:
        assert os.stat(site.folder / "punched").st_blocks * 512 <= PAGE * (~site.zero).sum()


_BOTH: Final = ("--channels", "2", "--stall", STALL_S)

VICTIMS: Final = {
    "scan": Victim(
        lambda site: ["scan", "--json", *_BOTH, "--out", site.folder / "out", site.folder / "ram"],
        _judge_scan,
        (COMMAND, WORKER),
    ),
    "scan-held": Victim(
        lambda site: [
            *("scan", "--json", *_BOTH, "--pause", "--max-pause", PAUSE_S),
            *("--max-rate", "64M", site.private.source),
        ],
        _judge_held,
        (COMMAND, WORKER, WATCHDOG),
    ),
    "save": Victim(
        lambda site: ["save", "--quiet", *_BOTH, site.folder / "ram", site.folder / "snap"],
        _judge_save,
        (COMMAND, WORKER),
    ),
    "save-held": Victim(
        lambda site: [
            *("save", "--quiet", *_BOTH, "--max-pause", PAUSE_S),
            *(site.private.source, site.folder / "snap"),
        ],
        _judge_held,
        (COMMAND, WORKER, WATCHDOG),
    ),
    "save-live": Victim(
        lambda site: [
            *("save", "--quiet", "--live", *_BOTH, "--max-pause", PAUSE_S),
            *(site.private.source, site.folder / "snap"),
        ],
        _judge_held,
        (COMMAND, WORKER, WATCHDOG),
    ),
    "verify": Victim(lambda site: ["verify", "--quiet", site.saved], _judge_verify, (COMMAND,)),
    "verify-damaged": Victim(
        lambda site: ["verify", "--quiet", site.damaged], _judge_damaged, (COMMAND,)
    ),
    "restore": Victim(
        lambda site: [
            *("restore", "--quiet", "--ram", site.folder / "restored", site.saved),
        ],
        _judge_restore,
        (COMMAND,),
    ),
    "restore-onto": Victim(_onto, _judge_onto, (COMMAND, WORKER)),
    "punch": Victim(_punched, _judge_punched, (COMMAND,)),
    "punch-held": Victim(
        lambda site: ["punch", "--quiet", *_BOTH, "--max-pause", PAUSE_S, site.shared.source],
        _judge_held,
        (COMMAND, WORKER, WATCHDOG),
    ),
}
