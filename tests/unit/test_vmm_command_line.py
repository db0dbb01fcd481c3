"""What the command lines of VMMs say: RAM blocks, control sockets, names."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck.vmm.options.command_line import command_line_of, read_command_line
from pagecheck.vmm.options.programs import vmm_of
from pagecheck.vmm.options.ram_options import (
    CommandLine,
    ControlSocket,
    RamOption,
    key_values,
    options,
    size_bytes,
)
from pagecheck.vmm.process.memory import ProcessMemory

MIB = 1 << 20
GIB = 1 << 30


def read(line: str, program: str = "") -> CommandLine:
    return read_command_line(program, shlex.split(line))


@pytest.mark.parametrize(
    ("program", "word", "vmm"),
    [
        ("/usr/bin/qemu-system-x86_64", "", "QEMU"),
        ("/usr/bin/qemu-system-x86_64 (deleted)", "", "QEMU"),
        ("/nix/store/q/bin/.qemu-system-x86_64-wrapped", "qemu", "QEMU"),
        ("", "/usr/libexec/qemu-kvm", "QEMU"),
        ("", "/usr/bin/kvm", "QEMU"),
        ("/usr/bin/qemu-img", "qemu-img", ""),
        ("/usr/bin/qemu-storage-daemon", "qemu-storage-daemon", ""),
        ("/opt/cloud-hypervisor-static", "", "Cloud Hypervisor"),
        ("/firecracker", "/firecracker", "Firecracker"),
        ("/opt/firecracker-v1.12.0-x86_64", "", "Firecracker"),
        ("/usr/bin/crosvm", "crosvm", "crosvm"),
        ("/usr/lib/virtualbox/VBoxHeadless", "", "VirtualBox"),
        ("/usr/lib/virtualbox/VBoxSVC", "", ""),
        ("/usr/bin/python3", "qemu-system-x86_64", "QEMU"),
        ("/usr/bin/python3", "python3", ""),
        ("", "", ""),
    ],
)
def test_a_vmm_is_known_by_its_program(program: str, word: str, vmm: str) -> None:
    assert vmm_of(program, [word]) == vmm


def test_no_words_at_all_say_nothing() -> None:
    assert read_command_line("", []) == CommandLine("")


@pytest.mark.parametrize(
    ("text", "unit", "size"),
    [
        ("256", "m", 256 * MIB),
        ("256M", "m", 256 * MIB),
        ("4g", "b", 4 * GIB),
        ("1.5G", "b", 3 * GIB // 2),
        ("4194304k", "m", 4 * GIB),
        ("0x1000", "b", 4096),
        ("512MiB", "b", 512 * MIB),
        ("268435456", "b", 256 * MIB),
        ("", "m", None),
        ("much", "m", None),
        ("1..5G", "m", None),
        ("-1", "m", None),
        ("²", "m", None),
        ("9" * 5000, "m", None),  # more digits than Python converts
        ("9" * 400 + ".5", "m", None),
        ("8E", "b", None),
    ],
)
def test_sizes(text: str, unit: str, size: int | None) -> None:
    assert size_bytes(text, unit) == size


def test_keys_and_values() -> None:
    found = key_values("socket,id=a,path=/run/x,,y,server,nowait", "backend")
    assert found.pop("backend") == "socket"
    assert found.pop("nowait") == "on"
    assert found == {"id": "a", "path": "/run/x,y", "server": "on", "wait": "off"}
    found = key_values('{"qom-type":"x","size":4096,"share":true}')
    assert found == {"qom-type": "x", "size": "4096", "share": "on"}


@pytest.mark.parametrize("text", ["", "{", "[1]", "{]}", ",", ",,", "=", "{" * 100_000])
def test_nonsense_has_no_keys_that_matter(text: str) -> None:
    assert not {"id", "size"} & key_values(text).keys()


def test_options_take_the_next_word() -> None:
    words = shlex.split("-S -m 1G disk.img --zone a b --id=x -append '-m 2G' -h")
    found = options(words, many=frozenset({"zone"}), any_word=frozenset({"append"}))
    assert list(found) == [
        *[("S", ""), ("m", "1G"), ("zone", "a"), ("zone", "b"), ("id", "x")],
        *[("append", "-m 2G"), ("h", "")],
    ]


@pytest.mark.parametrize(
    ("line", "name", "size"),
    [
        ("", "pc.ram", 128 * MIB),
        ("-m 256M", "pc.ram", 256 * MIB),
        ("-m 256", "pc.ram", 256 * MIB),
        ("-m size=1048576k,slots=16,maxmem=1099511627776k", "pc.ram", GIB),
        ("-M microvm -m 256M", "microvm.ram", 256 * MIB),
        ("-machine virt-9.0,gic-version=3 -m 1G", "mach-virt.ram", GIB),
        ("-machine type=q35,accel=kvm -m 1G", "pc.ram", GIB),
        ("-m 1G -m 2G", "pc.ram", 2 * GIB),
        ("-append '-m 4G' -m 1G", "pc.ram", GIB),
    ],
)
def test_plain_ram_of_qemu(line: str, name: str, size: int) -> None:
    found = read(f"qemu-system-x86_64 {line}")
    assert found.ram == (RamOption(name, size, is_shared=False),)
    assert found.is_default == (not line)


def test_a_domain_as_libvirt_starts_it() -> None:
    found = read(
        "/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -S "
        """-object '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/x"}' """
        "-machine pc-q35-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram "
        "-accel kvm -m size=4194304k "
        """-object '{"qom-type":"memory-backend-ram","id":"pc.ram","size":4294967296}' """
        "-uuid 0 -no-user-config -nodefaults "
        "-chardev socket,id=charmonitor,fd=25,server=on,wait=off "
        "-mon chardev=charmonitor,id=monitor,mode=control "
        "-chardev socket,id=agent,path=/run/agent,server=on,wait=off"
    )
    assert found.vmm == "QEMU"
    assert found.name == "web"
    assert found.ram == (RamOption("pc.ram", 4 * GIB, is_shared=False),)
    assert found.ram_bytes == 4 * GIB
    assert found.sockets == (ControlSocket("qmp", "", 25),)
    assert found.confidential == ""


def test_a_domain_with_numa_nodes_and_a_dimm() -> None:
    found = read(
        "qemu-system-x86_64 -m size=2G,slots=2,maxmem=8G "
        """-object '{"qom-type":"memory-backend-memfd","id":"ram-node0","share":true,"""
        """"size":1073741824}' """
        "-numa node,nodeid=0,cpus=0,memdev=ram-node0 "
        """-object '{"qom-type":"memory-backend-ram","id":"ram-node1","size":1073741824}' """
        "-numa node,nodeid=1,cpus=1,memdev=ram-node1 "
        "-object memory-backend-file,id=dimm0,size=512M,mem-path=/dev/hugepages "
        """-device '{"driver":"pc-dimm","memdev":"dimm0","id":"d0"}' """
        "-object memory-backend-ram,id=unused,size=1G"
    )
    assert found.ram == (
        RamOption("ram-node0", GIB, is_shared=True),
        RamOption("ram-node1", GIB, is_shared=False),
        RamOption("dimm0", 512 * MIB, is_shared=False),
    )


