"""A QEMU that takes no state: a stand-in that speaks QMP, and what is said of it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from pagecheck.errors import PeerError
from pagecheck.snapshot import incoming
from pagecheck.snapshot.incoming import IncomingQemu

STAND_IN = """
import json, socket, sys

words = sys.argv
chardev = words[words.index("-chardev") + 1]
qmp = socket.socket(fileno=int(chardev.partition(",fd=")[2]))
state = socket.socket(fileno=int(words[words.index("-incoming") + 1].removeprefix("fd:")))
state.close()
qmp.sendall(b'{"QMP": {}}\\n')
for line in qmp.makefile():
    is_status = json.loads(line)["execute"] == "query-status"
    found = {"status": "inmigrate"} if is_status else {}
    qmp.sendall(json.dumps({"return": found}).encode() + b"\\n")
sys.stdin.read()
"""


def test_one_that_hangs_up_and_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "END_S", 0.1)
    program = tmp_path / "qemu.py"
    program.write_text(STAND_IN)
    with tempfile.TemporaryFile() as state:
        state.write(b"state")
        state.flush()
        command = [sys.executable, os.fspath(program)]
        with IncomingQemu(command, name="stand-in") as qemu:
            qemu.wait_ready()
            with pytest.raises(PeerError, match="stand-in: refused the state, and"):
                qemu.load(state.fileno(), 5)
        assert qemu.process.returncode == -9
