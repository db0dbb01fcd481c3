"""Web servers, of which no two are alike, and stores that prove nothing by themselves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecheck import Coordinator
from pagecheck.errors import SourceError
from pagecheck.survey.stores import Objects, targets
from pagecheck.survey.stores import web as web_store
from pagecheck.survey.values import Row, Target
from tests.support.command import pagecheck
from tests.support.needs import needs_library
from tests.support.objects import PAGE, QUICK, SHORT, SMALL, checked, mixed_ram, whole
from tests.support.range_server import RangeServer
from tests.support.tls import self_signed

RAM = mixed_ram(100)


@pytest.fixture
def objects(coordinator: Coordinator) -> Objects:
    return Objects(coordinator, SMALL, patience=SHORT)


def error_of(url: str) -> str:
    """Of the only row."""
    (row,) = targets(url, SHORT)
    assert isinstance(row, Row)
    assert row.error is not None
    return row.error


@pytest.mark.parametrize("tags", ["strong", "weak", "none"])
def test_a_file_of_a_web_server(web: RangeServer, objects: Objects, tags: str) -> None:
    web.files["/a/ram"], web.tags = RAM, tags
    (target,) = targets(f"{web.url}/a/ram")
    assert isinstance(target, Target)
    assert target[:4] == (f"{web.url}/a/ram", "object", len(RAM), None)
    assert checked(objects, target, RAM).settled
    conditions = {headers.get("If-Match") for _method, _path, headers in web.seen}
    assert (conditions != {None}) == (tags == "strong")
    web.files["/a/ram"] = RAM[:-1] + b"?"
    if tags != "none":
        with pytest.raises(SourceError, match="was changed"):
            objects.check(whole(target))


def test_without_a_version_nothing_is_resumed(web: RangeServer, objects: Objects) -> None:
    web.files["/ram"], web.tags, web.dates = RAM, "none", False
    (target,) = targets(f"{web.url}/ram")
    assert isinstance(target, Target)
    assert target.identity == ""
    assert not checked(objects, target, RAM).settled
    web.files["/ram"] = RAM + bytes(PAGE)
    with pytest.raises(SourceError, match="was changed"):
        objects.check(whole(target))


def test_a_page_of_links_is_a_folder_and_a_pattern_is_one(web: RangeServer) -> None:
    for name in ("/vm/1.ram", "/vm/2.ram", "/vm/notes"):
        web.files[name] = RAM
    assert [each.path for each in targets(f"{web.url}/vm/")] == [
        f"{web.url}{name}" for name in web.files
    ]
    assert [each.path for each in targets(f"{web.url}/vm/*.ram")] == [
        f"{web.url}/vm/1.ram",
        f"{web.url}/vm/2.ram",
    ]


def test_links_that_sort_or_lead_away_are_not_files(web: RangeServer) -> None:
    web.files["/vm/1.ram"] = RAM
    web.links = ["?C=N;O=D", "../", "..", "/", "http://127.0.0.2/x", "//127.0.0.2/y", "#top"]
    found = [each.path for each in targets(f"{web.url}/vm/")]
    assert f"{web.url}/vm/1.ram" in found
    assert [each for each in found if "127.0.0.2" not in each] == [f"{web.url}/vm/1.ram"]


def test_pages_of_links_that_lead_in_circles_come_to_an_end(web: RangeServer) -> None:
    web.files["/vm/1.ram"] = RAM
    web.links = ["deeper/"]
    found = list(targets(f"{web.url}/vm/"))
    assert f"{web.url}/vm/1.ram" in [each.path for each in found]
    assert len(web.seen) < 200


def test_a_password_and_a_signature_are_used_and_not_shown(
    web: RangeServer, objects: Objects
) -> None:
    web.files["/ram"], web.user = RAM, "me:p%40SECRET".replace("%40", "@")
    url = f"http://me:p%40SECRET@{web.host}/ram?X-Amz-Signature=SECRET&X-Amz-Expires=60"
    (target,) = targets(url)
    assert isinstance(target, Target)
    assert target.path == f"{web.url}/ram"
    assert "SECRET" not in repr(target)
    checked(objects, target, RAM)
    assert all("X-Amz-Signature=SECRET" in path for _method, path, _headers in web.seen)
    web.user = "me:other"
    with pytest.raises(SourceError, match="the store answered 401") as caught:
        objects.check(whole(target))
    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in error_of(url)


def test_neither_rows_nor_logs_nor_the_journal_have_a_secret(
    web: RangeServer, tmp_path: Path
) -> None:
    web.files["/a/ram"], web.user = RAM, "me:SECRET"
    urls = [
        f"http://me:SECRET@{web.host}/a/ram?X-Amz-Signature=SECRET",
        f"{web.url}/a/ram?a=SECRET",
    ]
    urls += [f"http://me:SECRET@{web.host}/a/", f"http://me:SECRET@{web.host}/none?a=SECRET"]
    out = tmp_path / "out"
    done = pagecheck("survey", "-v", "--json", "--out", out, *urls)
    rows = {each["path"]: each["error"] for each in map(json.loads, done.stdout.splitlines())}
    assert rows[f"{web.url}/a/ram"] is None
    assert sorted(error[:23] for error in rows.values() if error) == [
        "is not there (404: Not ",
        "the store answered 401:",
    ]
    files = b"".join(each.read_bytes() for each in out.iterdir())
    assert b"SECRET" not in files + done.stdout.encode() + done.stderr.encode()


def test_a_web_server_that_is_silent_is_asked_again(
    web: RangeServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_store, "QUIET_S", 0.3)
    web.files["/ram"] = RAM
    (target,) = targets(f"{web.url}/ram")
    web.silent = 3
    checked(Objects(coordinator, SMALL, patience=QUICK), target, RAM)
    assert web.silent == 0


def test_what_does_not_serve_ranges_says_so(web: RangeServer, objects: Objects) -> None:
    web.files["/ram"], web.ranges = RAM, False
    (target,) = targets(f"{web.url}/ram")
    with pytest.raises(SourceError, match="does not serve ranges"):
        objects.check(whole(target))
    web.files["/ram"] = small = mixed_ram(3)
    (target,) = targets(f"{web.url}/ram")
    checked(objects, target, small)  # all of it is the range


def test_encoded_bytes_are_not_taken_for_ram(web: RangeServer) -> None:
    web.files["/ram"], web.extra = RAM, {"Content-Encoding": "gzip"}
    assert "sends it encoded (gzip)" in error_of(f"{web.url}/ram")


def test_the_size_that_a_server_claims_is_limited(web: RangeServer) -> None:
    web.files["/ram"], web.extra = RAM, {"Content-Range": f"bytes 0-0/{1 << 62}"}
    assert "more than a survey takes" in error_of(f"{web.url}/ram")


def test_a_certificate_that_nobody_signed_is_said(tmp_path: Path) -> None:
    needs_library("aiohttp", "survey")
    context, _certificate = self_signed(tmp_path)
    with RangeServer(context) as server:
        assert error_of(f"{server.url}/ram").startswith("its certificate is not valid: self")


def test_what_is_missing_empty_or_elsewhere_is_a_row(web: RangeServer) -> None:
    web.files["/empty"] = b""
    assert error_of(f"{web.url}/none").startswith("is not there")
    assert error_of(f"{web.url}/empty") == "is empty"
    assert "connection failed" in error_of("http://127.0.0.1:1/ram")
    assert "certificate" not in error_of(f"https://{web.host}/ram")  # it speaks no TLS


@pytest.fixture
def memory() -> Iterator[Any]:
    needs_library("fsspec", "survey")
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_a_store_of_another_kind(memory: Any, objects: Objects) -> None:
    memory.pipe("/vm/a", RAM)
    memory.pipe("/vm/deep/b", RAM)
    found = list(targets("memory://vm"))
    assert [each.path for each in found] == ["memory:///vm/a", "memory:///vm/deep/b"]
    assert list(targets("memory://vm/a")) == found[:1]
    for target in found:
        checked(objects, target, RAM)
    memory.pipe("/vm/a", RAM)
    with pytest.raises(SourceError, match="was changed since it was listed"):
        objects.check(whole(found[0]))
