"""Writes docs/python-api.md from docstrings: `python -m tools.python_api`, `--check` only checks.

Nothing is imported: names, signatures and docstrings are the source's, so that the page is
the same whichever Python makes it.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Final

from tools.generated import ROOT, write_or_check

PAGE: Final = ROOT / "docs" / "python-api.md"
HEAD: Final = """# Python API

Generated from the docstrings by `python -m tools.python_api`; do not edit. Importing `pagecheck`
loads nothing; each name is loaded when it is first used. The [README](../README.md#from-python) has
examples.
"""
# Names, and where each is defined; behind a colon a base class whose methods it has.
CALLS: Final = {
    "scan": ("oneshot.py",),
    "restore": ("snapshot/restore.py",),
    "clone": ("snapshot/clone.py",),
    "Clones": ("snapshot/clone.py",),
    "save": ("snapshot/save.py",),
    "punch": ("snapshot/punch.py",),
    "verify": ("snapshot/verify.py",),
    "info": ("snapshot/info.py",),
    "survey": ("survey/api.py",),
    "list_vms": ("vmm/find/listing.py",),
    "explain": ("vmm/find/explain.py",),
    "Coordinator": ("coordinator/coordinator.py",),
    "Client": (
        "service/client.py",
        "service/block_requests.py:BlockRequests",
        "service/requests.py:Requests",
    ),
    "RemoteChannel": ("service/remote_channel.py",),
}
VALUES: Final = {
    "Report": ("report/report.py",),
    "BlockReport": ("report/report.py",),
    "Counts": ("model.py",),
    "Pause": ("model.py",),
    "ChannelReport": ("report/statistics.py",),
    "Statistics": ("report/statistics.py",),
    "Failure": ("report/statistics.py",),
    "Answer": ("report/report.py",),
    "RestoreReport": ("snapshot/restore.py",),
    "CloneReport": ("snapshot/clone.py",),
    "LaidOut": ("snapshot/ram_layout.py",),
    "SaveReport": ("snapshot/save_report.py",),
    "PunchReport": ("snapshot/punch_report.py",),
    "PunchedBlock": ("snapshot/punch_report.py",),
    "VerifyReport": ("snapshot/verify.py",),
    "Snapshot": ("snapshot/values.py",),
    "SnapshotBlock": ("snapshot/values.py",),
    "GuestRange": ("snapshot/values.py",),
    "FileEntry": ("snapshot/values.py",),
    "Compression": ("snapshot/values.py",),
    "Machine": ("snapshot/values.py",),
    "Disk": ("snapshot/values.py",),
    "Summary": ("survey/run.py",),
    "Row": ("survey/values.py",),
    "Block": ("coordinator/block.py",),
    "RamBlock": ("model.py",),
    "Region": ("model.py",),
    "RunningVm": ("vmm/find/listing.py",),
    "ExplainedMapping": ("vmm/find/explain.py",),
    "Attached": ("service/replies.py",),
    "RemoteBlock": ("service/replies.py",),
    "UnreadableBlock": ("service/replies.py",),
    "Checked": ("service/replies.py",),
}
ALIASES: Final = ("coordinator/settings.py", "model.py", "coordinator/scan.py")
ERRORS: Final = "errors.py"
MADE: Final = ("Coordinator", "Client")  # by the caller; the constructors of others are internal
INTERNAL: Final = {
    *("taking_over", "with_settings"),
    *(
        "scan_block",
        "execute",
        "own",
        "require_own",
        "require_trusted",
        "require_capability",
    ),
    *("is_same_process", "require_same_process"),
}
LISTS: Final = ("Args", "Raises", "Attributes")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, names in (("Functions and classes", CALLS), ("What they return", VALUES)):
        parts.append(f"## {title}\n")
        for name, places in names.items():
            parts += _entry(name, places)
    parts += ["## Types of arguments and fields\n", "```python", *_aliases(), "```\n"]
    parts += ["## Errors\n", *_errors()]
    return "\n".join(parts)


def _body(path: str) -> list[ast.stmt]:
    return ast.parse((ROOT / "pagecheck" / path).read_text(), filename=path).body


def _entry(name: str, places: tuple[str, ...]) -> Iterator[str]:
    """A function; or a class with its fields, its constructor, and its methods."""
    yield f"### {name}\n"
    methods = []
    for path, _, base in (place.partition(":") for place in places):
        (found,) = (one for one in _body(path) if getattr(one, "name", "") == (base or name))
        if isinstance(found, ast.FunctionDef):
            yield from _function(path, name, found)
        if isinstance(found, ast.ClassDef):
            fields = [_text(path, one) for one in found.body if isinstance(one, ast.AnnAssign)]
            fields = [field for field in fields if not field.startswith("_")]
            if fields:
                yield _code(re.sub(r" = field\(.*|  #.*", "", "\n".join(fields)))
            if not base:
                yield _markdown(found)
            methods += [(path, one) for one in found.body if isinstance(one, ast.FunctionDef)]
    for path, method in sorted(methods, key=lambda each: each[1].name != "__init__"):
        if method.name == "__init__" and name in MADE:
            yield from _function(path, name, method)
        elif _is_shown(name, method):
            yield f"#### {name}.{method.name}\n"
            yield from _function(path, method.name, method)


def _is_shown(name: str, method: ast.FunctionDef) -> bool:
    """Whether a method is for callers; other methods of values serve the package only."""
    if method.name.startswith("_") or method.name in INTERNAL:
        return False
    return name in CALLS or method.name == "to_json" or _is_property(method)


def _is_property(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(one, ast.Name) and one.id == "property" for one in function.decorator_list
    )


def _function(path: str, name: str, function: ast.FunctionDef) -> Iterator[str]:
    """Its signature as it is written, without `self`; a property's type; the docstring."""
    lines = (ROOT / "pagecheck" / path).read_text().split("\n")
    text = textwrap.dedent("\n".join(lines[function.lineno - 1 : function.body[0].lineno - 1]))
    text = text.removeprefix(f"def {function.name}").removesuffix(":").removesuffix(" -> None")
    text = re.sub(r"(\(\s*)self\b(,\s*)?", r"\1", text, count=1)
    text = re.sub(r"(?<= = )[A-Z][A-Z_]+\b", lambda found: _constant(path, found[0]), text)
    if _is_property(function):
        text = text.replace("() -> ", ": ")
    yield _code(name + text)
    yield _markdown(function)


def _constant(path: str, name: str) -> str:
    """The value of a constant, as it is written where it is defined."""
    for one in _body(path):
        if isinstance(one, ast.ImportFrom) and name in [alias.name for alias in one.names]:
            return _constant(
                f"{str(one.module).removeprefix('pagecheck.').replace('.', '/')}.py", name
            )
        if isinstance(one, ast.AnnAssign) and one.value and _text(path, one.target) == name:
            return _text(path, one.value)
    raise ValueError(f"{path}: no {name}")


def _aliases() -> Iterator[str]:
    for path in ALIASES:
        for one in _body(path):
            text = _text(path, one)
            if re.match(r"[A-Z]\w+ = (Literal|Callable)\[", text):
                yield text


def _errors() -> Iterator[str]:
    """Each class, its base class, and the program's exit status."""
    codes: dict[str, str] = {}
    yield "All are in `pagecheck.errors`; `PagecheckError` is also `pagecheck.PagecheckError`.\n"
    yield "| error | is a | exit status | when |\n|---|---|---:|---|"
    for error in _body(ERRORS):
        if isinstance(error, ast.ClassDef):
            base = _text(ERRORS, error.bases[0])
            own = [_text(ERRORS, one.value) for one in error.body if isinstance(one, ast.Assign)]
            codes[error.name] = own[0] if own else codes[base]
            when = " ".join((ast.get_docstring(error) or "").partition("\n\n")[0].split())
            yield f"| `{error.name}` | `{base}` | {codes[error.name]} | {when} |"
    yield ""


def _text(path: str, node: ast.AST) -> str:
    source = (ROOT / "pagecheck" / path).read_text()
    return ast.get_source_segment(source, node) or ""


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _markdown(documented: ast.FunctionDef | ast.ClassDef) -> str:
    """A docstring in Google's style; its sections become lists or paragraphs."""
    lines: list[str] = []
    section = ""
    for line in (ast.get_docstring(documented) or "").split("\n"):
        title = re.fullmatch(r"([A-Z]\w+):( .*)?", line)
        if title is not None:
            section = title[1]
            lines += ["", f"**{section}:**{title[2] or ''}", ""]
        elif section in LISTS and line.startswith("    "):
            lines.append(f"  {line.strip()}" if line.startswith("     ") else f"- {line.strip()}")
        else:
            lines.append(line.strip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check("tools.python_api", __doc__, PAGE, lambda _old: page()))
