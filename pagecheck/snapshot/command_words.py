"""A QEMU command line as words that can be changed one at a time: what is not changed stays as the
user wrote it.

Facts: an option is `-name` or `--name`, its value is the next word; some options have none, and the
value of some may begin with a dash. A word beside the options is the path of a disk. Commas in
values are doubled. `-machine` may be given several times, and later keys count.
Source: qemu-options.hx and lookup_opt() in softmmu/vl.c of QEMU 7.2; system/vl.c.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pagecheck.vmm.options.ram_options import key_values, parts

# Options whose value may begin with a dash; of all others such a word is the next option.
_ANY_VALUE: Final = frozenset({"append", "name", "fw_cfg", "smbios"})
# Options without a value, so that the word after them is a disk, or the next option.
_WITHOUT_VALUE: Final = frozenset(
    {
        *("S", "alt-grab", "audio-help", "ctrl-grab", "curses", "daemonize", "enable-fips"),
        *("enable-kvm", "enable-sync-profile", "full-screen", "h", "help", "mem-prealloc"),
        *("no-acpi", "no-fd-bootchk", "no-hpet", "no-kvm", "no-quit", "no-reboot", "no-shutdown"),
        *("no-user-config", "nodefaults", "nographic", "old-param", "one-insn-per-tb"),
        *("only-migratable", "portrait", "preconfig", "sdl", "semihosting", "show-cursor"),
        *("singlestep", "snapshot", "usb", "version", "win2k-hack", "xen-attach"),
        "xen-domid-restrict",
    }
)
DISK: Final = "hda"  # what a word beside the options is short for
MACHINE: Final = ("machine", "M")


class Option(NamedTuple):
    """One option of a command line.

    Attributes:
        name: without dashes; "hda" for a word beside the options.
        value: its value, empty where it has none.
        at: index of its word.
        value_at: index of its value's word, which is the option's for a word beside the options;
            None where it has no value.
    """

    name: str
    value: str
    at: int
    value_at: int | None

    def keys(self, first: str = "") -> dict[str, str]:
        """Its value as keys; see `key_values`."""
        return key_values(self.value, first)

    def block_file(self) -> str:
        """The file that a -blockdev names, itself or in the node that it holds; empty: none."""
        keys = self.keys("driver")
        inner = keys.get("file", "")
        inside = key_values(inner).get("filename", "") if inner.startswith("{") else ""
        return keys.get("filename") or keys.get("file.filename") or inside


def split(words: list[str]) -> list[Option]:
    """The options of a command line.

    Args:
        words: all of it, the program first.
    """
    found = []
    at = 1
    while at < len(words):
        word = words[at]
        if not word.startswith("-") or word == "-":
            found.append(Option(DISK, word, at, at))
            at += 1
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        has_value = name not in _WITHOUT_VALUE and at + 1 < len(words)
        if has_value and words[at + 1].startswith("-") and len(words[at + 1]) > 1:
            has_value = name in _ANY_VALUE
        if has_value:
            found.append(Option(name, words[at + 1], at, at + 1))
        else:
            found.append(Option(name, "", at, None))
        at += 2 if has_value else 1
    return found


def named(words: list[str], *names: str) -> list[Option]:
    """The options of these names, in order."""
    return [each for each in split(words) if each.name in names]


def replaced(words: list[str], option: Option, value: str) -> list[str]:
    """The words with another value of an option that has one."""
    assert option.value_at is not None
    return [*words[: option.value_at], value, *words[option.value_at + 1 :]]


def without(words: list[str], dropped: list[Option]) -> list[str]:
    """The words without these options and their values."""
    gone = {each.at for each in dropped} | {each.value_at for each in dropped}
    return [word for at, word in enumerate(words) if at not in gone]


def escaped(value: str) -> str:
    """A value of a key as it is written on a command line."""
    return value.replace(",", ",,")


def with_keys(text: str, **keys: str) -> str:
    """An option's value with these keys set: each in its place where it has one, else at the end.

    Args:
        text: such as "file=a.qcow2,if=virtio"; not JSON.
        keys: values are escaped here; `_` in a key stands for a dash.
    """
    wanted = {key.replace("_", "-"): value for key, value in keys.items()}
    made = []
    for part in parts(text):
        key, equals, _ = part.partition("=")
        if equals and key in wanted:
            made.append(f"{key}={escaped(wanted.pop(key))}")
        elif part:
            made.append(escaped(part))
    return ",".join([*made, *(f"{key}={escaped(value)}" for key, value in wanted.items())])
