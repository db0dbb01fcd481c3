"""Exit codes are a promise to scripts."""

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
