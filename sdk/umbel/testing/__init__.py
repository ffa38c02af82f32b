"""Test programs that use Umbel without a service: ``LocalService``.

In: the same ``Client`` and ``Executor`` as with a real service. Out: the same answers and errors, from memory
(``service``, ``records``) and threads (``workers``).
"""

from .local_service import LocalService

__all__ = ["LocalService"]
