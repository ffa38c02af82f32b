"""See tests/conformance/test_callbacks.py."""

from tests.conformance.test_callbacks import *  # noqa: F401, F403
