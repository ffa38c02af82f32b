"""The federation layer: registry, ledger, broker, dispatch, collect, sweep.

It imports ``umbel.protocol`` and nothing else of Umbel. It never imports Flask, never runs user code and
never unpickles: functions, arguments and results are opaque bytes here.
"""
