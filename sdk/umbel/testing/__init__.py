"""``LocalService``: test programs that use Umbel without a service.

In: requests of the same ``Client`` and ``Executor`` as with a real service (``local_service``). Out: the same
answers and errors, from memory (``service``, ``records``) and threads that run the calls (``workers``).
"""

from .local_service import LocalService

__all__ = ["LocalService"]
