"""See tests/conformance/test_map.py."""

from tests.conformance.test_map import *  # noqa: F401, F403
