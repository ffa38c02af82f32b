"""See tests/conformance/test_errors.py."""

from tests.conformance.test_errors import *  # noqa: F401, F403
