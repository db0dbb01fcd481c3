"""Shell completion, by click's: commands, options, and the running VMs as sources.

Facts: bash takes a colon for the end of a word, so that it passes `pid:47` as three words and
replaces the last alone; zsh's `_describe` ends a value at a colon. Danger: a completion that prints
an error or waits disturbs who is typing; a path that needs quotes would be inserted without.
Decision: an error completes nothing, and such a path is left out.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from typing import Any, Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ZshComplete,
    add_completion_class,
    shell_complete,
    split_arg_string,
)

from pagecheck.model import VM_KINDS

_VARIABLE: Final = "_PAGECHECK_COMPLETE"  # click's name for it
_PREFIXES: Final = tuple(f"{kind}:" for kind in VM_KINDS)
# No comma, at which the scripts of bash and fish end a value.
_PLAIN: Final = re.compile(r"[\w@%+=:./-]+", re.ASCII)
_NAME_CHARS: Final = 40


def run(cli: click.Command, instruction: str) -> int:
    """Prints a shell's script, or completions for it.

    Args:
        cli: the whole command line.
        instruction: the value of _PAGECHECK_COMPLETE, such as "bash_source".

    Returns:
        The exit code.
    """
    add_completion_class(_Bash)
    add_completion_class(_Zsh)
    with contextlib.suppress(Exception):
        return shell_complete(cli, {}, "pagecheck", _VARIABLE, instruction)
    return 1


def complete_source(incomplete: str) -> list[CompletionItem[Any]]:
    """What a source that is not typed to its end can be: a running VM that this user may read, or
    a file."""
    files = [CompletionItem(incomplete, type="file")]
    if incomplete.startswith(_PREFIXES):
        return _vms(incomplete)
    if not incomplete or not any(each.startswith(incomplete) for each in _PREFIXES):
        return files
    if glob.glob(glob.escape(incomplete) + "*"):
        return files
    return _vms(incomplete) or files


def _vms(incomplete: str) -> list[CompletionItem[Any]]:
    with contextlib.suppress(Exception):
        from pagecheck.vmm.find.listing import list_vms

        return [
            CompletionItem(source, help=_help(vm))
            for vm in list_vms()
            if vm.readable
            for source in vm.sources
            if source.startswith(incomplete) and _PLAIN.fullmatch(source)
        ]
    return []


def _help(vm: Any) -> str:
    from pagecheck.cli.present import size_text
    from pagecheck.printable import printable

    size = "" if vm.ram_bytes is None else f" {size_text(vm.ram_bytes)}"
    name = f" {printable(vm.name, _NAME_CHARS)}" if vm.name else ""
    return f"{vm.vmm}{name}{size}".replace(",", " ")


class _Bash(BashComplete):
    """Puts together again what bash takes apart at colons."""

    _kept = ""  # what bash keeps of the word that is typed

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is typed, and that one until the cursor."""
        count = int(os.environ["COMP_CWORD"]) + 1
        words: list[str] = []
        after_colon = False
        for word in [*split_arg_string(os.environ["COMP_WORDS"]), ""][:count]:
            is_colon = set(word) == {":"}
            if words and (is_colon or after_colon):
                words[-1] += word
                self._kept = words[-1][: words[-1].rfind(":") + 1]
            else:
                words.append(word)
                self._kept = ""
            after_colon = is_colon
        return words[1:-1], words[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """One line of the answer: what comes after that."""
        return f"{item.type},{item.value.removeprefix(self._kept)}"


class _Zsh(ZshComplete):
    """Escapes colons, as click does since 8.2."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Three lines of the answer."""
        value = item.value.replace(":", r"\:") if item.help else item.value
        return f"{item.type}\n{value}\n{item.help or '_'}"
