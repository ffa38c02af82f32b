"""The routes: schema in, one call into ``federation``, schema out."""

from . import cancellations, codes, elastic, endpoints, functions, groups, packages, service, tasks, uploads

#: Every blueprint of the API, in the order of its documentation.
BLUEPRINTS = (
    functions.blp,
    endpoints.blp,
    codes.blp,
    elastic.blp,
    tasks.blp,
    cancellations.blp,
    groups.blp,
    uploads.blp,
    packages.blp,
    service.blp,
)
