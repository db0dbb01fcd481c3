"""URLs of stores: nothing that may be secret is shown, and objects have names of their own."""

import pytest

from pagecheck.survey.urls import is_glob, scheme_of, shown, without_secrets


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("s3://bucket/key", "s3://bucket/key"),
        ("S3://bucket/Key", "s3://bucket/Key"),
        ("https://host/ram", "https://host/ram"),
        ("https://user:pass@host:8443/ram", "https://host:8443/ram"),
        ("https://us@er:p@ss@host/a@b", "https://host/a@b"),
        ("https://host/ram#part", "https://host/ram"),
        ("https://host/ram?X-Amz-Signature=abc&X-Amz-Date=1", "https://host/ram"),
        ("https://host/ram?sig=abc&se=2026&sp=r", "https://host/ram"),
        ("https://host/ram?Signature=x&GoogleAccessId=y&Expires=1", "https://host/ram"),
        ("s3://key:secret@bucket/ram", "s3://bucket/ram"),
        ("s3://key:sec/ret@bucket/ram", "s3://bucket/ram"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("https://[::1]/a@b", "https://[::1]/a@b"),
    ],
)
def test_what_is_shown_of_a_url(url: str, seen: str) -> None:
    assert shown(url) == seen


def test_a_query_that_is_no_signature_tells_objects_apart_and_is_not_shown() -> None:
    one, two = shown("https://host/get?id=1&X-Amz-Signature=a"), shown("https://host/get?id=2")
    assert one != two
    assert one == shown("https://host/get?id=1&X-Amz-Signature=b")
    assert one.startswith("https://host/get?")
    assert "id=" not in one


@pytest.mark.parametrize("url", ["s3://b/a*", "s3://b/a?", "s3://b/[ab]", "http://h/*.ram?x=1"])
def test_patterns(url: str) -> None:
    assert is_glob(url)


@pytest.mark.parametrize(
    "url", ["s3://b/a", "http://h/a?x=*", "http://[::1]/a", "http://h/a?b", "s3://b*/a"]
)
def test_no_patterns(url: str) -> None:
    assert not is_glob(url)


def test_only_a_scheme_makes_a_url() -> None:
    assert scheme_of("S3a://b/k") == "s3a"
    assert scheme_of("/a/b://c") == scheme_of("a b://c") == scheme_of("://c") == ""


@pytest.mark.parametrize(
    "text",
    [
        "Cannot connect to https://user:SECRET@host/ram",
        "403, message='Forbidden', url='https://host/ram?X-Amz-Signature=SECRET&x=SECRET'",
        "x-amz-security-token: SECRET",
        "aws_secret_access_key=SECRET is not valid",
        "Authorization: SECRET",
    ],
)
def test_texts_of_libraries_lose_their_secrets(text: str) -> None:
    assert "SECRET" not in without_secrets(text)


def test_texts_of_libraries_stay_readable_and_on_one_line() -> None:
    text = without_secrets("Connect call failed ('127.0.0.1', 1)\nagain?")
    assert text == "Connect call failed ('127.0.0.1', 1) again?"
