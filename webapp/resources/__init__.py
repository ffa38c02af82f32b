"""The routes: schema in, one call into ``federation``, schema out."""

from . import codes, elastic, endpoints, functions, groups, packages, service, tasks

#: Every blueprint of the API, in the order of its documentation.
BLUEPRINTS = (
    functions.blp,
    endpoints.blp,
    codes.blp,
    elastic.blp,
    tasks.blp,
    groups.blp,
    packages.blp,
    service.blp,
)
