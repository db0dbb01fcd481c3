"""What --wq may say."""

import pytest

from pagecheck.errors import UsageError
from pagecheck.hw.wq import Model, parse


def test_a_path_stays_a_path() -> None:
    assert parse("/dev/dsa/wq0.0") == "/dev/dsa/wq0.0"


def test_defaults() -> None:
    assert parse("model:") == Model(
        "model:", "shared", 64, 60, 128, 2 << 20, 1, 0, "none", 0, 1, 0, 1
    )


def test_every_option() -> None:
    text = (
        "model:mode=write,size=32,threshold=9,batch=7,transfer=64K,version=2,seed=5,"
        "faults=lost,delay=2000,engines=4,prs=1,ats=0"
    )
    assert parse(text) == Model(text, "write", 32, 9, 7, 65536, 2, 5, "lost", 2000, 4, 1, 0)


@pytest.mark.parametrize(("size", "threshold"), [(1, 1), (2, 1), (16, 15), (64, 60), (128, 120)])
def test_the_threshold_leaves_room_for_the_kernel(size: int, threshold: int) -> None:
    found = parse(f"model:size={size}")
    assert isinstance(found, Model)
    assert found.threshold == threshold


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("wq0.0", "'wq0.0'"),
        ("model", "'model'"),
        ("model:colour=red", "colour=red"),
        ("model:size", "'size'"),
        ("model:mode=fast", "fast"),
        ("model:size=0", "size '0'"),
        ("model:size=129", "size '129'"),
        ("model:size=-1", "size '-1'"),
        ("model:size=٣", "size"),
        ("model:size=8,threshold=9", "threshold 9"),
        ("model:batch=1", "batch '1'"),
        ("model:transfer=3G", "transfer '3G'"),
        ("model:transfer=K", "transfer 'K'"),
        ("model:version=3", "version '3'"),
        ("model:seed=18446744073709551616", "seed"),
        ("model:seed=", "seed ''"),
        ("model:delay=60000001", "delay"),
        ("model:engines=0", "engines '0'"),
        ("model:engines=5", "engines '5'"),
        ("model:prs=2", "prs '2'"),
        ("model:ats=no", "ats 'no'"),
    ],
)
def test_nonsense_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
