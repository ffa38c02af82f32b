"""One named test per fault that was found once: real processes, a real broker, less than 20 s each.

``make e2e`` runs them; ``make test`` does not. A fault that can be shown without several processes belongs
into ``unit/``, ``contract/`` or ``integration/``.
"""
