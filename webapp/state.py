"""What the handlers of one application share."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask, current_app

from federation.context import Federation
from federation.packages.publish import Packages

from .polls import Polls

_KEY = "umbel"


@dataclass(frozen=True)
class State:
    """The federation that an application serves, its waiting polls, and the packages it offers."""

    fed: Federation
    polls: Polls
    packages: Packages


def attach(app: Flask, state: State) -> None:
    """Give an application its state."""
    app.extensions[_KEY] = state


def state() -> State:
    """The state of the application that handles the present request."""
    found: State = current_app.extensions[_KEY]
    return found


def fed() -> Federation:
    """The federation that the present request is about."""
    return state().fed
