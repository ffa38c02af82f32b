"""The REST API of a federation: schema in, one call into ``federation``, schema out.

It keeps nothing itself, knows the endpoints only through ``federation``, and never looks into functions,
arguments or results: to it they are base64.

=========== ==================================================================
app         ``create_app(fed)``: wires everything
serve       the embedded web server: ``python -m webapp.serve``
blueprint   how routes are declared, read and documented
auth        bearer tokens; who is asking
errors      every error as ``{"code", "message", "details"}``
jsons       strict JSON
polls       long polls
pages       ``/docs`` and its style
schemas/    what goes in and out; the OpenAPI document is made from them
resources/  the routes
=========== ==================================================================
"""
