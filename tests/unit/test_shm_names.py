"""Which names in /dev/shm may be a coordinator's, and so be removed once it is dead."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from pagecheck.shm import owner

OUR_FORM = (
    r"(pagecheck-([0-9]+)-[0-9a-f]{16})-"
    r"(owner|c[0-9]+g[0-9]+-(ring|control)|b[0-9]+s[0-9]+-bitmaps)"
)


@given(
    st.from_regex(OUR_FORM, fullmatch=True)
    | st.from_regex(OUR_FORM.replace("[0-9]+", "[0-9x٣-]*"), fullmatch=True)
    | st.from_regex(OUR_FORM)
    | st.text("pagecheck-0123456789abcdefgsringowner", max_size=60)
)
@example("pagecheck-0-0123456789abcdef-owner")
@example("pagecheck-0-0123456789abcdef-c0g12-control")
@example("pagecheck-0-0123456789abcdef-b0s0-ring")
@example("pagecheck-0-0123456789abcdef-owner\n")
def test_only_names_of_exactly_our_form(name: str) -> None:
    match = re.fullmatch(OUR_FORM, name)
    assert owner._owner_of(name) == (None if match is None else (match[1], int(match[2])))
