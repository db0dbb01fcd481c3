"""A snapshot that is not small: sampled bytes of its RAM flipped in turn, each found and named."""

import os
import random
import re
from pathlib import Path

import pytest

from pagecheck.errors import SnapshotError
from pagecheck.snapshot.compress import compress_block
from pagecheck.snapshot.verify import verify
from tests.support.snapshots import PAGE, make_snapshot, some_ram

PAGES = 10_000
FLIPS = 40


@pytest.mark.parametrize("finish", [None, compress_block], ids=["sparse", "zstd"])
def test_sampled_bytes(tmp_path: Path, finish: object) -> None:
    rng = random.Random(7)
    content = some_ram(PAGES, zero_share=0.7)
    snapshot = make_snapshot(tmp_path / "snap", {"ram": content}, finish=finish)  # type: ignore[arg-type]
    path = tmp_path / "snap" / snapshot.blocks[0].file
    verify(tmp_path / "snap")
    with path.open("r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for at in [0, size - 1, *(rng.randrange(size) for _ in range(FLIPS))]:
            was = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([was[0] ^ 1 << rng.randrange(8)]), at)
            with pytest.raises(SnapshotError, match=rf"{path.name}: block ram is dam") as raised:
                verify(tmp_path / "snap")
            os.pwrite(file.fileno(), was, at)
            named = re.search(r"pages (\d+) to (\d+) of 10000", str(raised.value))
            assert named is not None
            if finish is None:
                assert int(named[1]) <= at // PAGE <= int(named[2])
    verify(tmp_path / "snap")
