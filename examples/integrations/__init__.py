"""Adapters that let other libraries run their work on an Umbel endpoint."""
