"""A scan says which pages are holes, whoever scans: a picture shows them apart."""

import os
import pickle
from pathlib import Path

import numpy as np

import pagecheck
from pagecheck import aside
from tests.support.bitmaps import bits
from tests.support.service import ServiceProcess

PAGES = 1000


def sparse(path: Path) -> np.ndarray:
    """A file with pages of zeros and normal ones between holes; returns which are holes."""
    hole = np.ones(PAGES, np.bool_)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(fd, PAGES * 4096)
    for first, content in ((3, b"\0"), (64, b"x"), (500, b"\0"), (501, b"y"), (999, b"z")):
        os.pwrite(fd, content * 4096, first * 4096)
        hole[first] = False
    os.close(fd)
    return hole


def test_holes_are_known_page_by_page(tmp_path: Path) -> None:
    hole = sparse(tmp_path / "ram")
    (block,) = pagecheck.scan(str(tmp_path / "ram"), channels=1).blocks
    assert (bits(block.hole, PAGES) == hole).all()
    assert block.counts.hole == hole.sum()
    assert (bits(block.zero, PAGES)[hole]).all()
    (read,) = pagecheck.scan(str(tmp_path / "ram"), channels=1, holes="read").blocks
    assert not bits(read.hole, PAGES).any()
    (diff,) = pagecheck.scan(str(tmp_path / "ram"), channels=1, kind="diff").blocks
    assert diff.hole is None
    assert (bits(diff.unchanged, PAGES) == hole).all()


def test_holes_come_from_a_process_apart(tmp_path: Path) -> None:
    hole = sparse(tmp_path / "ram")
    report = pagecheck.scan(str(tmp_path / "ram"), channels=1)
    (block,) = aside._restored(pickle.loads(pickle.dumps(aside._plain(report)))).blocks
    assert (bits(block.hole, PAGES) == hole).all()
    assert block.unchanged is None


def test_holes_come_from_a_service(service: ServiceProcess, short_folder: Path) -> None:
    hole = sparse(short_folder / "ram")
    with pagecheck.Client(service.path) as client:
        (block,) = client.scan(str(short_folder / "ram")).blocks
        assert (bits(block.hole, PAGES) == hole).all()
        (diff,) = client.scan(str(short_folder / "ram"), kind="diff").blocks
    assert diff.hole is None
    assert (bits(diff.unchanged, PAGES) == hole).all()
