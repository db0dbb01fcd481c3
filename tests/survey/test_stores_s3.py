"""A real S3 server: what is found in it, and what it holds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.errors import SourceError
from pagecheck.survey.stores import Objects, s3, targets
from pagecheck.survey.values import Options, Piece, Row, Target
from tests.support.breaking_proxy import BreakingProxy, closed_after, reset_after, shortened_to
from tests.support.command import pagecheck
from tests.support.objects import (
    PAGE,
    QUICK,
    SMALL,
    checked,
    mixed_ram,
    require_counts,
    whole,
    zero_pages,
)
from tests.support.s3 import PAGE_OF_LISTING, SECRET, Bucket, environment
from tests.support.snapshots import make_snapshot
from tests.support.tls import self_signed


@pytest.fixture
def objects(coordinator: Coordinator) -> Objects:
    return Objects(coordinator, SMALL, patience=QUICK)


def paths(url: str) -> list[str]:
    return [each.path for each in targets(url, QUICK)]


def test_an_object_a_prefix_a_bucket_and_a_pattern(bucket: Bucket) -> None:
    keys = ["a", "vm/1.ram", "vm/2.ram", "vm/deep/3.ram", "vm2/4.ram", "vm/odd name%41+#.ram"]
    for key in keys:
        bucket.put(key, bytes(PAGE))
    bucket.put("vm/", b"")  # what a console makes of a new folder
    whole_bucket = sorted(f"s3://snapshots/{key}" for key in keys)
    below = sorted(f"s3://snapshots/{key}" for key in keys if key.startswith("vm/"))
    assert paths("s3://snapshots") == paths("s3://snapshots/") == whole_bucket
    assert paths("s3://snapshots/vm") == paths("s3://snapshots/vm/") == below
    assert paths("s3://snapshots/vm/1.ram") == ["s3://snapshots/vm/1.ram"]
    assert paths("s3://snapshots/vm/[12].ram") == [
        "s3://snapshots/vm/1.ram",
        "s3://snapshots/vm/2.ram",
    ]
    assert paths("s3://snapshots/vm*") == [*below, "s3://snapshots/vm2/4.ram"]
    literally = bucket.put("odd/[12]", bytes(PAGE))
    bucket.put("odd/1", bytes(PAGE))
    assert paths(literally) == [literally]
    assert paths("s3://snapshots/**/3.ram") == ["s3://snapshots/vm/deep/3.ram"]


def test_a_target_has_its_size_and_its_etag_and_occupies_what_nobody_tells(bucket: Bucket) -> None:
    url = bucket.put("ram", bytes(3 * PAGE))
    (target,) = targets(url)
    assert isinstance(target, Target)
    assert target[:4] == (url, "object", 3 * PAGE, None)
    assert target.identity.startswith('etag:"')
    (again,) = targets(url)
    assert again == target
    bucket.put("ram", bytes(2 * PAGE) + b"x" * PAGE)
    (changed,) = targets(url)
    assert changed.identity != target.identity


def test_more_objects_than_a_page_of_a_listing_has(bucket: Bucket) -> None:
    for number in range(PAGE_OF_LISTING + 1):
        bucket.put(f"many/{number:04}", b"x")
    found = list(targets("s3://snapshots/many"))
    numbers = [int(each.path[-4:]) for each in found]
    assert numbers == list(range(PAGE_OF_LISTING + 1))


@pytest.mark.parametrize(
    ("key", "why"),
    [("none", "is not there"), ("none/*", "there is no object"), ("none/", "there is no object")],
)
def test_what_is_not_there_is_a_row_with_its_error(bucket: Bucket, key: str, why: str) -> None:
    (row,) = targets(f"s3://snapshots/{key}", QUICK)
    assert isinstance(row, Row)
    assert row.path == f"s3://snapshots/{key}"
    assert row.error is not None
    assert row.error.startswith(why)


def test_a_bucket_that_is_not_there_is_a_row(bucket: Bucket) -> None:
    (row,) = targets("s3://no-such-bucket/a*", QUICK)
    assert isinstance(row, Row)
    assert row.error is not None


def test_every_page_is_decided_as_numpy_does(bucket: Bucket, objects: Objects) -> None:
    ram = mixed_ram(2000)
    (target,) = targets(bucket.put("ram", ram))
    checked(objects, target, ram)
    assert bucket.proxy.most > 1  # in parallel
    assert len(bucket.proxy.ranges) == len(set(bucket.proxy.ranges)) == 63


def test_connections_are_used_again_and_bytes_come_where_they_are_wanted(
    bucket: Bucket, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the libraries that are installed; others may keep their streams elsewhere."""
    ram = mixed_ram(1000)
    (target,) = targets(bucket.put("ram", ram))
    direct = []
    found = s3.direct_stream
    monkeypatch.setattr(s3, "direct_stream", lambda body: direct.append(found(body)) or direct[-1])
    for _ in range(3):
        checked(Objects(coordinator, SMALL, patience=QUICK), target, ram)
    assert len(direct) == 96
    assert None not in direct
    assert bucket.proxy.connections < 20


