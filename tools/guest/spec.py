"""What guest to make: checked values, and the QEMU command line that follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.guest.errors import GuestError
from tools.guest.fetch import GuestFiles

MIB = 1 << 20

# microvm with ACPI hangs under TCG while the guest's kernel calibrates its clock.
MACHINES = {"q35": "q35", "pc": "pc", "microvm": "microvm,acpi=off", "virt": "virt"}
BACKENDS = ("file", "memfd", "devfd", "private", "numa")
PRIVATE_BACKENDS = ("private", "numa")  # no one file holds the RAM

_CPU = "qemu64,+rdrand"  # without it the kernel gathers randomness for a quarter of the boot
_CPUS = {"virt": "cortex-a57"}
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
        disk: image of a virtio disk on which the guest, too, keeps files and checks them and its
            file system; qcow2 where the name ends so, else raw. None: no disk.
        write_mib_s: at which rate the guest changes memory, besides, in MiB/s; it checks that, too.

    Raises:
        GuestError: A value is out of range, or what the guest is to keep does not fit.
    """

    size_bytes: int = 256 * MIB
    machine: str = "q35"
    backend: str = "file"
    random_mb: int = 4
    zeros_mb: int = 4
    check_every_s: float = 0.5
    disk: Path | None = None
    write_mib_s: int = 0

    def __post_init__(self) -> None:
        if self.machine not in MACHINES:
            raise GuestError(f"guest: machine {self.machine!r} is not one of {', '.join(MACHINES)}")
        if self.backend not in BACKENDS:
            raise GuestError(f"guest: backend {self.backend!r} is not one of {', '.join(BACKENDS)}")
        if self.disk is not None and self.machine not in ("q35", "pc"):
            raise GuestError(f"guest: no disk can be had on a {self.machine}; take q35 or pc")
        if self.write_mib_s and (
            self.random_mb < 2 or self.check_every_s != int(self.check_every_s)
        ):
            raise GuestError("guest: write_mib_s needs random_mb of 2 and whole seconds, or more")
        if self.random_mb < 1 or self.zeros_mb < 1:
            raise GuestError("guest: random_mb and zeros_mb must be 1 or more")
        if self.size_bytes % MIB:
            raise GuestError(f"guest: size {self.size_bytes:#x} is not a multiple of {MIB:#x}")
        need_mb = self.random_mb + (self.random_mb + 1) // 2 + self.zeros_mb + 2 + _KERNEL_MIB
        need_mb += 3 * self.random_mb if self.write_mib_s else 0
        if self.size_bytes < need_mb * MIB:
            raise GuestError(
                f"guest: {self.size_bytes // MIB} MiB of RAM is too small; {self.random_mb} MiB "
                f"random and {self.zeros_mb} MiB zeros need {need_mb} MiB"
            )

    def arguments(
        self, files: GuestFiles, ram_file: Path | None, extra: Sequence[str]
    ) -> list[str]:
        """Renders the machine: the QEMU command without its console and monitor.

        Args:
            files: The programs to run.
            ram_file: The file that backs guest RAM; None for a memfd of QEMU's own.
            extra: More arguments for QEMU.

        Returns:
            The argument vector.
        """
        return [
            *(str(files.qemu), "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-accel", "tcg", "-cpu", _CPUS.get(self.machine, _CPU), "-display", "none"),
            *self._memory(ram_file),
            *self._disk(),
            *("-kernel", str(files.kernel), "-initrd", str(files.initramfs)),
            *("-append", self._kernel_command_line()),
            *extra,
        ]

    def _disk(self) -> list[str]:
        if self.disk is None:
            return []
        form = "qcow2" if self.disk.suffix == ".qcow2" else "raw"
        drive = f"if=none,id=disk0,file={self.disk},format={form}"
        return ["-drive", drive, "-device", "virtio-blk-pci,id=virtio-disk0,drive=disk0"]

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
        console = "ttyAMA0" if self.machine == "virt" else "ttyS0"
        return (
            f"console={console} quiet panic=-1 reboot=t mitigations=off "
            f"PC_RANDOM_MB={self.random_mb} PC_ZEROS_MB={self.zeros_mb} "
            f"PC_CHECK_EVERY_S={self.check_every_s} "
            f"PC_DISK={int(self.disk is not None)} PC_WRITE_MIB_S={self.write_mib_s}"
        )
