"""Pictures of a real QEMU: guest-physical addresses, and the counts of the scan and of its save."""

import json
from pathlib import Path

from pagecheck.cli.main import run_command
from tests.vm.bare_qemu import BareQemu

STATES = ["zero", "hole", "normal", "undecided", "unchanged"]


def test_a_vm_and_its_save_have_the_same_picture(qemu: BareQemu, tmp_path: Path, capsys) -> None:
    qemu.qmp("stop")
    source, saved = f"qmp:{qemu.socket}", tmp_path / "saved"

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert run_command(list(map(str, arguments))) == 0
        return capsys.readouterr().out

    scanned = json.loads(run("scan", "--json", "--gpa", source))
    live = json.loads(run("picture", "--json", "--cells", 64, source))
    assert live["states"] == STATES
    total = scanned["total"]
    holes = total["hole"]
    assert live["total"] == [total["zero"] - holes, holes, total["normal"], 0, 0]
    regions = {(r["guest_phys_addr"]) for b in scanned["blocks"] for r in b["regions"]}
    assert {s["address"] for s in live["spans"] if s["address"] is not None} == regions
    run("save", source, saved, "--quiet")
    kept = json.loads(run("picture", "--json", "--cells", 64, saved))
    assert [s["address"] for s in kept["spans"]] == [s["address"] for s in live["spans"]]
    for one, other in zip(live["spans"], kept["spans"], strict=True):
        assert [cell[2] for cell in one["cells"]] == [cell[2] for cell in other["cells"]]
    changes = json.loads(run("picture", "--json", "--compare", saved, source))
    same = dict(zip(changes["states"], changes["total"], strict=True))
    assert same["zero_in_both"] == total["zero"]
    assert same["normal_in_both"] == total["normal"]
    assert sum(changes["total"]) == total["pages"]
    run("picture", source, "-o", tmp_path / "map.html", "--quiet")
    assert "guest-physical addresses" in (tmp_path / "map.html").read_text()
