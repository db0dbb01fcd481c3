"""Which places of this host a small world runs in, and what is known of their holes."""

from __future__ import annotations

from typing import Final

from pagecheck.errors import InternalError, PagecheckError
from pagecheck.selftest.places import Place
from pagecheck.selftest.trial import run_world
from pagecheck.selftest.world import World

_BYTES: Final = 1 << 20


def examine(place: Place) -> tuple[Place | None, str]:
    """Runs a small world in it, a diff, one that is saved, and one that is mapped.

    Returns:
        The place as it is, None where it cannot be used; and why it cannot, or what of it.

    Raises:
        Wrong: an answer was.
        InternalError: there is a bug in pagecheck.
    """
    world = World(
        seed=1,
        place=place.name,
        source=place.sources[0],
        page_size=place.page_size,
        pages=max(1, min(_BYTES, place.bytes_max) // place.page_size),
        hole_share=0.5,
    )
    if why := _refusal(place, world):
        return None, f"cannot be used here: {why}"
    notes = []
    if place.diffs and (why := _refusal(place, world._replace(kind="diff"))):
        place = place._replace(diffs=False)
        notes.append(f"no diffs: {why}")
    if place.saves and (why := _refusal(place, world._replace(saves=True))):
        place = place._replace(saves=False)
        notes.append(f"not saved: {why}")
    if place.maps and _refusal(place, world._replace(access="map")):
        place = place._replace(maps=False)
    return place, "; ".join(notes)


def _refusal(place: Place, world: World) -> str:
    """Why such a world is refused; "" where it is not."""
    try:
        run_world(world, {place.name: place})
    except InternalError:
        raise
    except PagecheckError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return ""
