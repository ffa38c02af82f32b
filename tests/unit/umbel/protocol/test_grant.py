"""Grants: only the key of the endpoint that they name makes them."""

from __future__ import annotations

import time

import pytest

from umbel.protocol import grant, limits, names
from umbel.protocol.envelope import LEEWAY, Signer, Verifier, new_private_key
from umbel.protocol.errors import ProtocolError

ENDPOINT, OTHER, BUNDLE = names.new_id(), names.new_id(), names.new_id()
SIGNER = Signer(new_private_key())
VERIFIER = Verifier(SIGNER.public_key)
NOW = time.time()


def test_a_grant_names_its_endpoint_and_its_bundle() -> None:
    written = grant.write(SIGNER, ENDPOINT, BUNDLE, NOW)
    assert grant.endpoint_of(written) == ENDPOINT and len(written) < grant.MAX_GRANT
    assert grant.read(VERIFIER, written, NOW + limits.BUNDLE_LIFETIME) == BUNDLE


@pytest.mark.parametrize(
    "text",
    ["", "umg_", "umg_.", "umb_" + "A" * 43, f"umg_{ENDPOINT[:-1]}.AA", f"umg_{ENDPOINT}." + "A" * 1024],
)
def test_other_strings_are_none(text: str) -> None:
    with pytest.raises(ProtocolError):
        grant.endpoint_of(text)
    with pytest.raises(ProtocolError):
        grant.read(VERIFIER, text, NOW)


def test_a_grant_that_was_changed_is_refused() -> None:
    written = grant.write(SIGNER, ENDPOINT, BUNDLE, NOW)
    mine = grant.write(SIGNER, OTHER, BUNDLE, NOW)
    report = SIGNER.seal({"typ": "report", "aud": "service", "iat": NOW, "endpoint": ENDPOINT})[0]
    for bad in (
        written[:-4],
        written + "AAAA",
        written.replace(ENDPOINT, OTHER),
        f"umg_{ENDPOINT}.{mine.partition('.')[2]}",
        f"umg_{ENDPOINT}.é",
        f"umg_{ENDPOINT}.{report.hex()}",
        grant.write(Signer(new_private_key()), ENDPOINT, BUNDLE, NOW),
        grant.write(SIGNER, ENDPOINT, "", NOW),
    ):
        with pytest.raises(ProtocolError):
            grant.read(VERIFIER, bad, NOW)


def test_a_grant_expires() -> None:
    written = grant.write(SIGNER, ENDPOINT, BUNDLE, NOW)
    with pytest.raises(ProtocolError, match="expired"):
        grant.read(VERIFIER, written, NOW + limits.BUNDLE_LIFETIME + LEEWAY + 1)
