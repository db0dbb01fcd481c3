"""Imports point one way, and what must be light is light. The map is DESIGN.md's house."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecheck
from tests.support.needs import needs_program

PACKAGE = Path(pagecheck.__file__).parent
TESTS = Path(__file__).parents[1]
GROUND = {"errors", "clock", "model", "logs", "typed"}

# Room: the rooms that it may import, itself and the ground floor aside.
MAY_IMPORT = {
    "errors": set(),
    "clock": set(),
    "model": {"typed"},
    "logs": set(),
    "typed": set(),
    "_version": set(),
    "native": set(),
    "plan": set(),
    "printable": set(),
    "shortage": set(),
    "formats": set(),
    "child": {"printable", "shortage"},
    "report": {"child", "printable", "shm", "shortage"},
    "shm": {"formats", "native", "shortage"},
    "hw": {"native"},
    "workers": {"child", "shm", "hw", "native", "shortage"},
    "coordinator": {"child", "shm", "native", "plan", "report", "shortage"},
    "vmm": {"child", "shm", "native", "shortage", "printable"},
    "aside": {"child", "report", "shm", "shortage"},
    "sources": {"coordinator", "vmm", "shm", "plan"},
    "oneshot": {"aside", "coordinator", "sources", "shm", "plan", "report"},
    "service": {
        *("coordinator", "vmm", "shm", "native", "plan", "report", "_version", "shortage", "child"),
        *("snapshot", "sources", "printable", "picture"),
    },
    "snapshot": {
        *("aside", "child", "coordinator", "oneshot", "vmm", "shm", "native", "plan", "report"),
        *("sources", "printable", "shortage", "_version"),
    },
    "selftest": {
        *("coordinator", "snapshot", "vmm", "hw", "shm", "native", "report", "shortage"),
        "_version",
    },
    "picture": {"child", "native", "printable", "report", "shm", "shortage", "snapshot"},
    "survey": {
        *("aside", "oneshot", "coordinator", "snapshot", "vmm", "shm", "native", "plan"),
        *("report", "sources", "formats", "picture", "child", "printable", "shortage", "_version"),
    },
    "include": set(),
    "cli": {
        *("oneshot", "service", "snapshot", "native", "hw", "report", "vmm", "selftest"),
        *("printable", "shortage", "include", "_version", "survey", "picture"),
    },
    "__init__": {
        *("service", "coordinator", "oneshot", "report", "snapshot", "survey", "vmm"),
        "_version",
    },
    "__main__": {"cli"},
}

# Folder of vmm: those that it may import, the files at the top of vmm aside, which import any.
WITHIN_VMM: dict[str, set[str]] = {
    "process": set(),
    "options": {"process"},
    "hold": {"process"},
    "find": {"process", "options", "hold"},
    "qemu": {"process", "hold", "find"},
}


def room_of(module: str) -> str:
    """`pagecheck.shm.ram` is in shm, `pagecheck.plan` in plan, `pagecheck` itself in __init__."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]):
        parts = ("pagecheck", *path.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts)
        found.append((name, path))
    return found


