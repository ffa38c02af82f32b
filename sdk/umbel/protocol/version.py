"""Versions of the protocol and of the product."""

from __future__ import annotations

__version__ = "0.1.0"

#: Version written into every envelope. A reader refuses a higher one with VERSION_MISMATCH;
#: fields that a reader does not know are ignored, so additions do not raise it.
PROTOCOL_VERSION = 1
