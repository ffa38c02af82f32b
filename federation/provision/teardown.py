"""Clean up the site of an elastic endpoint that is removed: cancel its jobs, delete its files."""

from __future__ import annotations

import logging
import time

from ..context import Federation
from .connection import keys
from .records import blocks, sites
from .site import bootstrap
from .site.machine import Machine

log = logging.getLogger(__name__)

#: Seconds between two checks whether cancelled jobs have ended: the first pauses, then the usual one.
PAUSES, PAUSE = (1.0, 2.0), 5.0
#: Seconds after the endpoint's deletion at which a site that never accepted a login is given up.
GIVE_UP_AFTER = 3600.0


def run_step(fed: Federation, machine: Machine) -> list[str]:
    """Cancel the endpoint's jobs, or, if none is left, delete its files on the site and its rows.

    Returns the ids of the jobs that have not ended; [] when the cleanup is complete. May be repeated after
    any failure. Raises SiteError.
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
    delete_records(fed, site)
    return []


def is_abandoned(site: sites.Site, now: float) -> bool:
    """Whether the site never answered, ``GIVE_UP_AFTER`` seconds after its endpoint was deleted."""
    return site.looked is None and site.deleted is not None and now - site.deleted > GIVE_UP_AFTER


def delete_records(fed: Federation, site: sites.Site) -> None:
    """Delete the rows of the site and its blocks, and the private key for the site."""
    blocks.delete_old_nodes(fed, site.endpoint_no, time.time() + blocks.KEEP_NODES)
    sites.remove(fed, site.endpoint_no)
    keys.key_file(fed.settings.home, site.endpoint_id).unlink(missing_ok=True)
    log.info("%s: removed site %s", site.endpoint_name, site.settings.address)
