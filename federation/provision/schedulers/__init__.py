"""Batch systems: one module per system, all implementing ``base.Scheduler``."""