def test_a_vm_as_proxmox_starts_it() -> None:
    found = read(
        "/usr/bin/kvm -id 100 -name 'vm100,debug-threads=on' -no-shutdown "
        "-chardev 'socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off' "
        "-mon 'chardev=qmp,mode=control' "
        "-chardev 'socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect=5' "
        "-mon 'chardev=qmp-event,mode=control' -m 2048 -readconfig /usr/share/q35.cfg"
    )
    assert found.name == "vm100"
    assert found.ram == (RamOption("pc.ram", 2 * GIB, is_shared=False),)
    assert found.sockets == (ControlSocket("qmp", "/var/run/qemu-server/100.qmp"),)


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("-qmp unix:/run/a,server=on,wait=off", ["/run/a"]),
        ("-qmp unix:/run/a,server,nowait -qmp-pretty unix:b,server", ["/run/a", "b"]),
        ("-qmp unix:/run/a,,b,server=on", ["/run/a,b"]),
        ("-qmp unix:/run/a", []),  # QEMU connects there
        ("-qmp stdio -qmp tcp:localhost:4444,server", []),
        ("-monitor unix:/run/hmp,server", []),
        ("-chardev socket,id=c,path=/run/c,server=on -mon c,mode=control", ["/run/c"]),
        ("-chardev socket,id=c,path=/run/c,server=on -qmp chardev:c", ["/run/c"]),
        ("-chardev socket,id=c,path=/run/c,server=on -mon c", []),
        ("-chardev socket,id=c,path=/run/c,server=off -mon c,mode=control", []),
        ("-mon missing,mode=control", []),
    ],
)
def test_monitors_of_qemu(line: str, paths: list[str]) -> None:
    assert [each.path for each in read(f"qemu-kvm {line}").sockets] == paths


