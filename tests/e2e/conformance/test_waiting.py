"""See tests/conformance/test_waiting.py."""

from tests.conformance.test_waiting import *  # noqa: F401, F403
