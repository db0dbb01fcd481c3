"""The page of `survey --html` before a browser has it: what is in it, and that it is closed."""

import base64
import hashlib
import json
import re

import pytest

from pagecheck.survey.report import FIELDS, page, page_of_some
from pagecheck.survey.run import Summary
from pagecheck.survey.tables import save_bytes
from pagecheck.survey.values import Row, row_of_error

ROW = Row("/snapshots/a.ram", 1 << 20, 65536, 256, 200, 50, 56, 0, 0.25, bytes_checked=843776)


def page_of(*rows: Row) -> str:
    return page(Summary(rows, 1.5, "2 channels", 0))


def data_of(page: str) -> dict:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert not re.search("[^\x20-\x7e]|[<>&]", data)
    return json.loads(data)


def test_a_row_is_there_with_what_a_save_would_weigh() -> None:
    (values,) = data_of(page_of(ROW))["rows"]
    row = dict(zip(FIELDS, values, strict=True))
    assert row == {
        **{name: getattr(ROW, name) for name in FIELDS if hasattr(ROW, name)},
        "save": save_bytes(ROW),
        "checked": 843776,
        "picture": None,
        "grown": None,
    }


@pytest.mark.parametrize("text", ["</script><b>", "\u2028", "\udcff", "\u202e", "&lt;", "<!--"])
def test_nothing_from_outside_is_markup(text: str) -> None:
    def made(text: str) -> str:
        rows = [ROW._replace(path=text, note=text), row_of_error(text, text)]
        return page_of_some(rows, runner=text)

    assert re.findall("<[^ >]*", made(text)) == re.findall("<[^ >]*", made("x"))
    assert made(text).encode()
    assert len(data_of(made(text))["rows"]) == 2


def test_the_policy_allows_the_script_and_the_style_of_the_page_and_nothing_else() -> None:
    page = page_of(ROW)
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', page)
    allowed = {}
    for name in ("style", "script"):
        (text,) = re.findall(f"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[f"{name}-src"] = f"'sha256-{digest}'"
    allowed |= dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")
    assert dict(each.split(" ", 1) for each in policy.split("; ")) == allowed
    assert not re.search(r"""\b(on\w+|style|src|href)\s*=|https?:(?!//www\.w3\.org/)""", page)


def test_a_picture_is_there() -> None:
    (values,) = data_of(page_of(ROW._replace(picture="fcg ")))["rows"]
    assert values[FIELDS.index("picture")] == "fcg "
