"""One-time codes: one endpoint of one name, once, for a while."""

from __future__ import annotations

import base64

from tests.support.api import Api

KEY = base64.b64encode(bytes(32)).decode()


def test_a_code_registers_one_endpoint_for_its_maker(api: Api) -> None:
    made = api.ada.ok("POST", "/v1/codes", {"name": "lab"})
    bearer = api.caller(made["code"])
    assert bearer("POST", "/v1/registrations", {"name": "other", "public_key": KEY}).status_code == 401
    answer = bearer.ok("POST", "/v1/registrations", {"name": "lab", "public_key": KEY})
    assert answer["credentials"]["broker_url"] and answer["name"] == "lab"
    assert api.ada.ok("GET", "/v1/endpoints/lab")["id"] == answer["id"]
    assert bearer("POST", "/v1/registrations", {"name": "lab", "public_key": KEY}).status_code == 401


def test_a_code_is_no_token_and_a_token_no_code(api: Api) -> None:
    code = api.caller(api.ada.ok("POST", "/v1/codes", {"name": "lab"})["code"])
    assert code("GET", "/v1/whoami").status_code == 401
    assert code("POST", "/v1/endpoints", {"name": "lab", "public_key": KEY}).status_code == 401
    assert api.ada("POST", "/v1/registrations", {"name": "lab", "public_key": KEY}).status_code == 401


def test_a_refused_registration_does_not_use_the_code_up(api: Api) -> None:
    api.endpoint("lab")
    code = api.caller(api.ada.ok("POST", "/v1/codes", {"name": "lab"})["code"])
    body = {"name": "lab", "public_key": KEY}
    assert code("POST", "/v1/registrations", body).json["code"] == "NAME_TAKEN"  # type: ignore[index]
    assert api.ada("DELETE", "/v1/endpoints/lab").status_code == 204
    code.ok("POST", "/v1/registrations", body)


def test_a_code_expires(api: Api) -> None:
    made = api.ada.ok("POST", "/v1/codes", {"name": "lab", "lifetime": 100})
    from sqlalchemy import update

    from federation.db.tables import tokens

    with api.fed.database.write() as connection:
        connection.execute(update(tokens).where(tokens.c.label.like("code %")).values(expires=1.0))
    answer = api.caller(made["code"])("POST", "/v1/registrations", {"name": "lab", "public_key": KEY})
    assert answer.status_code == 401 and "expired" in answer.text
