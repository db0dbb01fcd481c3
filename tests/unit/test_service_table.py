"""What people see of a service."""

from typing import Any

from pagecheck.cli.service_table import service_table

ENGINE = {
    "pages": {"zero": 1000, "normal": 234, "undecided": 0, "holes": 7, "bytes": 1 << 30},
    "answered": 4,
    "latency_ns": 8000,
}


def stats(**changes: Any) -> dict[str, Any]:
    return {
        "pid": 4711,
        "uptime_seconds": 90.0,
        "engine": "cpu",
        "kernel": "avx2",
        "workers": 2,
        "workers_replaced": 1,
        "clients": 1,
        "blocks": 1,
        "channels": 2,
        "numbers": {"commands": 1234, "pause_seconds": 0.25, "pauses": 1},
        "engines": {"cpu": ENGINE},
        "sessions": [],
        **changes,
    }


def test_what_is_counted_is_shown() -> None:
    text = service_table(stats(), None, 0.0)
    for part in (
        "process 4711, up 2 min",
        "(1 replaced)",
        "1,234 commands",
        "1 VM pauses, 0.250 s",
    ):
        assert part in text
    (row,) = [line for line in text.splitlines() if line.startswith("cpu ")]
    assert row.split() == ["cpu", "4", "1,000", "234", "0", "7", "1", "GiB", "2.0", "us", "-"]


def test_a_rate_needs_two_looks() -> None:
    later = {**ENGINE, "pages": {**ENGINE["pages"], "bytes": 3 << 30}}  # type: ignore[dict-item]
    text = service_table(stats(engines={"cpu": later}), stats(), 2.0)
    assert text.splitlines()[-1].endswith("1 GiB/s")


def test_clients_with_odd_names_do_not_disturb_the_terminal() -> None:
    session = {
        "client": 1,
        "pid": 5,
        "uid": 0,
        "seconds": 7300.0,
        "commands": 3,
        "doing": "check\x1b[2J",
        "blocks": [{"name": f"b{n}\n", "size": 1 << 20} for n in range(4)],
        "channels": [{"gone": True}, {"gone": False}],
    }
    text = service_table(stats(sessions=[session]), None, 0.0)
    assert text.splitlines()[-1].split("  ")[-1] == "check\\x1b[2J"
    assert "b0\\n, b1\\n, b2\\n, ... 4 MiB" in text
    assert "2 (1 gone)" in text
    assert "2.0 h" in text