@pytest.mark.long
def test_s3_by_tls_where_the_certificate_is_trusted(
    bucket: Bucket, coordinator: Coordinator, tmp_path: Path
) -> None:
    ram = mixed_ram(500)
    url = bucket.put("ram", ram)
    context, certificate = self_signed(tmp_path)
    with BreakingProxy(bucket.proxy.upstream, context) as proxy:
        with environment(proxy.url):
            (row,) = targets(url, QUICK)
        with environment(proxy.url, AWS_CA_BUNDLE=str(certificate)):
            (target,) = targets(url, QUICK)
            proxy.faults = [shortened_to(70_000), closed_after(10_000), reset_after(1)]
            checked(Objects(coordinator, SMALL, patience=QUICK), target, ram)
        with environment(proxy.url), pytest.raises(SourceError, match="certificate is not valid"):
            Objects(coordinator, SMALL, patience=QUICK).check(whole(target))
    assert isinstance(row, Row)
    assert (row.error or "").startswith("its certificate is not valid: self")


def test_bytes_come_through_the_library_where_its_stream_is_not_found(
    bucket: Bucket, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    ram = mixed_ram(500)
    (target,) = targets(bucket.put("ram", ram))
    monkeypatch.setattr(s3, "direct_stream", lambda _body: None)
    bucket.proxy.faults = [shortened_to(70_000), closed_after(10_000), reset_after(1)]
    checked(objects, target, ram)


def test_pieces_add_up(bucket: Bucket, objects: Objects) -> None:
    ram = mixed_ram(500, seed=2)
    (target,) = targets(bucket.put("ram", ram))
    assert isinstance(target, Target)
    for start in range(0, 500, 150):
        pages = min(150, 500 - start)
        part = ram[start * PAGE : (start + pages) * PAGE]
        found = objects.check(Piece(target, start * PAGE, pages * PAGE))
        require_counts(found, part)


def test_a_picture_of_an_object_has_each_page_where_it_lies(
    bucket: Bucket, coordinator: Coordinator
) -> None:
    ram = mixed_ram(1100)
    (target,) = targets(bucket.put("ram", ram))
    assert isinstance(target, Target)
    objects = Objects(coordinator, SMALL._replace(pictures=True), patience=QUICK)
    first = objects.check(Piece(target, 0, 512 * PAGE)).strip
    second = objects.check(Piece(target, 512 * PAGE, 588 * PAGE)).strip
    assert first is not None
    assert second is not None
    first.join(second)
    size = first.cell_pages * PAGE
    cells = [ram[at : at + size] for at in range(0, len(ram), size)]
    assert [cell[0] for cell in first.cells] == [zero_pages(each) for each in cells]
    assert [sum(cell) for cell in first.cells] == [len(each) // PAGE for each in cells]


def test_other_page_sizes(bucket: Bucket, coordinator: Coordinator) -> None:
    ram = mixed_ram(64)[: 62 * PAGE] + bytes(64 * PAGE) + b"\0" * (2 * PAGE - 1) + b"x"
    (target,) = targets(bucket.put("ram", ram))
    found = Objects(coordinator, Options(page_size=65536, in_flight=1 << 20)).check(whole(target))
    assert found.counts[:5] == (8, 3, 0, 5, 0)


def test_no_more_is_in_flight_than_was_said(bucket: Bucket, coordinator: Coordinator) -> None:
    ram = mixed_ram(2048)
    (target,) = targets(bucket.put("ram", ram))
    objects = Objects(coordinator, Options(page_size=1 << 19, in_flight=1 << 20))
    assert objects.check(whole(target)).counts.pages == 16
    assert bucket.proxy.most <= 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"x" * 5000, "size 5000 is not a multiple of the page size 4096"),
        (b"\x7fELF" + bytes(4092), None),
        (b"", "is empty"),
    ],
)
def test_what_is_no_ram_says_so(
    bucket: Bucket, objects: Objects, content: bytes, why: str | None
) -> None:
    (target,) = targets(bucket.put("thing", content))
    if isinstance(target, Row):
        assert target.error == why
    elif why is None:  # a doubt is a note
        assert objects.check(whole(target)).counts.pages == 1
    else:
        with pytest.raises(SourceError, match=why):
            objects.check(whole(target))


