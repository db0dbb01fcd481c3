"""The policy file: what it means, and that anything in it that is not understood is an error."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from pagecheck.errors import UsageError
from pagecheck.service.policy import NO_POLICY, Policy, load_policy


def loaded(folder: Path, text: str | bytes, mode: int = 0o600) -> Policy:
    path = folder / "policy.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return load_policy(str(path))


def test_what_it_allows(tmp_path: Path) -> None:
    policy = loaded(
        tmp_path,
        """
        [[allow]]
        users = [1000]
        groups = [50, 51]
        vms_of = [107, 108]

        [[allow]]
        groups = [51]
        vms_of = [0, 107]
        pause = true

        [[allow]]
        users = [2]
        vms_of = [109]
        save = true
        """,
    )
    assert policy.owners(1000, [1000]) == (107, 108)
    assert policy.owners(1, [50]) == (107, 108)
    assert policy.owners(1, [9, 51]) == (107, 108, 0)
    assert policy.owners(1, [51], "pause") == (0, 107)
    assert policy.owners(1000, [50], "pause") == ()
    assert policy.owners(1, [1000]) == ()
    assert [policy.owners(2, [2], what) for what in ("look", "pause", "save")] == [(109,)] * 3
    assert policy.owners(1, [51], "save") == ()
    assert policy.names(1000, [])
    assert policy.names(1, [51])
    assert not policy.names(51, [1000])


def test_no_policy_allows_nothing() -> None:
    assert NO_POLICY.owners(0, [0]) == ()
    assert not NO_POLICY.names(0, [0])


def test_names_of_users_and_groups(tmp_path: Path) -> None:
    user, group = pwd.getpwuid(0).pw_name, grp.getgrgid(0).gr_name
    text = f'[[allow]]\nusers = ["{user}"]\ngroups = ["{group}"]\nvms_of = ["{user}"]\n'
    (rule,) = loaded(tmp_path, text).rules
    assert (rule.users, rule.groups, rule.vms_of, rule.pause) == ({0}, {0}, (0,), False)


GOOD = "[[allow]]\nusers = [1]\nvms_of = [2]\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "allows nothing"),
        ("allow = []", "allows nothing"),
        ("allow = 1", "allows nothing"),
        ("[allow]\nusers = [1]\nvms_of = [2]", "allows nothing"),
        ("allow = [1]", "is not a table"),
        (GOOD + "[other]\n", "unknown: 'other'"),
        (GOOD + "Pause = true", "unknown: 'Pause'"),
        (GOOD + "pause = 1", "pause: must be true or false"),
        (GOOD + 'pause = "true"', "pause: must be true or false"),
        ("[[allow]]\nvms_of = [2]", "is for nobody"),
        ("[[allow]]\nusers = []\nvms_of = [2]", "is for nobody"),
        ("[[allow]]\nusers = [1]", "give vms_of"),
        ("[[allow]]\nusers = 1\nvms_of = [2]", "users: must be a list"),
        ('[[allow]]\nusers = "root"\nvms_of = [2]', "users: must be a list"),
        ("[[allow]]\nusers = [-1]\nvms_of = [2]", "'-1' is neither a name nor a number"),
        ("[[allow]]\nusers = [4294967295]\nvms_of = [2]", "neither a name nor a number"),
        ("[[allow]]\nusers = [true]\nvms_of = [2]", "neither a name nor a number"),
        ("[[allow]]\nusers = [1.0]\nvms_of = [2]", "neither a name nor a number"),
        ('[[allow]]\nusers = ["no-such"]\nvms_of = [2]', "users: there is no 'no-such' here"),
        ('[[allow]]\nusers = [""]\nvms_of = [2]', "users: there is no ''"),
        ('[[allow]]\ngroups = ["no-such"]\nvms_of = [2]', "groups: there is no 'no-such' here"),
        ('[[allow]]\nusers = ["a\\u0000b"]\nvms_of = [2]', "users: there is no"),
        ('[[allow]]\nusers = [1]\nvms_of = ["no-such"]', "vms_of: there is no 'no-such' here"),
        (GOOD + GOOD + "x = 1", r"\[\[allow\]\] 2: unknown: 'x'"),
        ("{", "is not TOML"),
        (b"\xff", "is not TOML"),
        ("a = " + "[" * 100000, "is not TOML"),
        ("#" * (1 << 20) + "\n", "more than 1048576 bytes"),
    ],
)
def test_what_is_not_understood(tmp_path: Path, text: str | bytes, why: str) -> None:
    with pytest.raises(UsageError, match=why) as error:
        loaded(tmp_path, text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_may_write(tmp_path: Path, mode: int) -> None:
    with pytest.raises(UsageError, match="others than its owner may write it"):
        loaded(tmp_path, GOOD, mode)


def test_what_somebody_else_owns(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: a file of another user")
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    os.chown(path, 65534, 0)
    with pytest.raises(UsageError, match="belongs to user 65534"):
        load_policy(str(path))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_policy(str(tmp_path / "none"))
    for path in (tmp_path, tmp_path / "fifo"):
        if not path.exists():
            os.mkfifo(path)
        with pytest.raises(UsageError, match=r"is not a regular file|cannot be read"):
            load_policy(str(path))
    with pytest.raises(UsageError, match="cannot be read"):
        load_policy("a\0b")
