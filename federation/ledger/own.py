"""What the token of a call may see: tasks in groups that calls of the same task have created."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from ..context import Federation
from ..db import shared
from ..db.tables import groups, tasks
from ..registry.users import User
from .task_rows import group_not_found, task_not_found


def check_task(fed: Federation, user: User, task_id: str) -> None:
    """Raise NotFound if the present token must not see a task. Other tokens see all tasks of their user."""
    if own_tasks(fed, user, [task_id]) != [task_id]:
        raise task_not_found(task_id)


def check_group(fed: Federation, user: User, group_id: str) -> None:
    """Raise NotFound if the present token must not see a group."""
    if user.task_id is None:
        return
    query = select(groups.c.no).where(groups.c.id == group_id, groups.c.parent == user.task_id)
    with fed.database.read() as connection:
        if connection.execute(query).first() is None:
            raise group_not_found(group_id)


def own_tasks(fed: Federation, user: User, task_ids: Sequence[str]) -> list[str]:
    """Return the ids of the tasks that the present token may see."""
    if user.task_id is None:
        return list(task_ids)
    query = select(tasks.c.id).join(groups, groups.c.no == tasks.c.group_no)
    with fed.database.read() as connection:
        query = query.where(
            shared.among(connection, tasks.c.id, list(task_ids)), groups.c.parent == user.task_id
        )
        return list(connection.execute(query).scalars())
