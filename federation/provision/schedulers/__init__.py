"""Batch systems: one contract (``base.Scheduler``), one module each."""