def test_mem_path_is_private() -> None:
    found = read("qemu-kvm -m 1G -mem-path /dev/hugepages -mem-prealloc")
    assert found.ram == (RamOption("pc.ram", GIB, is_shared=False),)


def test_a_size_that_is_in_a_file_is_not_taken_for_the_default() -> None:
    assert read("qemu-kvm -readconfig vm.cfg").ram == ()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("-object sev-guest,id=s -machine memory-encryption=s", "s"),
        ("-machine q35,confidential-guest-support=sev0", "sev0"),
        ("""-object '{"qom-type":"tdx-guest","id":"t"}'""", "tdx-guest"),
        ("-object sev-snp-guest,id=s", "sev-snp-guest"),
        ("-m 1G", ""),
    ],
)
def test_confidential_vms_of_qemu(line: str, word: str) -> None:
    assert read(f"qemu-kvm {line}").confidential == word


@pytest.mark.parametrize(
    ("line", "ram"),
    [
        ("--kernel k", [RamOption("ram", 512 * MIB)]),
        ("--kernel k --memory size=4G", [RamOption("ram", 4 * GIB)]),
        ("--kernel k --memory=size=4G,shared=on", [RamOption("ram", 4 * GIB, is_shared=True)]),
        (
            "--kernel k --memory size=1G,hotplug_method=virtio-mem,hotplug_size=2G",
            [RamOption("ram", GIB), RamOption("ram-virtio-mem", 2 * GIB)],
        ),
        (
            "--kernel k --memory size=0 --memory-zone id=a,size=1G id=b,size=2G,file=/x,shared=on",
            [RamOption("a", GIB), RamOption("b", 2 * GIB, is_shared=True)],
        ),
        ("--api-socket /run/ch", []),
        ("--restore source_url=file:///snap", []),
    ],
)
def test_ram_of_cloud_hypervisor(line: str, ram: list[RamOption]) -> None:
    assert list(read(f"cloud-hypervisor {line}").ram) == ram


@pytest.mark.parametrize(
    ("line", "socket"),
    [
        ("--api-socket /run/ch", ("/run/ch", -1)),
        ("--api-socket path=/run/ch", ("/run/ch", -1)),
        ("--api-socket fd=5", ("", 5)),
    ],
)
def test_sockets_of_cloud_hypervisor(line: str, socket: tuple[str, int]) -> None:
    assert read(f"cloud-hypervisor {line}").sockets == (ControlSocket("ch", *socket),)


def test_confidential_vms_of_cloud_hypervisor() -> None:
    assert read("cloud-hypervisor --platform tdx=on").confidential == "tdx"
    assert read("cloud-hypervisor --platform sev_snp=off,uuid=x").confidential == ""


def test_firecracker_by_its_api() -> None:
    found = read("/firecracker --id=vm7 --start-time-us 5 --api-sock /run/fc.sock")
    assert found == CommandLine("Firecracker", "vm7", (), (ControlSocket("fc", "/run/fc.sock"),))
    assert read("firecracker").sockets == (ControlSocket("fc", "/run/firecracker.socket"),)


