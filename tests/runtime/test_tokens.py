"""Named tokens: what is kept of them, who they let in as what, and when they no longer do."""

import re
import stat
from pathlib import Path

import pytest

from events.http import tokens
from events.http.tokens import BadEntry, NamedToken, Role, Tokens, entries_in, hash_of, main, make, named

LADDER = (Role.VIEWER, Role.OPERATOR, Role.APPROVER, Role.ADMIN)


@pytest.fixture(autouse=True)
def _always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LOOK_SECONDS", 0.0)


def test_each_role_may_do_what_those_below_may() -> None:
    for place, role in enumerate(LADDER):
        assert [other for other in LADDER if role.covers(other)] == list(LADDER[: place + 1])
    assert {role for role in Role if role.covers(Role.CLIENT)} == {
        Role.CLIENT,
        Role.OPERATOR,
        Role.APPROVER,
        Role.ADMIN,
    }
    assert [role for role in Role if Role.CLIENT.covers(role)] == [Role.CLIENT]
    assert [role for role in Role if Role.MACHINE.covers(role)] == [Role.MACHINE]


def test_only_a_hash_is_kept_in_a_file_that_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "private" / "tokens"
    adas, bens = make(path, "ada", "approver"), make(path, "ben", "client")
    assert len(adas) >= 43, "256 bits"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert adas not in text
    assert bens not in text
    assert [(entry.name, entry.role) for entry in entries_in(text)] == [
        ("ada", "approver"),
        ("ben", "client"),
    ]
    assert re.fullmatch(
        r"ada,approver,\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00,[0-9a-f]{64}", text.splitlines()[0]
    )


def test_a_token_is_good_from_when_it_is_made_until_its_line_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    known = Tokens("", path)
    assert not known
    token = make(path, "ada", "operator")
    found = known.find(token)
    assert found is not None
    assert (found.name, found.role) == ("ada", Role.OPERATOR)
    assert known.find("guessed") is None
    assert known.find(hash_of(token)) is None, "what is in the file opens nothing"
    path.write_text("# nobody\n")
    assert known.find(token) is None
    make(path, "ben", "viewer")
    assert known
    path.unlink()
    assert not known


def test_those_of_a_setting_and_of_a_file_are_good_together(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    of_file = make(path, "ada", "viewer")
    known = Tokens(f"{named('ben', 'admin', 'bens')} {named('cem', 'client', 'cems')}", path)
    assert [found.name for token in (of_file, "bens", "cems") if (found := known.find(token))] == [
        "ada",
        "ben",
        "cem",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "ada",
        "ada,admin,2026-11-28",
        f"ada,king,2026-11-28,{'0' * 64}",
        f"ada,machine,2026-11-28,{'0' * 64}",
        f",admin,2026-11-28,{'0' * 64}",
        f"a b,admin,2026-11-28,{'0' * 64}",
        "ada,admin,2026-11-28,the-token-itself",
        f"ada,admin,2026-11-28,{'0' * 64},more",
    ],
)
def test_an_entry_that_nobody_can_use_lets_nobody_in_and_is_not_shown(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadEntry) as refused:
        NamedToken.read(line)
    assert "the-token-itself" not in str(refused.value)
    path = tmp_path / "tokens"
    token = make(path, "ben", "admin")
    with path.open("a") as file:
        file.write(f"{line}\n")
    assert not Tokens("", path)
    assert Tokens("", path).find(token) is None


def test_the_command_prints_the_token_once_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens"
    assert main([str(path), "ada", "operator"]) == 0
    printed = capsys.readouterr()
    assert Tokens("", path).find(printed.out.strip()) is not None
    assert printed.out.strip() not in printed.err
    assert main([str(path), "ada", "king"]) == 1
    assert "king" not in path.read_text()
    assert "the role of ada is none of client, viewer, operator, approver, admin" in capsys.readouterr().err
    assert main([str(path), "ada"]) == 2