def test_a_disk_image_is_refused_though_only_ranges_of_it_are_read(
    bucket: Bucket, coordinator: Coordinator, objects: Objects
) -> None:
    image = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(8) + bytes(4) + (16).to_bytes(4, "big")
    image += (1 << 30).to_bytes(8, "big") + bytes(4) + (2).to_bytes(4, "big")
    image += (1 << 16).to_bytes(8, "big") + (1 << 16).to_bytes(8, "big") + (1).to_bytes(4, "big")
    image = image.ljust(96, b"\0") + bytes(4) + (104).to_bytes(4, "big")
    (target,) = targets(bucket.put("disk.qcow2", image.ljust(4 << 16, b"\0")))
    with pytest.raises(SourceError, match="qcow2"):
        objects.check(whole(target))
    raw = Objects(coordinator, SMALL._replace(format="raw"), patience=QUICK)
    assert raw.check(whole(target)).counts.pages == 64


def test_a_snapshot_is_one_row_of_what_its_manifest_says(
    bucket: Bucket, coordinator: Coordinator, objects: Objects, tmp_path: Path
) -> None:
    ram = mixed_ram(32)
    make_snapshot(tmp_path / "snap", {"pc.ram": ram, "more": bytes(8 * PAGE)})
    for file in sorted((tmp_path / "snap").iterdir()):
        bucket.put(f"saved/one/{file.name}", file.read_bytes())
    bucket.put("saved/other/ram", bytes(PAGE))
    bucket.put("saved/other/manifest.json", b'{"checksum": "no"}')
    found = {each.path: each for each in targets("s3://snapshots/saved")}
    assert list(found) == [
        "s3://snapshots/saved/one",
        "s3://snapshots/saved/other/manifest.json",
        "s3://snapshots/saved/other/ram",
    ]
    target = found["s3://snapshots/saved/one"]
    assert isinstance(target, Target)
    assert (target.kind, target.size) == ("snapshot", 40 * PAGE)
    answer = objects.check(whole(target))
    zero = sum(not any(ram[at : at + PAGE]) for at in range(0, len(ram), PAGE)) + 8
    assert answer.counts == (40, zero, zero, 40 - zero, 0, 0, 0)
    assert answer.bytes_checked == 0
    assert list(targets("s3://snapshots/saved/one")) == [target]
    pictured = Objects(coordinator, SMALL._replace(pictures=True), patience=QUICK)
    strip = pictured.check(whole(target)).strip
    assert strip is not None
    assert np.sum(strip.cells, axis=0).tolist() == [0, zero, 40 - zero, 0, 0]
    bucket.client.delete_object(Bucket="snapshots", Key="saved/one/state")
    with pytest.raises(SourceError, match="saved/one/state: is not there"):
        objects.check(whole(target))