@pytest.mark.parametrize(
    ("text", "size", "is_default"),
    [
        ('{"machine-config": {"mem_size_mib": 1024}}', GIB, False),
        ('{"machine-config": {}}', 128 * MIB, True),
        ("{}", 128 * MIB, True),
        ("[]", 0, False),
        ("{", 0, False),
        ('{"machine-config": {"mem_size_mib": -5}}', 0, False),
        ('{"machine-config": {"mem_size_mib": "5"}}', 0, False),
        ('{"machine-config": 5}', 0, False),
        (None, 0, False),
    ],
)
def test_firecracker_by_its_file(text: str | None, size: int, *, is_default: bool) -> None:
    words = ["firecracker", "--no-api", "--config-file", "vm.json"]
    found = read_command_line("", words, lambda path: text if path == "vm.json" else None)
    assert found.ram_bytes == size
    assert found.is_default == is_default
    assert found.sockets == ()


def started(at: Path, *words: str) -> CommandLine:
    """What is read of a process with these words, started in a folder."""
    code = "print(flush=True); input()"
    with subprocess.Popen(
        ["firecracker", "-c", code, *words],
        executable=sys.executable,
        cwd=at,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        with ProcessMemory(child.pid) as process:
            found = command_line_of(process)
        child.kill()
    return found


def test_the_file_is_found_from_the_folder_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "vm.json").write_text('{"machine-config": {"mem_size_mib": 64}}')
    assert started(tmp_path, "--config-file", "vm.json").ram_bytes == 64 * MIB
    assert started(tmp_path, "--config-file", f"{tmp_path}/vm.json").ram_bytes == 64 * MIB


def test_what_is_not_a_file_says_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("pipe", "/dev/zero", "missing", "."):
        assert started(tmp_path, "--config-file", path).ram == ()


@pytest.mark.parametrize(
    "line",
    [
        "qemu-kvm -m {0}",
        "qemu-kvm -m {0}.5",
        "qemu-kvm -m 1G -chardev socket,id=c,server=on,fd={0} -mon c,mode=control",
        "qemu-kvm -m 1G -chardev socket,id=c,server=on,fd=-1 -mon c,mode=control",
        "cloud-hypervisor --api-socket fd={0} --memory size={0}",
        "crosvm run --mem {0}",
        "qemu-kvm -machine memory-backend=a "
        """-object '{{"qom-type":"memory-backend-ram","id":"a","size":{0}}}'""",
    ],
)
def test_numbers_of_any_length_are_only_not_understood(line: str) -> None:
    """Any process may have any words, and one of them must not end a list of VMs."""
    found = read(line.format("9" * 5000))
    assert found.ram_bytes in (0, GIB)
    assert found.sockets == ()


def test_a_file_with_a_number_of_any_length() -> None:
    for digits in (30, 4200, 5000):
        text = f'{{"machine-config": {{"mem_size_mib": {"9" * digits}}}}}'
        words = ["firecracker", "--config-file", "x"]
        assert read_command_line("", words, lambda _path, text=text: text).ram == ()


@given(
    words=st.lists(st.text()),
    program=st.sampled_from(["qemu-kvm", "cloud-hypervisor", "crosvm", "firecracker", "VBoxSDL"]),
)
def test_any_words_are_read(words: list[str], program: str) -> None:
    read_command_line("", [program, *words], lambda path: path)


@given(
    option=st.sampled_from(["-m", "-object", "-chardev", "-mon", "-numa", "-machine", "-name"]),
    value=st.text(alphabet='{}[]":,=.0123456789eE-xkMid', max_size=60),
)
def test_any_value_is_read(option: str, value: str) -> None:
    read_command_line("", ["qemu-kvm", option, value, "-device", value])


def test_crosvm() -> None:
    found = read("crosvm run --mem size=512 --name vm -s /run/crosvm.sock bzImage")
    assert found.ram == (RamOption("crosvm_guest", 512 * MIB, is_shared=True),)
    assert found.name == "vm"
    assert found.sockets == (ControlSocket("crosvm", "/run/crosvm.sock"),)
    assert read("crosvm run -m 256 --protected-vm k").confidential == "protected-vm"


def test_virtualbox() -> None:
    assert read("VBoxHeadless --comment web --startvm 1-2-3 --vrde config").name == "web"
    assert read("VirtualBoxVM --startvm 1-2-3").name == "1-2-3"
