"""One endpoint: a Celery worker on its own queue whose pool is supervised runner processes.

::

    broker --> worker (Celery) --> intake --> supervisor --> runner process --> the user's function
    broker <-- reports (Outbox) <-------------+

========== ==================================================================
cli        the ``umbel-endpoint`` command
settings   ``endpoint.toml``: how this site runs calls
folder     an endpoint's folder: credentials, keys, pid files, spool, logs
configure  registration with the service
worker     the Celery worker, put together and started
cli_site   its commands for the machine that the endpoint is on
check      what may keep an endpoint from working
boot       starting with the machine, by systemd
logs       what a worker logs, and how it is read
control    starting in the background, stopping
transport  kombu's Redis transport with the repairs that a long-lived worker needs
jobs       a bundle on its way through the worker
inbox      commands for a thread that waits in a selector
intake     from a Celery message to a checked job
rules      what the site lets run, whatever the service says
pool       the Celery pool, a door to the supervisor
node       what a worker node is made of; its heartbeat
supervisor the thread that owns all runners
placing    which runner takes which waiting bundle
places     how runners are started: by settings, for whom and for what
reception  leads bundles to the environment that their function needs
desk       bundles that wait until their environment is built
environments  building environments and keeping them
sandbox    what runners are closed in: bubblewrap, containers
crew       the runners of a node as a group
slot       one runner and the bundle that it runs
child      one runner's process
runs       what became of each call of a running bundle
notes      what a runner says of a call's end beside its result
stream     what calls yield, on its way to the service
journal    memory that supervisor and runner share
waiting    bundles that wait for a slot
wire       frames on the socket between them
runner     the child process: the only place where user code runs
kernel     the two favours that only Linux does for processes
strays     processes that got away from their runner
ceilings   limits that the system holds for a runner
tidy       what a runner puts right between calls
reports    the outbox: signs reports, keeps them on disk until the broker has them
broker     the endpoint's own connections to the broker
========== ==================================================================

``runner``, ``tidy``, ``ceilings``, ``stream``, ``journal``, ``wire``, ``kernel`` and ``sandbox.inside`` are
loaded in the child; only ``runner`` imports ``umbel.serialize``.
"""
