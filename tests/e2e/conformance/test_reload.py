"""See tests/conformance/test_reload.py."""

from tests.conformance.test_reload import *  # noqa: F401, F403
