"""State that is shared by the views of one application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Flask, current_app, request

from federation.context import Federation
from federation.packages.publish import Packages
from federation.registry.uploads import Uploads

from .long_polls import WAIT_KEY, LongPolls

_KEY = "umbel"


@dataclass(frozen=True)
class State:
    """What an application serves: the federation, its polls, its packages, and large requests in parts."""

    fed: Federation
    polls: LongPolls
    packages: Packages
    uploads: Uploads


def attach(app: Flask, state: State) -> None:
    """Store the state in an application."""
    app.extensions[_KEY] = state


def state() -> State:
    """Return the state of the current application."""
    found: State = current_app.extensions[_KEY]
    return found


def fed() -> Federation:
    """Return the federation of the current application."""
    return state().fed


def waiting() -> dict[str, Any]:
    """Return how the current request waits, as arguments of the methods of ``LongPolls``."""
    gone = request.environ.get("waitress.client_disconnected", lambda: False)
    return {"gone": gone, "parking": request.environ.get(WAIT_KEY)}
