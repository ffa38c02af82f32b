"""See tests/conformance/test_streams.py."""

from tests.conformance.test_streams import *  # noqa: F401, F403