def imports(path: Path) -> Iterator[str]:
    """Every absolute name that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def ours(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    found = set()
    for name in imports(path):
        if name.split(".")[0] == "pagecheck":
            room = room_of(name)
            found.add(room if room in MAY_IMPORT else "__init__")
    return found


@pytest.mark.parametrize(
    ("module", "path"), modules(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_imports_point_one_way(module: str, path: Path) -> None:
    room = room_of(module)
    assert room in MAY_IMPORT, f"a new room: say in {__file__} what it may import"
    allowed = MAY_IMPORT[room] | {room}
    if room not in GROUND | {"native", "_version"}:
        allowed |= GROUND
    assert ours(path) - allowed == set()


def test_the_map_has_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {r for r, needs in MAY_IMPORT.items() if needs <= done} - done
        assert ready, f"a circle among {MAY_IMPORT.keys() - done}"
        done |= ready


def files_and_what_they_import() -> dict[str, set[str]]:
    """Each module of the package with those that it imports, for type checkers too."""
    names = {name.removesuffix(".__init__"): path for name, path in modules()}
    found = {}
    for name, path in names.items():
        given = {n if n in names else n.rpartition(".")[0] for n in imports(path)}
        found[name] = (given & names.keys()) - {name}
    return found


def test_the_folders_of_vmm_import_one_way() -> None:
    wrong = []
    for module, needs in files_and_what_they_import().items():
        parts = module.split(".")
        if parts[1:2] == ["vmm"] and len(parts) > 3:
            theirs = {n.split(".")[2] for n in needs if n.startswith("pagecheck.vmm.")}
            allowed = WITHIN_VMM[parts[2]] | {parts[2]}
            wrong += [f"{module}: {each}" for each in theirs & WITHIN_VMM.keys() - allowed]
    assert wrong == []


def test_no_files_import_each_other() -> None:
    direct = files_and_what_they_import()
    reached = {name: set(needs) for name, needs in direct.items()}
    for through in direct:
        for needs in reached.values():
            if through in needs:
                needs |= reached[through]
    circular = {name.removeprefix("pagecheck.") for name in reached if name in reached[name]}
    assert circular == set()


def test_the_coordinator_knows_neither_workers_nor_engines() -> None:
    assert not {"workers", "hw"} & MAY_IMPORT["coordinator"]


def test_the_ground_floor_stands_on_the_standard_library() -> None:
    for name in GROUND:
        roots = {n.split(".")[0] for n in imports(PACKAGE / f"{name}.py")}
        # numpy for the type checker only; what each may have of the package is in the map.
        assert roots - sys.stdlib_module_names <= {"numpy", "pagecheck"}


def loaded_by(code: str, *flags: str) -> set[str]:
    """Names in sys.modules after running code in a fresh interpreter."""
    program = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {code}\n"
        "seen = sorted(sys.modules); import json; print(json.dumps(seen))"
    )
    ran = subprocess.run(
        [sys.executable, "-P", *flags, "-c", program], capture_output=True, check=True, timeout=60
    )
    return set(json.loads(ran.stdout.splitlines()[-1]))


def test_importing_pagecheck_loads_nothing() -> None:
    loaded = loaded_by("import pagecheck", "-S", "-E", "-s")
    assert {n for n in loaded if n.startswith("pagecheck")} == {"pagecheck", "pagecheck._version"}
    assert "numpy" not in loaded


def test_the_worker_program_is_light() -> None:
    loaded = loaded_by("import pagecheck.workers.program", "-S", "-E", "-s")
    roots = {name.split(".")[0] for name in loaded}
    assert not roots & {"numpy", "posix_ipc", "psutil", "click", "rich"}
    assert not [n for n in loaded if n.startswith(("pagecheck.coordinator", "pagecheck.cli"))]


# What a program with an ordinary task is glad of, and what would take most of a worker's start.
COSTLY = {
    *("array", "collections", "contextlib", "dataclasses", "enum", "functools", "inspect", "json"),
    *("logging", "mmap", "pathlib", "re", "signal", "socket", "subprocess", "threading", "typing"),
}


def test_a_worker_that_starts_loads_nothing_costly() -> None:
    loaded = loaded_by(
        "import pagecheck.workers.program as p; ours, theirs = p.Link.pair(); "
        "ours.send({'a': [1]}, (0,)); theirs.receive(1 << 62); p.release_signals(); "
        "p.choose_kernel(None); from pagecheck.hw import dsa; dsa.DEVICES = '/nonexistent'; "
        "p.DsaEngine(None, 1).open('auto', [], 0, fallback=False).to_json()",
        "-S", "-E", "-s",
    )  # fmt: skip
    assert loaded & COSTLY == set()
    assert len(loaded) < 60


def test_the_coordinator_loads_no_worker_and_no_numpy() -> None:
    loaded = loaded_by("from pagecheck import Coordinator, scan")
    assert not [n for n in loaded if n.startswith(("pagecheck.workers", "pagecheck.hw"))]
    assert "numpy" not in loaded


def test_a_plain_scan_loads_only_what_it_uses(tmp_path: Path) -> None:
    ram = tmp_path / "ram"
    ram.write_bytes(bytes(1 << 20))
    loaded = loaded_by(f"import pagecheck; pagecheck.scan({str(ram)!r}, channels=1)")
    assert "pagecheck.coordinator.runner" in loaded
    unused = (
        "numpy",
        "psutil",
        "pagecheck.vmm",
        "pagecheck.service",
        "pagecheck.cli",
        "pagecheck.aside",
    )
    assert not [name for name in loaded if name.startswith(unused)]
    assert not {"pagecheck.coordinator.check", "pagecheck.coordinator.select"} & loaded


def test_a_plain_scan_command_loads_nothing_costly(tmp_path: Path) -> None:
    """The whole command, its table too; names that the dead left are others' business."""
    ram = tmp_path / "ram"
    ram.write_bytes(bytes(1 << 20))
    loaded = loaded_by(
        "from pagecheck.shm import owner; owner.sweep = lambda: None\n"
        f"from pagecheck.cli import plain; assert plain.run(['scan', {str(ram)!r}]) == 0"
    )
    costly = COSTLY - {"collections", "contextlib", "functools", "mmap", "threading"}
    costly |= {"click", "rich", "numpy", "copy", "ast", "traceback", "selectors", "string"}
    assert loaded & costly == set()


