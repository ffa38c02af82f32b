"""The process that runs user code: this folder, ``ipc`` and ``sandbox.bootstrap`` are all that it loads.

In: frames with a function and its calls. Out: frames with outcomes. Only ``main`` imports
``umbel.serialize``.
"""
