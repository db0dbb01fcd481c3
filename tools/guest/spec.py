"""What guest to make: checked values, and the QEMU command line that follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.guest.errors import GuestError
from tools.guest.fetch import GuestFiles

MIB = 1 << 20

# microvm with ACPI hangs under TCG while the guest's kernel calibrates its clock.
MACHINES = {"q35": "q35", "pc": "pc", "microvm": "microvm,acpi=off"}
BACKENDS = ("file", "memfd", "devfd", "private", "numa")
PRIVATE_BACKENDS = ("private", "numa")  # no one file holds the RAM

_KERNEL_MIB = 96  # what a stock kernel, its initramfs and busybox need to come up


@dataclass(frozen=True)
class GuestSpec:
    """One guest.

    Args:
        size_bytes: Guest RAM, a multiple of 1 MiB.
        machine: A key of MACHINES.
        backend: "file" (memory-backend-file, shared), "memfd" (memory-backend-memfd), "devfd"
            (memory-backend-file on /dev/fd/N, a memfd that QEMU inherits), "private" (a plain -m)
            or "numa" (two nodes with a half each: node0 private, node1 a shared memfd).
        random_mb: MiB of random bytes that the guest keeps; it frees half as many again.
        zeros_mb: MiB of zero bytes that the guest keeps.
        check_every_s: seconds between two checks of the guest's memory; 0: one after the other.

    Raises:
        GuestError: A value is out of range, or what the guest is to keep does not fit.
    """

    size_bytes: int = 256 * MIB
    machine: str = "q35"
    backend: str = "file"
    random_mb: int = 8
    zeros_mb: int = 8
    check_every_s: int = 2

    def __post_init__(self) -> None:
        if self.machine not in MACHINES:
            raise GuestError(f"guest: machine {self.machine!r} is not one of {', '.join(MACHINES)}")
        if self.backend not in BACKENDS:
            raise GuestError(f"guest: backend {self.backend!r} is not one of {', '.join(BACKENDS)}")
        if self.random_mb < 1 or self.zeros_mb < 1:
            raise GuestError("guest: random_mb and zeros_mb must be 1 or more")
        if self.size_bytes % MIB:
            raise GuestError(f"guest: size {self.size_bytes:#x} is not a multiple of {MIB:#x}")
        need_mb = self.random_mb + (self.random_mb + 1) // 2 + self.zeros_mb + 2 + _KERNEL_MIB
        if self.size_bytes < need_mb * MIB:
            raise GuestError(
                f"guest: {self.size_bytes // MIB} MiB of RAM is too small; {self.random_mb} MiB "
                f"random and {self.zeros_mb} MiB zeros need {need_mb} MiB"
            )

    def command_line(
        self, files: GuestFiles, ram_file: Path | None, qmp_fd: int, extra: Sequence[str]
    ) -> list[str]:
        """Renders the QEMU command.

        Args:
            files: The programs to run.
            ram_file: The file that backs guest RAM; None for a memfd of QEMU's own.
            qmp_fd: A connected socket that QEMU inherits and speaks QMP on.
            extra: More arguments for QEMU.

        Returns:
            The argument vector; the console is on standard output.
        """
        return [
            *(str(files.qemu), "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-accel", "tcg", "-display", "none", "-serial", "stdio"),
            *self._memory(ram_file),
            *("-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control"),
            *("-kernel", str(files.kernel), "-initrd", str(files.initramfs)),
            *("-append", self._kernel_command_line()),
            *extra,
        ]

    def _memory(self, ram_file: Path | None) -> list[str]:
        machine = MACHINES[self.machine]
        size = ["-m", f"{self.size_bytes // MIB}M"]
        if self.backend == "private":
            return ["-machine", machine, *size]
        if self.backend == "numa":
            half = self.size_bytes // 2
            first = f"memory-backend-ram,id=node0,size={half}"
            second = f"memory-backend-memfd,id=node1,size={half},share=on"
            nodes = ["-numa", "node,memdev=node0", "-numa", "node,memdev=node1"]
            return ["-machine", machine, *size, "-object", first, "-object", second, *nodes]
        kind = "memfd" if self.backend == "memfd" else "file"
        backend = f"memory-backend-{kind},id=ram,size={self.size_bytes},share=on"
        if ram_file is not None:
            backend += f",mem-path={ram_file}"
        return ["-machine", f"{machine},memory-backend=ram", *size, "-object", backend]

    def _kernel_command_line(self) -> str:
        # panic=-1 and reboot=t turn a panic into a triple fault, which -no-reboot turns into
        # the end of QEMU, so that a broken guest is noticed at once.
        return (
            "console=ttyS0 quiet panic=-1 reboot=t mitigations=off "
            f"PC_RANDOM_MB={self.random_mb} PC_ZEROS_MB={self.zeros_mb} "
            f"PC_CHECK_EVERY_S={self.check_every_s}"
        )
