"""The routes: schema in, one call into ``federation``, schema out."""

from . import codes, elastic, endpoints, functions, groups, service, tasks

#: Every blueprint of the API, in the order of its documentation.
BLUEPRINTS = (functions.blp, endpoints.blp, codes.blp, elastic.blp, tasks.blp, groups.blp, service.blp)
