"""A store that throttles, breaks off, lies and changes: the answer is right, or there is none."""

import threading
from typing import Any

import pytest

from pagecheck import Coordinator
from pagecheck.errors import PagecheckError, SourceError
from pagecheck.survey.stores import Objects, reading, s3, targets
from pagecheck.survey.stores.opening import forget_stores
from pagecheck.survey.stores.part import Part
from pagecheck.survey.values import Target
from tests.support.breaking_proxy import (
    Fault,
    another_range,
    chunked,
    closed_after,
    refused,
    reset_after,
    shortened_to,
    silent,
    slow_down,
    with_header,
)
from tests.support.objects import PAGE, QUICK, SHORT, SMALL, checked, mixed_ram, whole
from tests.support.s3 import SECRET, Bucket

RAM = mixed_ram(320)  # ten parts


@pytest.fixture
def target(bucket: Bucket) -> Target:
    (found,) = targets(bucket.put("ram", RAM))
    assert isinstance(found, Target)
    return found


@pytest.fixture
def objects(coordinator: Coordinator) -> Objects:
    return Objects(coordinator, SMALL, patience=QUICK)


PASSING = {
    "503 SlowDown": slow_down,
    "503 without a body": refused(503),
    "503 in no XML": refused(503, b"<html>try later", Content_Type="text/html"),
    "429": refused(429, b"", Retry_After="0"),
    "500": refused(500, b"<Error><Code>InternalError</Code></Error>"),
    "reset at once": silent,
    "reset in the headers' wake": reset_after(0),
    "reset in the middle": reset_after(70_001),
    "closed in the middle": closed_after(4096),
    "closed before the last byte": closed_after((128 << 10) - 1),
    "shortened": shortened_to(100_000),
    "empty": shortened_to(0),
    "too long": lambda client, answer: client.send(answer._replace(body=answer.body + bytes(9))),
    "in chunks, and too long": chunked(9),
    "another range": another_range(len(RAM)),
}


@pytest.mark.long(but=("503 SlowDown", "reset"))
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again_and_the_answer_is_right(
    bucket: Bucket, target: Target, objects: Objects, fault: Fault
) -> None:
    bucket.proxy.faults = [fault] * 15
    checked(objects, target, RAM)


def test_what_broke_off_goes_on_where_it_was(
    bucket: Bucket, target: Target, objects: Objects
) -> None:
    bucket.proxy.faults = [shortened_to(100_000)]
    checked(objects, target, RAM)
    goes_on = [each for each in bucket.proxy.ranges if int(each[6:].split("-")[0]) % (128 << 10)]
    assert len(goes_on) == 1
    assert (int(goes_on[0][6:].split("-")[0]) - 100_000) % (128 << 10) == 0


def test_a_store_that_is_silent_is_asked_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, coordinator: Coordinator
) -> None:
    monkeypatch.setattr(s3, "QUIET_S", 0.3)
    forget_stores()
    over = threading.Event()
    try:
        (target,) = targets(bucket.put("ram", RAM))
        bucket.proxy.faults = [lambda _client, _answer: over.wait(60)] * 3
        checked(Objects(coordinator, SMALL, patience=QUICK), target, RAM)
        bucket.proxy.always = lambda _client, _answer: over.wait(60)
        with pytest.raises(SourceError, match="did not come: no answer in time"):
            Objects(coordinator, SMALL, patience=SHORT).check(whole(target))
    finally:
        over.set()
        forget_stores()


