"""Python objects to bytes and back. ``umbel.serialize`` has the public names.

In: functions, arguments, results, exceptions. Out: bytes whose first characters name their codec (``codec``),
compressed where that pays (``compression``); code by value (``by_value``) or by its source text (``source``);
exceptions as data (``exceptions``).
"""
