"""Dispatch: which calls go out now, in what bundles, and how they are sent."""

from .refill import Planned, refill, wanting
from .send import send

__all__ = ["Planned", "refill", "send", "wanting"]