def test_a_damaged_manifest_is_a_row_with_its_error(bucket: Bucket, tmp_path: Path) -> None:
    make_snapshot(tmp_path / "snap", {"pc.ram": bytes(PAGE)})
    for file in (tmp_path / "snap").iterdir():
        content = file.read_bytes()
        damaged = content.replace(b"qemu", b"qemU", 1) if file.name == "manifest.json" else content
        bucket.put(f"saved/{file.name}", damaged)
    (row,) = targets("s3://snapshots/saved")
    assert isinstance(row, Row)
    assert "damaged" in (row.error or "")


def test_without_credentials_one_line_says_how_to_give_them(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pagecheck.survey.stores.opening import forget_stores

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_stores()
    try:
        (row,) = targets("s3://snapshots/ram", QUICK)
    finally:
        forget_stores()
    assert isinstance(row, Row)
    assert "there are no credentials" in (row.error or "")


def test_credentials_in_an_s3_url_are_refused_and_not_shown() -> None:
    (row,) = targets(f"s3://AKIA:{SECRET}@snapshots/ram")
    assert isinstance(row, Row)
    assert "credentials are not taken from a URL" in (row.error or "")
    assert SECRET not in repr(row)


@pytest.mark.parametrize("url", ["abc://x/y", "simplecache::s3://b/k", "zip://a::s3://b/k"])
def test_other_urls_are_refused(url: str) -> None:
    (row,) = targets(url)
    assert isinstance(row, Row)
    assert "is not a URL that pagecheck reads" in (row.error or "")


def test_a_package_that_is_missing_is_named() -> None:
    program = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from pagecheck.survey.stores import targets\n"
        "from pagecheck.errors import EngineError\n"
        "try: list(targets('s3://bucket/key'))\n"
        "except EngineError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "needs the package s3fs: pip install 'pagecheck[survey]'" in ran.stdout
    assert ran.stderr == ""


def test_the_command_surveys_a_bucket_and_resumes_by_etags(bucket: Bucket, tmp_path: Path) -> None:
    ram = mixed_ram(300)
    for name in ("a", "b"):
        bucket.put(f"vm/{name}", ram)
    bucket.put("vm/log", b"hello")
    command = (
        "survey",
        "--json",
        "--in-flight",
        "1M",
        "--out",
        tmp_path / "out",
        "s3://snapshots/vm",
    )
    done = pagecheck(*command)
    assert done.stderr == ""
    rows = {each["path"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert sorted(rows) == [f"s3://snapshots/vm/{name}" for name in ("a", "b", "log")]
    row = rows["s3://snapshots/vm/a"]
    assert (row["bytes"], row["pages"], row["zero"]) == (len(ram), 300, zero_pages(ram))
    assert (row["hole"], row["undecided"], row["allocated"], row["error"]) == (0, 0, None, None)
    assert "is not a multiple of the page size" in rows["s3://snapshots/vm/log"]["error"]
    bucket.put("vm/b", bytes(300 * PAGE))
    bucket.proxy.ranges.clear()
    done = pagecheck("survey", "--json", "--resume", *command[2:])
    rows = {each["path"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert rows["s3://snapshots/vm/b"]["zero"] == 300
    assert len(bucket.proxy.ranges) == 10  # b's parts only


@pytest.mark.parametrize("size", ["4K", "1000T"])
def test_a_bound_that_cannot_be_is_an_invalid_request(bucket: Bucket, size: str) -> None:
    bucket.put("ram", bytes(PAGE))
    done = pagecheck("survey", "--in-flight", size, "s3://snapshots/ram")
    assert done.returncode == 2
    assert "pagecheck: in flight" in done.stderr


def test_a_file_url_is_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a b%41"
    file.write_bytes(bytes(PAGE))
    done = pagecheck("survey", "--json", f"file://{tmp_path}/a%20b%2541")
    row = json.loads(done.stdout)
    assert (row["path"], row["zero"]) == (str(file), 1)