def test_what_comes_too_slowly_ends_at_last_and_its_slot_is_not_used_meanwhile(
    bucket: Bucket, target: Target, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that waits for longer than it was told."""
    over, at = threading.Event(), threading.Event()

    def late(_self: Any, part: Part, _seconds: float) -> None:
        at.set()
        over.wait(60)
        part.take(bytes(part.left))  # zeros, long after anybody wanted them

    patience = QUICK._replace(whole_s=0.01)
    monkeypatch.setattr(reading, "SLACK_S", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(s3.S3, "fetch", late)
        with pytest.raises(SourceError, match="a part did not come within"):
            Objects(coordinator, SMALL, patience=patience).check(whole(target))
    assert at.is_set()
    with pytest.raises(SourceError, match="for room"):
        Objects(coordinator, SMALL, patience=patience).check(whole(target))
    objects = Objects(coordinator, SMALL, patience=QUICK)
    others = threading.Timer(0.2, over.set)  # all slots are taken until then
    others.start()
    monkeypatch.setattr(reading, "SLACK_S", 30.0)
    checked(objects, target, RAM)
    others.join()


LASTING = {
    "503 SlowDown": (slow_down, "503 SlowDown: Please reduce your request rate.; tried"),
    "reset": (silent, "connection failed"),
    "empty": (shortened_to(0), "the body ended 131072 bytes too early; tried"),
    "403": (
        refused(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>"),
        "the store answered 403 AccessDenied: No.",
    ),
    "archived": (
        refused(403, b"<Error><Code>InvalidObjectState</Code></Error>"),
        "the store answered 403 InvalidObjectState",
    ),
    "404": (refused(404, b"<Error><Code>NoSuchKey</Code></Error>"), "is not there"),
    "no ranges": (refused(200, RAM), "does not serve ranges"),
    "no range in the answer": (with_header("Content-Range", None), "without the range"),
    "another size": (
        with_header("Content-Range", f"bytes 0-131071/{len(RAM) + PAGE}"),
        "was changed",
    ),
    "another version": (with_header("ETag", '"other"'), "was changed since it was listed"),
}


@pytest.mark.parametrize(("fault", "why"), LASTING.values(), ids=LASTING)
def test_what_lasts_is_one_line_without_credentials(
    bucket: Bucket, target: Target, coordinator: Coordinator, fault: Fault, why: str
) -> None:
    bucket.proxy.always = fault
    with pytest.raises(SourceError) as caught:
        Objects(coordinator, SMALL, patience=SHORT).check(whole(target))
    text = str(caught.value)
    assert text.startswith("s3://snapshots/ram: ")
    assert why in text
    assert "\n" not in text
    assert not any(each in text for each in (SECRET, "AKIA", "Signature"))
    bucket.proxy.always = None
    checked(Objects(coordinator, SMALL, patience=QUICK), target, RAM)  # its slots are free again


def test_a_part_that_never_comes_whole_is_no_zero_page(
    bucket: Bucket, target: Target, coordinator: Coordinator
) -> None:
    """The slots held zeros before."""
    zeros = bytes(320 * PAGE)
    (other,) = targets(bucket.put("zeros", zeros))
    objects = Objects(coordinator, SMALL, patience=SHORT)
    checked(objects, other, zeros)
    bucket.proxy.always = shortened_to(0)
    with pytest.raises(SourceError, match="too early"):
        objects.check(whole(target))
    bucket.proxy.always = None
    checked(objects, target, RAM)


def test_a_slot_has_no_zero_page_before_its_bytes_come(
    bucket: Bucket, target: Target, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second proof: even where bytes are counted that never came."""
    zeros = bytes(320 * PAGE)
    (other,) = targets(bucket.put("zeros", zeros))
    checked(objects, other, zeros)

    def nothing(_self: Any, part: Part, _seconds: float) -> None:
        part.got = len(part.view)

    monkeypatch.setattr(s3.S3, "fetch", nothing)
    assert objects.check(whole(target)).counts.zero == 0


def test_an_object_that_was_replaced_after_the_listing_is_no_row(
    bucket: Bucket, target: Target, objects: Objects
) -> None:
    bucket.put("ram", RAM[:-1] + b"?")
    with pytest.raises(SourceError, match="was changed"):
        objects.check(whole(target))


def test_an_object_that_is_replaced_while_it_is_read_is_no_row(
    bucket: Bucket, target: Target, objects: Objects
) -> None:
    def replace(number: int) -> None:
        if number == 9:
            bucket.put("ram", RAM[:-1] + b"?")

    bucket.proxy.before = replace
    with pytest.raises(SourceError, match="was changed"):
        objects.check(whole(target))


def test_an_object_that_is_removed_while_it_is_read_is_no_row(
    bucket: Bucket, target: Target, objects: Objects
) -> None:
    def remove(number: int) -> None:
        if number == 9:
            bucket.client.delete_object(Bucket="snapshots", Key="ram")

    bucket.proxy.before = remove
    with pytest.raises(SourceError, match="is not there"):
        objects.check(whole(target))


def test_a_check_that_is_closed_ends(
    bucket: Bucket, target: Target, coordinator: Coordinator
) -> None:
    closed = threading.Event()
    bucket.proxy.before = lambda number: closed.set() if number == 3 else None
    bucket.proxy.always = slow_down
    with pytest.raises(PagecheckError, match="stopped"):
        Objects(coordinator, SMALL, closed.is_set, patience=QUICK).check(whole(target))
    bucket.proxy.reset()
    checked(Objects(coordinator, SMALL, patience=QUICK), target, RAM)


@pytest.mark.parametrize("fault", [slow_down, refused(500), silent], ids=["503", "500", "reset"])
def test_a_listing_that_fails_is_made_again(bucket: Bucket, fault: Fault) -> None:
    url = bucket.put("a/ram", RAM)
    bucket.proxy.listings = [fault] * 3
    assert [each.path for each in targets("s3://snapshots/a/", QUICK)] == [url]
