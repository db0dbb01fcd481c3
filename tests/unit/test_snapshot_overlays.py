"""Overlays of several disks of one clone have names of their own."""

from __future__ import annotations

from pagecheck.snapshot.command_words import split
from pagecheck.snapshot.overlays import Disk


def test_no_two_overlays_have_one_name() -> None:
    options = split(["qemu", "-drive", "file=a/disk.img,format=raw"])
    names: list[str] = []
    for path in ("a/disk.img", "b/disk.img", "disk-img-2", "c/disk.img"):
        names.append(Disk(path, options[0]).file_name(1, names))
    assert names == [
        "clone1-disk-img.qcow2",
        "clone1-disk-img-2.qcow2",
        "clone1-disk-img-2-2.qcow2",
        "clone1-disk-img-3.qcow2",
    ]
