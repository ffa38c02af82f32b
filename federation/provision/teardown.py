"""What is left of an elastic endpoint on its site when it goes: jobs are cancelled, files are deleted."""

from __future__ import annotations

import logging
import time

from ..context import Federation
from .connection import keys
from .records import blocks, sites
from .site import bootstrap
from .site.machine import Machine

log = logging.getLogger(__name__)

#: Seconds until it is looked again whether cancelled jobs have ended: the first times, and from then on.
PAUSES, PAUSE = (1.0, 2.0), 5.0
#: A site that never let us in has nothing of ours; so long after its endpoint's end it is given up, seconds.
GIVE_UP = 3600.0


def leave(fed: Federation, machine: Machine) -> list[str]:
    """One step: cancel the endpoint's jobs, or, when there are none, delete what was put there and the rows.

    Returns the ids of jobs that are still there; [] when everything is done. May be called again after any
    failure. Raises SiteError.
    """
    site, scheduler = machine.site, machine.scheduler()
    mine = f"umbel-{site.endpoint_id[:8]}-"
    with fed.database.read() as connection:
        known = [row.job_id for row in blocks.active(connection, site.endpoint_no) if row.job_id]
    jobs = scheduler.jobs(machine.shell, known)
    left = [job.id for job in jobs if job.name.startswith(mine) and job.state.active]
    if left:
        scheduler.cancel(machine.shell, left)
        return left
    bootstrap.remove(machine)
    finish(fed, site)
    return []


def hopeless(site: sites.Site, now: float) -> bool:
    """Whether the site never answered and its endpoint is gone for long."""
    return site.looked is None and site.deleted is not None and now - site.deleted > GIVE_UP


def finish(fed: Federation, site: sites.Site) -> None:
    """Forget the site, its blocks, and the key that let us in."""
    blocks.forget_nodes(fed, site.endpoint_no, time.time() + blocks.KEEP_NODES)
    sites.remove(fed, site.endpoint_no)
    keys.key_file(fed.settings.home, site.endpoint_id).unlink(missing_ok=True)
    log.info("%s: everything is removed from %s", site.endpoint_name, site.settings.address)
