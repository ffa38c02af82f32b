from __future__ import annotations

import pytest
from sqlalchemy import select, update

from federation.context import Federation
from federation.db.tables import tokens
from federation.registry import users
from federation.registry.users import User
from umbel.protocol.errors import BadRequest, Unauthorized


def test_a_name_is_one_user(fed: Federation, ada: User, bob: User) -> None:
    assert users.ensure_user(fed, "ada") == ada
    assert bob.no != ada.no and bob.id != ada.id


@pytest.mark.parametrize("name", ["", "a" * 65, "a\nb"])
def test_an_impossible_name_is_refused(fed: Federation, name: str) -> None:
    with pytest.raises(BadRequest):
        users.ensure_user(fed, name)


def test_a_token_opens_and_only_its_hash_is_kept(fed: Federation, ada: User) -> None:
    token = users.create_token(fed, ada, "laptop")

    assert users.authenticate(fed, token) == ada
    assert token.startswith("umb_") and len(token) == users.TOKEN_LENGTH
    with fed.database.read() as connection:
        kept = connection.execute(select(tokens)).one()
    assert token not in map(str, kept) and token[4:] not in map(str, kept)


def test_tokens_belong_to_their_users(fed: Federation, ada: User, bob: User) -> None:
    assert users.authenticate(fed, users.create_token(fed, bob, "")) == bob


@pytest.mark.parametrize(
    "token",
    [
        "",
        "umb_",
        "umb_" + "A" * 43,
        "umb_" + "A" * 42,
        "x" * 100_000,
        "umb_" + "\udcff" * 43,
        "umb_" + "é" * 43,
    ],
)
def test_what_is_no_token_is_refused(fed: Federation, ada: User, token: str) -> None:
    with pytest.raises(Unauthorized):
        users.authenticate(fed, token)


def test_an_expired_token_is_refused(fed: Federation, ada: User) -> None:
    assert users.authenticate(fed, users.create_token(fed, ada, "", lifetime=60)) == ada
    with pytest.raises(Unauthorized):
        users.authenticate(fed, users.create_token(fed, ada, "", lifetime=-1))


def test_a_revoked_token_is_refused_at_once(fed: Federation, ada: User) -> None:
    token = users.create_token(fed, ada, "")
    users.authenticate(fed, token)
    with fed.database.write() as connection:
        connection.execute(update(tokens).values(revoked=1.0))
    with pytest.raises(Unauthorized):
        users.authenticate(fed, token)
