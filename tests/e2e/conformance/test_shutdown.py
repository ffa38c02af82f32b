"""See tests/conformance/test_shutdown.py."""

from tests.conformance.test_shutdown import *  # noqa: F401, F403
