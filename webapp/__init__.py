"""The REST API of a federation: schema in, one call into ``federation``, schema out.

It has no state of its own, accesses endpoints through ``federation`` only, and never decodes functions,
arguments or results: it handles them as base64.

=========== ==================================================================
app         ``create_app(fed)``: the application factory
serve       the embedded web server: ``python -m webapp.serve``
channel     one connection of it: parked requests, large bodies, errors
connections limits on connections
admission   limits on large request bodies
buffers     large bodies of requests and responses in memory
parking     requests that wait without a thread
uploads     requests whose body was sent in parts
blueprint   declaration, parsing and documentation of routes
auth        bearer tokens and one-time codes
errors      every error as ``{"code", "message", "details"}``
strict_json strict JSON
long_polls  requests that wait for new results
pages       ``/docs`` and ``/openapi.json``
schemas/    request and response bodies; the OpenAPI document is generated from them
resources/  the routes
=========== ==================================================================
"""
