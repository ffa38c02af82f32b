"""See tests/conformance/test_cancel.py."""

from tests.conformance.test_cancel import *  # noqa: F401, F403
