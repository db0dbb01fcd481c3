"""Exit codes are a promise to scripts."""

import errno
import json

import pytest

from pagecheck import errors

CODES = {
    "PagecheckError": 4,
    "UsageError": 2,
    "SourceError": 2,
    "OutputError": 2,
    "StorageStalled": 1,
    "EngineError": 3,
    "StartTimeout": 3,
    "ResourceError": 4,
    "LimitError": 4,
    "AccessError": 3,
    "PeerError": 3,
    "SnapshotError": 5,
    "InternalError": 4,
}


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_exit_code(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_every_error_has_a_promised_code() -> None:
    found = {
        n
        for n, v in vars(errors).items()
        if isinstance(v, type) and v.__module__ == errors.__name__
    }
    assert found == CODES.keys()


@pytest.mark.parametrize("name", CODES)
def test_root(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.PagecheckError)


def _sent(error: Exception) -> object:
    return json.loads(json.dumps(errors.to_wire(error)))


@pytest.mark.parametrize("name", CODES)
def test_every_class_travels(name: str) -> None:
    error = errors.from_wire(_sent(errors.CLASSES[name]("a  text")))
    assert type(error) is errors.CLASSES[name]
    assert str(error) == "a  text"


class Closer(errors.SourceError):
    """A class that other processes do not know."""


def test_what_the_others_do_not_know() -> None:
    assert errors.to_wire(Closer("x"))["class"] == "SourceError"
    assert errors.to_wire(ValueError("x")) == {
        "class": "InternalError",
        "desc": "a bug in pagecheck: ValueError: x",
    }


def test_an_error_of_the_system_keeps_its_number_and_its_file() -> None:
    error = errors.from_wire(errors.to_wire(FileNotFoundError(errno.ENOENT, "No such file", "/x")))
    assert type(error) is FileNotFoundError
    assert (error.errno, error.strerror, error.filename) == (errno.ENOENT, "No such file", "/x")
    error = errors.from_wire(errors.to_wire(OSError(errno.EIO, "Input/output error")))
    assert (type(error), error.errno) == (OSError, errno.EIO)
    assert getattr(error, "filename", None) is None


@pytest.mark.parametrize("members", [None, [], {}, {"class": "OSError"}, {"class": ["x"]}])
def test_nonsense_is_an_error_all_the_same(members: object) -> None:
    error = errors.from_wire(members, "channel 3: ", errors.PeerError)
    assert type(error) is errors.PeerError
    assert str(error).startswith("channel 3: ")
