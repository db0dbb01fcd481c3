"""A real S3 server on this machine, with a proxy before it that breaks what a test wants broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.breaking_proxy import BreakingProxy
from tests.support.needs import unavailable

BUCKET = "snapshots"
PAGE_OF_LISTING = 25  # objects
SECRET = "wJalrXUtnFEMIsecretEXAMPLEKEY"


class Bucket:
    """A bucket of the server.

    Attributes:
        proxy: that pagecheck's requests go through.
        client: boto3's, which asks the server itself.
    """

    def __init__(self, proxy: BreakingProxy, client: Any) -> None:
        self.proxy = proxy
        self.client = client

    def put(self, key: str, content: bytes) -> str:
        """Makes an object; returns its URL."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def empty(self) -> None:
        """Removes all objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        for each in (each for page in pages for each in page.get("Contents", ())):
            self.client.delete_object(Bucket=BUCKET, Key=each["Key"])


@contextlib.contextmanager
def s3_server() -> Iterator[Bucket]:
    """Starts both; requests are signed, and nothing outside is asked for credentials."""
    try:
        import boto3
        import s3fs  # noqa: F401
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer
    except ImportError as error:
        unavailable(f"no {error.name}: pip install 'pagecheck[survey,test-survey]'")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with BreakingProxy((host, port)) as proxy, environment(proxy.url):
            client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
            client.create_bucket(Bucket=BUCKET)
            yield Bucket(proxy, client)
            client.close()
    finally:
        server.stop()


@contextlib.contextmanager
def environment(url: str, **more: str) -> Iterator[None]:
    """Where boto's libraries find the server and the credentials."""
    from pagecheck.survey.stores.opening import forget_stores

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name, value in more.items():
            patch.setenv(name, value)
        patch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", str(PAGE_OF_LISTING))
        forget_stores()
        yield
    forget_stores()


def host_of(url: str) -> str:
    """Host and port of a URL."""
    return urlsplit(url).netloc
