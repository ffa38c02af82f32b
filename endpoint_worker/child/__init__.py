"""The process that runs user code: it loads only this folder, ``ipc`` and ``sandbox.bootstrap``.

In: frames with a function and its calls. Out: frames with outcomes. Only ``main`` imports
``umbel.serialize``.
"""
