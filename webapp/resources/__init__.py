"""The routes: schema in, one call into ``federation``, schema out."""

from . import codes, elastic, endpoints, functions, groups, service, tasks

#: All blueprints of the API, in the order of the documentation.
BLUEPRINTS = (functions.blp, endpoints.blp, codes.blp, elastic.blp, tasks.blp, groups.blp, service.blp)
