"""Calls of the extension's functions, and the making of its module, rightly and wrongly."""

import importlib.util
import os

from pagecheck.native import _native
from tests.unit.native_entries import (
    KERNEL,
    NOWHERE,
    PAGE,
    PAGES,
    SLOT_PAGES,
    SLOTS,
    WRONG,
    World,
    case,
    entries,
    memfd,
    offsets,
    refuses,
    refuses_all_wrong,
)


@case("module")
def _(_world: World) -> None:
    spec = importlib.util.find_spec("pagecheck.native._native")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert entries(module) == entries(_native)


@case("layout")
def _(_world: World) -> None:
    assert "slot" in _native.layout()
    refuses(_native.layout, WRONG)


@case("segment_bytes")
def _(_world: World) -> None:
    assert _native.segment_bytes(SLOTS, SLOT_PAGES) > 0
    refuses_all_wrong(_native.segment_bytes, SLOTS, SLOT_PAGES)


@case("segment_format")
def _(_world: World) -> None:
    with memfd(_native.segment_bytes(SLOTS, SLOT_PAGES)) as fd, memfd(0) as short:
        good = (SLOTS, SLOT_PAGES, 1)
        _native.segment_format(fd, *good)
        refuses_all_wrong(_native.segment_format, fd, *good)
        for wrong in ((0, SLOT_PAGES, 1), (SLOTS, 65, 1), (2**32 - 1, 2**32 - 64, 1)):
            refuses(_native.segment_format, fd, *wrong)
        refuses(_native.segment_format, NOWHERE, *good)
        refuses(_native.segment_format, short, *good)


@case("kernels")
def _(_world: World) -> None:
    assert _native.kernels()
    refuses(_native.kernels, WRONG)


@case("kernel_auto")
def _(_world: World) -> None:
    assert _native.kernel_auto() == KERNEL
    refuses(_native.kernel_auto, WRONG)


@case("kernel_self_check")
def _(_world: World) -> None:
    assert _native.kernel_self_check(KERNEL)
    refuses_all_wrong(_native.kernel_self_check, KERNEL)
    refuses(_native.kernel_self_check, "none")


@case("kernel_zero_pages")
def _(_world: World) -> None:
    def call(*, kernel: str = KERNEL, page: int = PAGE, pages: int = 2, words: int = 8) -> None:
        out = bytearray(words)
        _native.kernel_zero_pages(kernel, bytearray(2 * PAGE), page, offsets(pages), out)

    call()
    refuses_all_wrong(
        _native.kernel_zero_pages, KERNEL, bytearray(PAGE), PAGE, offsets(1), bytearray(8)
    )
    refuses(lambda: call(kernel="none"))
    refuses(lambda: call(page=1000))
    refuses(lambda: call(pages=3))
    refuses(lambda: call(words=0))


@case("numa_node")
def _(_world: World) -> None:
    assert _native.numa_node() >= -1
    refuses(_native.numa_node, WRONG)


@case("cpu_why_not")
def _(_world: World) -> None:
    _native.cpu_why_not("enqcmd")
    refuses_all_wrong(_native.cpu_why_not, "enqcmd")
    refuses(_native.cpu_why_not, "hlt")


@case("file_system_magic")
def _(world: World) -> None:
    assert _native.file_system_magic(world.ram)
    refuses_all_wrong(_native.file_system_magic, world.ram)
    refuses(_native.file_system_magic, NOWHERE)


@case("bits_set")
def _(_world: World) -> None:
    _native.bits_set(bytearray(8), 1, 2)
    refuses_all_wrong(_native.bits_set, bytearray(8), 1, 2)
    for wrong in ((bytearray(8), 1, 64), (bytearray(8), 2**63, 2**63), (bytes(8), 0, 1)):
        refuses(_native.bits_set, *wrong)


@case("bits_clear")
def _(_world: World) -> None:
    _native.bits_clear(bytearray(8), 1, 2)
    refuses_all_wrong(_native.bits_clear, bytearray(8), 1, 2)
    refuses(_native.bits_clear, bytearray(8), 64, 1)


@case("bits_count")
def _(_world: World) -> None:
    assert _native.bits_count(bytearray(8), 64) == 0
    refuses_all_wrong(_native.bits_count, bytearray(8), 64)
    for bits in (65, 2**64 - 1):
        refuses(_native.bits_count, bytearray(8), bits)


@case("bits_run")
def _(_world: World) -> None:
    assert _native.bits_run(bytearray(8), 64, 3) == (False, 64)
    refuses_all_wrong(_native.bits_run, bytearray(8), 64, 3)
    refuses(_native.bits_run, bytearray(8), 64, 64)


@case("check_target")
def _(_world: World) -> None:
    good = (0, PAGE, PAGE, 1, 1, 0, PAGE, 1)
    _native.check_target(*good)
    refuses_all_wrong(_native.check_target, *good)


@case("offsets_check")
def _(_world: World) -> None:
    assert _native.offsets_check(offsets(), PAGE, PAGES * PAGE) == -1
    refuses_all_wrong(_native.offsets_check, offsets(), PAGE, PAGES * PAGE)


@case("offsets_partition")
def _(_world: World) -> None:
    assert _native.offsets_partition(offsets(2), bytearray(8), bytearray(16)) == 2
    refuses_all_wrong(_native.offsets_partition, offsets(2), bytearray(8), bytearray(16))
    refuses(_native.offsets_partition, offsets(2), bytearray(1), bytearray(16))
    refuses(_native.offsets_partition, offsets(2), bytearray(8), bytearray(8))


@case("punch_zero")
def _(_world: World) -> None:
    with memfd(2 * PAGE) as fd:
        given = (fd, 0, 2 * PAGE, PAGE, KERNEL, False, False, False)
        assert _native.punch_zero(*given) == (2 * PAGE, 2 * PAGE)
        refuses_all_wrong(_native.punch_zero, *given)
        refuses(_native.punch_zero, NOWHERE, *given[1:])
        refuses(_native.punch_zero, fd, 1, *given[2:])
        refuses(_native.punch_zero, *given[:4], "none", False, False, False)


@case("watch_open")
def _(world: World) -> None:
    os.close(_native.watch_open(world.ram))
    refuses_all_wrong(_native.watch_open, world.ram)
    refuses(_native.watch_open, NOWHERE)


@case("watch_ends_open")
def _(_world: World) -> None:
    os.close(_native.watch_ends_open())
    refuses(_native.watch_ends_open, WRONG)


@case("watch_ends_add")
def _(world: World) -> None:
    watch = _native.watch_ends_open()
    with memfd(PAGE) as fd:
        _native.watch_ends_add(watch, fd)
        refuses_all_wrong(_native.watch_ends_add, watch, fd)
    os.close(watch)
    refuses(_native.watch_ends_add, watch, world.ram)
