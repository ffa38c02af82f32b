"""Versions of the protocol and of the product."""

from __future__ import annotations

__version__ = "0.1.0"

#: Version in every envelope. A reader rejects any other version with VERSION_MISMATCH. Readers ignore unknown
#: fields, so new fields do not need a new version.
PROTOCOL_VERSION = 3
