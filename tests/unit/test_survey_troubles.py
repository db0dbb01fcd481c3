"""What a store's library raises: whether another try may help, when, and how long."""

import errno
import http.client
import random
import socket
import ssl

import pytest

from pagecheck.survey.stores.asking import ask
from pagecheck.survey.stores.patience import LISTING, Patience, Tries
from pagecheck.survey.stores.troubles import Broken, Refused, Trouble, trouble_of
from tests.support.clock import MovedClock


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
        }


class ClientResponseError(Exception):
    """As aiohttp's."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(f"{status}, url='http://me:SECRET@host/?sig=SECRET'")
        self.status, self.message, self.headers = status, "Not good", headers


class EndpointConnectionError(OSError):
    """As botocore's, where nobody listens."""


class ClientConnectorCertificateError(ssl.CertificateError):
    """As aiohttp's."""

    certificate_error = ssl.SSLCertVerificationError("self-signed certificate")


CERTIFICATE = ssl.SSLCertVerificationError(1, "no")
CERTIFICATE.verify_message = "certificate has expired"


@pytest.mark.parametrize(
    "error",
    [
        ClientError(503, "SlowDown"),
        ClientError(400, "RequestTimeout"),
        ClientError(500),
        ClientResponseError(429, {}),
        Broken("half a body"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError(),
        socket.gaierror(-3, "Temporary failure in name resolution"),
        http.client.IncompleteRead(b""),
        EndpointConnectionError("Could not connect"),
        OSError(errno.EBUSY, "Please reduce your request rate."),
    ],
    ids=str,
)
def test_what_passes(error: Exception) -> None:
    assert trouble_of(error).passing


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ClientError(403, "AccessDenied", "No."), "the store answered 403 AccessDenied: No."),
        (ClientError(404, "404"), "is not there (404)"),
        (ClientError(412, "PreconditionFailed"), "was changed (412 PreconditionFailed)"),
        (ClientError(301, "PermanentRedirect"), "the store answered 301 PermanentRedirect"),
        (ClientResponseError(401, {}), "the store answered 401: Not good"),
        (FileNotFoundError("http://me:SECRET@host/"), "is not there"),
        (Refused("no ranges"), "no ranges"),
        (CERTIFICATE, "its certificate is not valid: certificate has expired"),
        (
            ClientConnectorCertificateError(),
            "its certificate is not valid: ('self-signed certificate',)",
        ),
        (KeyError("Size"), "KeyError: 'Size'"),
    ],
    ids=str,
)
def test_what_lasts(error: Exception, why: str) -> None:
    trouble = trouble_of(error)
    assert (trouble.text, trouble.passing) == (why, False)


def test_a_library_s_own_error_hides_nothing() -> None:
    """s3fs makes an OSError of what the store answered."""
    error = OSError(errno.EIO, "something")
    error.__cause__ = ClientError(503, "SlowDown", "Please reduce your request rate.")
    assert trouble_of(error).text == (
        "the store answered 503 SlowDown: Please reduce your request rate."
    )


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("9999", 30), ("soon", 0), ("-1", 0)])
def test_the_pause_that_a_store_asks_for_is_made_within_reason(header: str, seconds: float) -> None:
    assert trouble_of(ClientResponseError(503, {"Retry-After": header})).wait_s == seconds
    asked = ClientError(503, "SlowDown", **{"retry-after": header})
    assert trouble_of(asked).wait_s == seconds


SLOW = Trouble("503 SlowDown", passing=True)


def test_pauses_grow_to_a_limit_and_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    tries = Tries("s3://b/k", Patience(first_s=0.2, longest_s=1.0))
    assert [tries.pause_s(SLOW, progress=False) for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    assert tries.pause_s(SLOW, progress=True) == 0.2
    assert tries.pause_s(SLOW._replace(wait_s=9.0), progress=False) == 9.0
    monkeypatch.setattr(random, "uniform", lambda low, _high: low)
    assert tries.pause_s(SLOW, progress=True) == 0.1


def test_after_a_time_without_a_byte_there_is_no_other_try(moved_clock: MovedClock) -> None:
    tries = Tries("s3://b/k", Patience(quiet_s=60.0, whole_s=100.0))
    moved_clock.sleep_s(59.0)
    assert tries.pause_s(SLOW, progress=False) is not None
    assert tries.pause_s(SLOW, progress=True) is not None
    moved_clock.sleep_s(30.0)
    assert tries.pause_s(SLOW, progress=False) is not None
    moved_clock.sleep_s(11.0)  # bytes came, but it lasts too long
    assert tries.pause_s(SLOW, progress=True) is None
    assert tries.text(SLOW) == "503 SlowDown; tried 4 times in 100 s"


def test_a_listing_that_fails_late_is_made_again(moved_clock: MovedClock) -> None:
    """It has thousands of pages, and one of them fails."""
    lasts = [300.0, 400.0, 0.0]

    def listing() -> str:
        seconds = lasts.pop(0)
        moved_clock.sleep_s(seconds)
        if seconds:
            raise ClientError(500, "InternalError")
        return "all"

    assert ask("s3://b/", listing, LISTING) == "all"


def test_a_wrong_address_is_said_soon(moved_clock: MovedClock) -> None:
    tries = Tries("https://typo/", LISTING)
    absent = trouble_of(EndpointConnectionError("Could not connect"))
    assert absent.absent
    moved_clock.sleep_s(3.0)
    assert tries.pause_s(SLOW, progress=False) is not None
    assert tries.pause_s(absent, progress=False) is None
