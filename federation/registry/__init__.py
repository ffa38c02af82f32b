"""Who and what the service knows: users and their tokens, functions, endpoints.

Every function takes the ``Federation`` first and the acting user second; what belongs to somebody else
is answered like what does not exist.
"""
