"""See tests/conformance/test_submit.py."""

from tests.conformance.test_submit import *  # noqa: F401, F403
