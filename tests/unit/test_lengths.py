"""What `make test` leaves out."""

import pytest

from tests.support.lengths import is_long


def test_a_test_without_a_mark(request: pytest.FixtureRequest) -> None:
    assert not is_long(request.node)


@pytest.mark.long
def test_a_test_with_one(request: pytest.FixtureRequest) -> None:
    assert is_long(request.node)


@pytest.mark.long(but="pc")
def test_no_parameters_of_which_one_could_be_left_out(request: pytest.FixtureRequest) -> None:
    assert not is_long(request.node)


@pytest.mark.long(but=("pc", "q35-file"))
@pytest.mark.parametrize("machine", ["pc", "q35-file", "q35", "microvm-pc"])
def test_parameters(machine: str, request: pytest.FixtureRequest) -> None:
    assert is_long(request.node) == (machine in ("q35", "microvm-pc"))


@pytest.mark.long
class TestOfAClass:
    @pytest.mark.long(but="0")
    @pytest.mark.parametrize("number", [0, 1])
    def test_the_nearest_mark_counts(self, number: int, request: pytest.FixtureRequest) -> None:
        assert is_long(request.node) == (number == 1)