def test_ordinary_commands_about_snapshots_load_no_click(tmp_path: Path) -> None:
    """QEMUs start beside them: what is loaded before is what a user waits for."""
    needs_program("qemu-system-x86_64", "qemu-system-x86")
    ram = tmp_path / "ram"
    ram.write_bytes(bytes(1 << 20))
    nowhere = str(tmp_path / "none")
    lines = (
        ["punch", str(ram)],
        ["restore", nowhere, "--ram", str(ram), "--", "qemu-system-x86_64"],
        ["clone", nowhere, "-n", "1", "--", "qemu-system-x86_64"],
    )
    loaded = loaded_by(
        f"from pagecheck.cli import plain; assert None not in [plain.run(each) for each in {lines}]"
    )
    assert {"pagecheck.snapshot.clone", "pagecheck.snapshot.restore"} <= loaded
    costly = {
        "click",
        "rich",
        "numpy",
        "psutil",
        "shutil",
        "tempfile",
        "pagecheck.vmm.process.memory",
    }
    assert loaded & costly == set()
    assert not [name for name in loaded if name.startswith("pagecheck.coordinator.coordinator")]


def test_the_version_loads_next_to_nothing() -> None:
    loaded = loaded_by("from pagecheck.cli import plain; assert plain.run(['--version']) == 0")
    assert {name for name in loaded if name.startswith("pagecheck")} == {
        *("pagecheck", "pagecheck._version", "pagecheck.cli", "pagecheck.cli.plain")
    }


def test_the_command_line_is_light() -> None:
    loaded = loaded_by("import pagecheck.cli.main")
    assert not {"numpy", "rich", "psutil", "ctypes"} & loaded
    assert not [name for name in loaded if name.startswith("pagecheck.vmm")]


def test_a_test_folder_imports_only_its_own_files_and_what_all_share() -> None:
    """tests/support imports from no other folder; what two folders need moves there."""
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        folder = path.relative_to(TESTS).parts[0]
        for name in imports(path):
            if name.startswith("tests.") and name.split(".")[1] not in {folder, "support"}:
                wrong.append(f"{path.relative_to(TESTS)} imports {name}")
    assert wrong == []


def test_every_public_name_can_be_had() -> None:
    assert {name for name in pagecheck.__all__ if getattr(pagecheck, name, None) is None} == set()
    assert sorted(pagecheck.__all__) == dir(pagecheck)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = pagecheck.nonsense


def test_the_first_worker_starts_before_most_of_a_scan_is_loaded(tmp_path: Path) -> None:
    ram = tmp_path / "ram"
    ram.write_bytes(bytes(1 << 20))
    loaded = loaded_by(
        "import os, pagecheck; spawn = os.posix_spawn\n"
        "def stop(*given, **options): raise InterruptedError\n"
        "os.posix_spawn = stop\n"
        f"try: pagecheck.scan({str(ram)!r})\n"
        "except pagecheck.PagecheckError: pass\n"
    )
    later = ("pool", "channel", "coordinator", "scan", "runner")
    assert "pagecheck.coordinator.worker" in loaded
    assert not {f"pagecheck.coordinator.{name}" for name in later} & loaded
    assert not {"posix_ipc", "pagecheck.report.report"} & loaded
