"""How a runner's process is closed in: by nothing, bubblewrap, or a container.

========== ==================================================================
settings   table ``[sandbox]`` of ``endpoint.toml``
launchers  the command line of each kind
mounts     what is visible inside, and where
line       worker: the socket and the journal of a runner, however it is started
inside     runner: finds its way back to the worker from within a container
kit        the few pure-Python packages that a runner needs, for other interpreters
========== ==================================================================

``inside`` and ``kit``'s content run in whatever Python an image has (3.10 or later), with nothing installed.
"""
