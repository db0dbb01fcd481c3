"""Worlds as lines, and the simplest one that fails."""

import pytest

from pagecheck.errors import UsageError
from pagecheck.selftest.places import Place
from pagecheck.selftest.shrink import shortest
from pagecheck.selftest.world import Choice, World, make, parse

PLACES = [
    Place("memfd", "memfd", saves=False),
    Place("private", "private", diffs=False, saves=False),
    Place("shm", folder="/dev/shm"),
    Place("/a folder", folder="/a folder"),
    Place("hugetlb", "hugetlb", "", 2 << 20, 8 << 20, diffs=False, holes=False, saves=False),
]
CHOICE = Choice(PLACES, ["avx2", "portable"], ["model:", "model:faults=random", "/dev/dsa/wq0.0"])


def test_a_line_makes_the_same_world() -> None:
    worlds = [make(seed, CHOICE, seed) for seed in range(300)]
    assert [parse(world.line()) for world in worlds] == worlds
    assert len(set(worlds)) == 300
    assert make(9, CHOICE, 9) == worlds[9]


def test_a_world_has_only_what_its_place_has() -> None:
    for seed in range(500):
        world = make(seed, CHOICE, seed)
        place = PLACES[seed % len(PLACES)]
        assert world.place == place.name
        assert world.source in place.sources
        assert world.page_size >= place.page_size
        assert world.bytes <= place.bytes_max
        assert world.kind == "full" or place.diffs
        assert not world.saves or (place.saves and not world.tail)
        assert not world.start % world.page_size
        assert world.channels == 1 or not world.wq.startswith("/dev")


def test_the_simplest_world_is_an_empty_line() -> None:
    assert World().line() == ""
    assert parse("") == World()
    assert World(saves=True, pages=3).line() == "pages=3 saves=1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pages", "'pages' is not NAME=VALUE"),
        ("moons=1", "'moons=1' is not NAME=VALUE with a name of seed, place"),
        ("pages=many", "'pages=many' is not a number"),
        ("saves=yes", "'saves=yes' is not a number"),
        ("place='shm", "No closing quotation"),
        ("pages=0", "'pages=0' must be at least 1"),
        ("page_size=3", "'page_size=3' must be at least 4096"),
        ("page_size=12288", "page_size must be a power of two"),
        ("start=1", "start a multiple of 4096"),
        ("threads=-1", "'threads=-1' must be at least 0"),
        ("zero_share=nan", "'zero_share=nan' must be at least 0"),
    ],
)
def test_a_line_that_is_no_world(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^world ") as caught:
        parse(line)
    assert said in str(caught.value)


def test_the_simplest_that_fails() -> None:
    """Of a fault that needs two channels and some pages, nothing else is left."""
    world = make(3, CHOICE, 2)._replace(channels=4, pages=700, kind="diff", kills=3, threads=2)
    tried = []

    def fails(simpler: World) -> bool:
        tried.append(simpler)
        return simpler.channels >= 2 and simpler.pages >= 130

    found, repeated = shortest(world, fails, 60)
    assert repeated
    assert found.line() == "seed=3 place=shm source=path pages=130 channels=2"
    assert len(tried) < 100


def test_a_world_that_does_not_fail_again_stays_as_it_is() -> None:
    world = make(3, CHOICE, 2)
    assert shortest(world, lambda _world: False, 60) == (world, False)
