"""Guests of QEMU 10, which are saved and go on in another QEMU 10."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.saved_guests import goes_on, restored, save

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("qemu10")]


@pytest.mark.parametrize(("machine", "extra"), [("q35", ("-vga", "std")), ("virt", ())])
def test_a_guest_goes_on(machine: str, extra: tuple[str, ...], tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", machine=machine, qemu="10", extra=extra)
    (block,) = saved.blocks
    given = ("--ram", f"{block}={tmp_path / 'restored'}")
    with restored(saved, tmp_path, tmp_path / "log", *given) as front:
        assert goes_on(front.pid, tmp_path / "log", saved.last)
