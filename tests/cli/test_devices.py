"""`pagecheck devices`: without hardware, over a made-up sysfs, and as a process of its own."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pagecheck.cli.main import run_command
from pagecheck.hw import queues
from tests.support.command import PAGECHECK, environment, pagecheck
from tests.support.sysfs_tree import ALL_OPCODES, GNR, Tree, bitmap


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def listed(monkeypatch: pytest.MonkeyPatch, tree: Tree, *arguments: str, **host: object) -> int:
    monkeypatch.setattr(queues, "Host", lambda: tree.host(**host))
    return run_command(["devices", *arguments])


def mixed(tree: Tree) -> None:
    """A device with queues good, slow and bad, one that is disabled, and an IAX device."""
    tree.device(0, op_cap=bitmap(ALL_OPCODES))
    tree.queue(0, 0, op_config=bitmap(ALL_OPCODES))
    tree.queue(1, 0, mode="dedicated", threshold=0)
    tree.queue(2, 0, type="none", state="disabled", size=0, threshold=0)
    tree.queue(3, 0, type="none", state="disabled", size=0, threshold=0)
    tree.queue(4, 0, state="disabled")
    tree.device(2, version=GNR, state="disabled", numa_node=-1)
    tree.queue(0, 2, state="disabled")
    tree.device(1, kind="iax")


def test_table(tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    mixed(tree)
    assert listed(monkeypatch, tree) == 0
    out, err = capsys.readouterr()
    assert err == ""
    expected = """
        mode size threshold batch transfer NUMA submit usable
        dsa0 DSA 1.0 1024 2147483648 0 yes
        wq0.0 shared 64 60 1024 2097152 0 enqcmd yes
        wq0.1 dedicated 64 - no 2097152 0 movdir64b yes
        wq0.2 shared 0 - 1024 2097152 0 - no
        wq0.3 shared 0 - 1024 2097152 0 - no
        wq0.4 shared 64 60 1024 2097152 0 - no
        dsa2 DSA 2.0 1024 2147483648 - no
        wq2.0 shared 64 60 1024 2097152 - - no
    """
    rows = [line.split() for line in expected.strip().splitlines()]
    assert [line.split() for line in out.splitlines()[:9]] == rows
    assert len({len(line) for line in out.splitlines()[2:7]}) <= 2  # aligned: "yes" and "no"
    reasons = [line.split("; ") for line in out.splitlines()[9:]]
    assert [reason[0] for reason in reasons] == [
        "wq0.1: note: no batches: op_config lacks BATCH, bit 1",
        "wq0.2, wq0.3: not configured (type is none)",
        "wq0.4: state is disabled",
        "dsa2: state is disabled",
    ]
    assert all(len(reason) == 2 for reason in reasons)


def test_json(tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    mixed(tree)
    assert listed(monkeypatch, tree, "--json") == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    document = json.loads(out)
    assert document["version"] == 1
    first, second = document["devices"]
    assert {key: value for key, value in first.items() if key != "queues"} == {
        "name": "dsa0",
        "version": 256,
        "state": "enabled",
        "cmd_status": 0,
        "entries": 128,
        "numa_node": 0,
        "max_batch": 1024,
        "max_transfer": 1 << 31,
        "usable": True,
        "why": None,
    }
    assert first["queues"][0] == {
        "name": "wq0.0",
        "path": f"{tree.nodes}/wq0.0",
        "mode": "shared",
        "size": 64,
        "threshold": 60,
        "max_batch": 1024,
        "max_transfer": 2 << 20,
        "ats": True,
        "prs": True,
        "enqcmds_retries": 32,
        "submit": "enqcmd",
        "batches": True,
        "usable": True,
        "why": None,
        "note": None,
    }
    assert [queue["usable"] for queue in first["queues"]] == [True, True, False, False, False]
    assert "op_config" in first["queues"][1]["note"]
    assert first["queues"][2]["submit"] is None
    assert first["queues"][2]["why"].startswith("not configured")
    assert (second["usable"], second["numa_node"]) == (False, None)
    assert second["why"].startswith("state is disabled")
    assert second["queues"][0]["why"].startswith("device dsa2: state is disabled")


def test_every_key_is_documented(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mixed(tree)
    listed(monkeypatch, tree, "--json")
    [device, _] = json.loads(capsys.readouterr().out)["devices"]
    text = (Path(__file__).parents[2] / "docs/json.md").read_text()
    section = text.partition("pagecheck devices --json")[2]
    keys = {*device, *device["queues"][0]}
    assert {key for key in keys if f"`{key}`" not in section} == set()


def test_the_command_probes(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tree.device()
    tree.queue()
    assert listed(monkeypatch, tree, probe_map=lambda path: errno.EPERM) == 0
    row, reason = capsys.readouterr().out.splitlines()[2:]
    assert row.split()[-2:] == ["write", "yes"]
    assert "CAP_SYS_RAWIO" in reason


def test_hostile_text(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    nasty = b"\x1b]0;x\x07\r\n" + b"\xff\x00" * 3000
    for number, name in enumerate(["version", "state", "numa_node", "op_cap", "max_batch_size"]):
        tree.device(number, **{name: nasty})
        tree.queue(0, number)
    tree.device(9)
    for number, name in enumerate(["mode", "type", "state", "size", "driver_name", "op_config"]):
        tree.queue(number, 9, **{name: nasty})
    for options in ([], ["--json"]):
        assert listed(monkeypatch, tree, *options) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert all(line.isprintable() for line in out.splitlines())
        assert "yes" not in [line.split()[-1] for line in out.splitlines() if "wq" in line[:5]]


def test_nothing_here(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert listed(monkeypatch, tree) == 0
    out, err = capsys.readouterr()
    assert out.startswith("no DSA device: ")
    assert (out.count("\n"), err) == (1, "")
    assert listed(monkeypatch, tree, "--json") == 0
    assert capsys.readouterr().out == '{"version": 1, "devices": []}\n'


@pytest.mark.skipif(Path("/sys/bus/dsa/devices").exists(), reason="this host has the idxd driver")
def test_this_host() -> None:
    done = pagecheck("devices")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no DSA device: /sys/bus/dsa/devices does not exist; ")


def test_help_and_mistakes() -> None:
    assert "--json" in pagecheck("devices", "--help").stdout
    done = pagecheck("devices", "dsa0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_the_list_loads_no_numpy() -> None:
    code = "from pagecheck.cli.main import run_command as r; r(['devices']); import sys; "
    code += "sys.exit('numpy' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.fixture
def elsewhere() -> list[str]:
    """A command that gives its command a mount namespace, where /sys/bus can be another folder."""
    for flags in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        command = ["unshare", *flags]
        if shutil.which("unshare"):
            probe = "mount --bind /usr /sys/bus && mount -t tmpfs none /dev"
            if subprocess.run([*command, "sh", "-c", probe], capture_output=True).returncode == 0:
                return command
    pytest.skip("no mount namespaces here: unshare --mount is not permitted")


def test_as_a_process(elsewhere: list[str], tree: Tree) -> None:
    """With the roots that it has by default; nodes are files, which can be opened and mapped."""
    tree.device(version=GNR, op_cap=bitmap(ALL_OPCODES))
    tree.queue(0, op_config=bitmap(ALL_OPCODES))
    tree.queue(1, node=False)
    Path(tree.nodes / "wq0.2").write_bytes(b"")
    tree.queue(2, node=False)
    script = (
        f"cd {tree.root} && touch dev/null && mount --bind /dev/null dev/null && "
        f"mount --bind sys/bus /sys/bus && mount --rbind dev /dev && "
        f"{PAGECHECK} devices --json && {PAGECHECK} devices"
    )
    done = subprocess.run(
        [*elsewhere, "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *table = done.stdout.splitlines()
    [device] = json.loads(first)["devices"]
    assert [queue["usable"] for queue in device["queues"]] == [True, False, False]
    assert device["queues"][0]["path"] == "/dev/dsa/wq0.0"
    assert device["queues"][0]["submit"] in ("enqcmd", "write")
    assert device["queues"][0]["batches"] is True
    assert table[1].split()[0] == "dsa0"
    text = "\n".join(table)
    assert "wq0.1: /dev/dsa/wq0.1 does not exist; " in text
    assert "wq0.2: /dev/dsa/wq0.2: mapping the portal: Invalid argument; " in text
