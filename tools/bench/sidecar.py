"""The service from outside: a VMM's packets through direct channels, and a scan by command."""

import statistics
import subprocess
import time
from pathlib import Path

from pagecheck import Client, Coordinator
from tools.bench.data import ROOT, RamFile, compiled
from tools.bench.rows import Row, Spread
from tools.served import served

MIB = 512
PACKETS = 8192  # 4 GiB: the RAM eight times
PACE_NS = 200_000
ROUNDS = 400
SPIN_US = 400  # longer than the pace: nobody sleeps
SIZE = 2 << 30
GIB_PER_PACKET = 128 * 4096 / (1 << 30)


class _Vmm:
    """The C program, spoken to over its pipes."""

    def __init__(self, socket: str) -> None:
        kernels = sorted((ROOT / "pagecheck/native/core").glob("pc_kernel*.c"))
        includes = [ROOT / "pagecheck/include", ROOT / "pagecheck/native/core"]
        peers = Path(__file__).parent / "peers.c"
        program = compiled("sidecar", peers, *kernels, includes=includes)
        self._process = subprocess.Popen(
            [program, socket, str(MIB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *words: object) -> list[int]:
        """One command; the numbers of its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return [int(number) for number in self._process.stdout.readline().split()]

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


def run(repeats: int) -> list[Row]:
    """Round trips, throughput, the CPU time left in the VMM, and a scan by command."""
    with served() as service:
        vmm = _Vmm(service.path)
        try:
            rows = _trips(vmm, repeats) + _flows(vmm, repeats)
        finally:
            vmm.close()
        return rows + _scan(service.path, repeats)


def _trips(vmm: _Vmm, repeats: int) -> list[Row]:
    names = ("ping", "remote", "check", "trip", "spin")
    figures: dict[str, list[float]] = {name: [] for name in names}
    worst: dict[str, list[float]] = {"trip": [], "spin": []}
    for _ in range(repeats):
        samples = {
            "ping": vmm.ask("ping", ROUNDS, PACE_NS),
            "remote": vmm.ask("remote", ROUNDS, PACE_NS),
            "check": vmm.ask("check", ROUNDS, PACE_NS),
            "trip": vmm.ask("trip", ROUNDS, PACE_NS, 0),
            "spin": vmm.ask("trip", ROUNDS, PACE_NS, SPIN_US),
        }
        for name, each in samples.items():
            figures[name].append(statistics.median(each) / 1e3)
        for name, kept in worst.items():
            kept.append(statistics.quantiles(samples[name], n=100)[98] / 1e3)
    check = statistics.median(figures["check"])
    rows = []
    for name, what in (("trip", "asleep on both sides"), ("spin", "both sides spin")):
        above = [t - c for t, c in zip(figures[name], figures["check"], strict=True)]
        allowed = [1.3 * ping for ping in figures["ping"]] if name == "trip" else [5.0] * repeats
        p99 = statistics.median(worst[name])
        floor = [r - c for r, c in zip(figures["remote"], figures["check"], strict=True)]
        rows.append(
            Row(
                what=f"one packet through a channel, {what}",
                case="128 zero pages",
                detail=f"check itself {check:.1f} us, p99 in all {p99:.1f} us",
                peer="1.3 x futex ping-pong" if name == "trip" else "5 us",
                ratio=Spread.of([m / max(a, 0.1) for m, a in zip(allowed, above, strict=True)]),
                aim=1.0,
                ours=statistics.median(above),
                theirs=statistics.median(allowed),
                limit=statistics.median(floor) if name == "trip" else None,
                unit="us",
                limited_by="deadlines of both waits, one fstat, a check in another address space"
                if name == "trip"
                else "",
            )
        )
    return rows


def _flows(vmm: _Vmm, repeats: int) -> list[Row]:
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    commands = {
        "own": ("own", 2, PACKETS),
        "two": ("flow", 2, PACKETS, 16, 75),
        "one": ("own", 1, PACKETS),
        "read two": ("read", 2, PACKETS),
        "read one": ("read", 1, PACKETS),
        "lone": ("flow", 1, PACKETS, 16, 75),
        "eight": ("flow", 1, PACKETS, 8, 50),
        "sixteen": ("flow", 1, PACKETS, 32, 50),
        "single": ("flow", 1, PACKETS, 1, 100),
    }
    for name, command in commands.items():
        vmm.ask(*command)  # faults every page in once
        wall[name], cpu[name] = [], []
    for _ in range(repeats):
        for name, command in commands.items():
            took, used = vmm.ask(*command)
            wall[name].append(took / PACKETS / 128)
            cpu[name].append(used / 1e6 / (PACKETS * GIB_PER_PACKET))
    channels = (
        ("eight", "one", "one channel, 8 packets outstanding", "one thread", 1.0),
        ("two", "own", "two channels, 16 packets outstanding each", "two threads", 0.9),
    )
    rows = [
        Row(
            what=what,
            case="half-half mix, in order",
            peer=f"{threads} checking in-process",
            ratio=Spread.of([o / t for o, t in zip(wall[own], wall[name], strict=True)]),
            aim=aim,
            ours=statistics.median(wall[name]),
            theirs=statistics.median(wall[own]),
            limit=statistics.median(wall[own]),
            limited_by="the worker's wake-ups of the VMM, and one fstat per packet",
        )
        for name, own, what, threads, aim in channels
    ]
    rows.append(_doubled(wall))
    per_wait = (
        ("sixteen", "16 packets per wait, 32 outstanding", 10.0),
        ("single", "one packet per wait", None),
    )
    for name, what, aim in per_wait:
        rows.append(
            Row(
                what=f"CPU left in the VMM, {what}",
                case="half-half mix, in order",
                peer="one thread checking in-process",
                ratio=Spread.of([o / t for o, t in zip(cpu["one"], cpu[name], strict=True)]),
                aim=aim,
                ours=statistics.median(cpu[name]),
                theirs=statistics.median(cpu["one"]),
                limit=None,
                unit="ms/GiB",
            )
        )
    return rows


def _doubled(wall: dict[str, list[float]]) -> Row:
    """Two channels against one, and what the memory gives two readers."""

    def doubled(one: str, two: str) -> list[float]:
        return [o / t for o, t in zip(wall[one], wall[two], strict=True)]

    ours, bus = doubled("lone", "two"), doubled("read one", "read two")
    wanted = [min(1.9, each) for each in bus]
    return Row(
        what="two channels against one, 16 packets outstanding each",
        case="half-half mix, in order",
        peer="1.9, or two threads of a pure read against one",
        ratio=Spread.of([o / w for o, w in zip(ours, wanted, strict=True)]),
        aim=1.0,
        ours=statistics.median(ours),
        theirs=statistics.median(wanted),
        limit=statistics.median(bus),
        unit="x",
        detail=f"the kernel on two threads against one: "
        f"{statistics.median(doubled('one', 'own')):.2f} x",
        limited_by="memory bandwidth",
    )


def _scan(socket: str, repeats: int) -> list[Row]:
    with RamFile("half", SIZE) as ram, Client(socket) as client, Coordinator() as coordinator:
        path = Path(ram.path)
        block = coordinator.attach(path, access="read")
        (remote,) = client.attach(path, access="read")
        embedded, served_by = [], []
        for repeat in range(-1, repeats):
            start = time.perf_counter()
            coordinator.scan(block)
            middle = time.perf_counter()
            client.check([remote])
            end = time.perf_counter()
            if repeat >= 0:
                embedded.append(middle - start)
                served_by.append(end - middle)
    per_page = 1e9 / (SIZE // 4096)
    return [
        Row(
            what="a scan by command",
            case="2 GiB, half-half mix",
            peer="embedded coordinator",
            ratio=Spread.of([e / s for e, s in zip(embedded, served_by, strict=True)]),
            aim=0.97,
            ours=statistics.median(served_by) * per_page,
            theirs=statistics.median(embedded) * per_page,
            limit=None,
        )
    ]
