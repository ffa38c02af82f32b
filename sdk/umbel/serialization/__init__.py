"""Serialization of Python objects. ``umbel.serialize`` has the public names.

In: functions, arguments, results, exceptions. Out: bytes that begin with the name of their codec (``codec``),
compressed if they shrink enough (``compression``); code by value (``by_value``) or as source text
(``source``); exceptions as data (``exceptions``).
"""
