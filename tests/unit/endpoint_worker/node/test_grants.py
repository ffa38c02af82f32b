"""Grants for bundles: the site and the submission must both allow them."""

from __future__ import annotations

import time

import pytest

from endpoint_worker.config.directory import Credentials
from endpoint_worker.config.settings import Settings
from endpoint_worker.node.grants import Grants
from tests.unit.endpoint_worker.bench import ENDPOINT, make_bundle
from umbel.protocol import grant
from umbel.protocol.envelope import Signer, Verifier, new_private_key

CREDENTIALS = Credentials(ENDPOINT, "lab", "http://registered", "redis://", bytes(32))


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("asked", [None, True])
def test_both_must_allow_it(allowed: bool, asked: bool | None) -> None:
    signer = Signer(new_private_key())
    grants = Grants(signer, CREDENTIALS, Settings(nested_submit=allowed), time.time)
    bundle, _ = make_bundle(pow, [(2, 3)], nested=asked)
    given = grants.for_bundle(bundle)
    assert (given is not None) == bool(allowed and asked)
    if given is not None:
        assert given["url"] == "http://registered"
        assert grant.endpoint_of(given["grant"]) == ENDPOINT
        assert grant.read(Verifier(signer.public_key), given["grant"], time.time()) == bundle.id


def test_the_site_may_name_another_address() -> None:
    settings = Settings(nested_submit=True, api_url="https://umbel.example")
    bundle, _ = make_bundle(pow, [(2, 3)], nested=True)
    given = Grants(Signer(new_private_key()), CREDENTIALS, settings, time.time).for_bundle(bundle)
    assert given is not None and given["url"] == "https://umbel.example"


def test_an_address_must_be_one() -> None:
    with pytest.raises(ValueError, match="api_url"):
        Settings(api_url="umbel.example")
