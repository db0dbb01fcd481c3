"""What clones of one command may not share is found, and refused by name."""

from __future__ import annotations

import shlex

import pytest

from pagecheck.errors import UsageError
from pagecheck.snapshot.separate import numbered, require_separate, shared


def words(line: str) -> list[str]:
    return shlex.split(f"qemu-system-x86_64 {line}")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("-drive file=a.img,if=virtio", "a.img"),
        ("-drive id=disk0,file=a.img", "disk0"),
        ("-drive id=disk1,file.driver=file,file.filename=a.img", "disk1"),
        ("-drive id=disk2,file.driver=nbd,file.host=h,file.port=1", "disk2"),
        ("a.img", "a.img"),
        ("-hda a.img", "a.img"),
        ("-fda a.img", "a.img"),
        ("-pflash vars.fd", "vars.fd"),
        ("-blockdev driver=file,node-name=f,filename=a.img", "f"),
        ("-blockdev driver=qcow2,node-name=q,file.driver=file,file.filename=a.img", "q"),
        ("-blockdev driver=nbd,node-name=b,server.type=unix,server.path=/run/nbd", "b"),
        ("-blockdev driver=raw,node-name=r,file.driver=nbd,file.server.type=unix", "r"),
        ("""-blockdev '{"driver":"file","node-name":"j","filename":"a"}'""", "j"),
        (
            """-blockdev '{"driver":"raw","node-name":"n","file":{"filename":"a"}}'""",
            "n",
        ),
        ("-qmp unix:/run/q,server=on,wait=off", "unix:/run/q,server=on,wait=off"),
        ("-monitor stdio", "stdio"),
        ("-serial mon:stdio", "mon:stdio"),
        ("-serial file:/tmp/log", "file:/tmp/log"),
        ("-gdb tcp::1234", "tcp::1234"),
        ("-chardev socket,id=c,path=/run/c,server=on", "c"),
        ("-chardev file,id=c,path=/tmp/log", "c"),
        ("-pidfile /run/pid", "/run/pid"),
        ("-vnc :1", ":1"),
        ("-D /tmp/log", "/tmp/log"),
        ("-fsdev local,id=fs,path=/srv,security_model=none", "fs"),
        ("-netdev tap,id=net0,ifname=tap0", "net0"),
        ("-netdev bridge,id=net0", "net0"),
        ("-netdev tap,id=net0,ifname=tap{n},script=no", "net0"),
        ("-nic tap", "tap"),
        ("-netdev user,id=net0,hostfwd=tcp::2222-:22", "net0"),
    ],
)
def test_what_would_be_shared_is_named(line: str, name: str) -> None:
    assert [each.name for each in shared(words(line))] == [name]
    with pytest.raises(UsageError) as error:
        require_separate(words(line))
    assert "\n" not in str(error.value)
    assert f"--share {name}" in str(error.value)
    assert require_separate(words(line), allowed=[name]) == []


@pytest.mark.parametrize(
    "line",
    [
        "-drive file=a{n}.img,if=virtio",
        "-drive file=a.img,readonly=on",
        "-drive file=a.img,read-only=on",
        "-drive file=a.iso,media=cdrom",
        "-drive file=a.img,snapshot=on",
        "-drive if=virtio",
        "-cdrom a.iso",
        "-snapshot a.img -drive file=b.img",
        "-blockdev driver=file,node-name=f,filename=a.img,read-only=on",
        "-blockdev driver=raw,node-name=r,file=f",
        "-qmp unix:/run/q{n},server=on,wait=off",
        "-serial none -monitor none -serial null -parallel none",
        "-serial file:/tmp/log{n} -serial pty",
        "-chardev null,id=c -serial chardev:c",
        "-vnc none -display none -nographic",
        "-netdev user,id=net0 -device e1000,netdev=net0",
        "-netdev user,id=net0,hostfwd=tcp::222{n}-:22",
        "-nic none -net none",
        "-kernel vmlinuz -initrd i -append 'x=unix:y' -bios seabios.bin",
    ],
)
def test_what_is_separate_is_taken(line: str) -> None:
    assert require_separate(words(line)) == []


@pytest.mark.parametrize(
    "line",
    [
        "-device vhost-user-blk-pci,chardev=c",
        "-chardev null,id=c -netdev vhost-user,id=n,chardev=c",
        "-netdev type=vhost-user,id=n,chardev=c",
        "-device vfio-pci,host=01:00.0",
        "-device virtio-mem-pci,memdev=m",
        "-device virtio-balloon-pci,free-page-reporting=on",
        "-device virtio-balloon",
        "-device ivshmem-plain,memdev=m",
    ],
)
def test_what_no_two_vms_can_have_is_refused_whatever_is_allowed(line: str) -> None:
    with pytest.raises(UsageError, match="cannot be in clones"):
        require_separate(words(line), allowed=["n", "c", "m"], overlays=True)


def test_overlays_are_for_disks_alone() -> None:
    line = "-drive file=a.img -hdb b.img -drive file=c.img,readonly=on"
    found = require_separate(words(line), overlays=True)
    assert [each.name for each in found] == ["a.img", "b.img"]
    with pytest.raises(UsageError, match="-blockdev f: all clones would write"):
        require_separate(words("-blockdev driver=file,node-name=f,filename=a"), overlays=True)


def test_the_number_stands_in_every_word() -> None:
    made = numbered(["q", "-name", "vm{n}", "-drive", "file={n}/{n}.img", "{m}"], 12)
    assert made == ["q", "-name", "vm12", "-drive", "file=12/12.img", "{m}"]


def test_an_interface_of_its_own_does_not_change_a_mac_address() -> None:
    """All taps may be in one bridge; what says that they are not is the user."""
    with pytest.raises(UsageError) as error:
        require_separate(words("-netdev tap,id=net0,ifname=tap{n}"))
    assert "net0: all clones have the MAC address" in str(error.value)
    assert "write {n}" not in str(error.value)
    assert "say --share net0 if each has a network of its own" in str(error.value)


def test_a_mac_address_with_the_number_would_change_nothing() -> None:
    line = "-netdev user,id=net0 -device e1000,netdev=net0,mac=52:54:00:00:00:0{n}"
    with pytest.raises(UsageError, match=r"-device e1000: \{n\} in its MAC address changes"):
        require_separate(words(line), allowed=["net0"])
