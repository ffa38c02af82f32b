"""Umbel: functions of yours on machines of yours, through a service of yours."""
