"""Which pages end a poll, and to what it subscribes; how it waits is in ``contract/test_api_waiting.py``."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from federation.registry.users import User
from webapp import long_polls
from webapp.long_polls import LongPolls, Parked, Wait

ME = User(1, "ada", "")


class News:
    """The notifier, and the only subscription. ``comes``: what happens in the first wait of a poll."""

    stopped = False
    comes: Callable[[], object] | None = None

    def __init__(self) -> None:
        self.topics: list[tuple[str, ...]] = []

    def subscribe(self, *topics: str) -> News:
        self.topics.append(topics)
        return self

    def clear(self) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        comes, self.comes = self.comes, None
        if comes is not None:
            comes()
        return comes is not None

    def close(self) -> None:
        pass


@pytest.fixture
def news() -> News:
    return News()


@pytest.fixture
def polls(news: News, monkeypatch: pytest.MonkeyPatch) -> LongPolls:
    """Long polls of a ledger in which all tasks belong to group ``g``; see ``answer`` for its pages."""
    monkeypatch.setattr(long_polls.logs, "group_of", lambda fed, user, task_id: "g")
    return LongPolls(SimpleNamespace(clock=lambda: 0.0), news, 1)  # type: ignore[arg-type]


def _is_news(polls: LongPolls, kind: str, known: int | None, wait: float = 30.0) -> bool:
    state = Wait()
    try:
        if kind == "log":
            page = polls.log(ME, "t", offset=0, attempt=known, wait=wait, parking=state)
        else:
            page = polls.items(ME, "t", after=0, run=known, limit=10, wait=wait, parking=state)
    except Parked:
        state.close()
        return False
    assert page
    return True


@pytest.mark.parametrize("kind", ["log", "items"])
@pytest.mark.parametrize(
    ("content", "ended", "number", "known", "expected"),
    [
        (False, False, 1, None, False),
        (True, False, 1, None, True),
        (False, True, 1, None, True),
        (False, False, 1, 1, False),
        (False, False, 2, 1, True),
        (True, False, 1, 1, True),
    ],
)
def test_content_the_end_and_another_run_are_news(
    polls: LongPolls,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    content: bool,
    ended: bool,
    number: int,
    known: int | None,
    expected: bool,
) -> None:
    page: dict[str, Any] = {"ended": ended, "attempt": number, "run": number}
    page |= {"text": "x" * content, "items": [1] * content}
    monkeypatch.setattr(long_polls.logs, "log_from", lambda *_: page)
    monkeypatch.setattr(long_polls.streams, "items_after", lambda *_: page)
    assert _is_news(polls, kind, known) == expected
    assert polls.parked.taken == 0


@pytest.mark.parametrize("kind", ["log", "items"])
def test_a_poll_subscribes_to_its_task_and_the_group(
    polls: LongPolls, news: News, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The group is notified when the task ends. One that does not wait needs nothing."""
    page = {"ended": False, "attempt": 1, "run": 1, "text": "", "items": []}
    monkeypatch.setattr(long_polls.logs, "log_from", lambda *_: page)
    monkeypatch.setattr(long_polls.streams, "items_after", lambda *_: page)
    for wait in (0.0, 0.5, 30.0):
        _is_news(polls, kind, None, wait)
    assert news.topics == [(), ("t", "g"), ("t", "g")]


def test_news_that_come_soon_end_a_poll_before_it_is_parked(
    polls: LongPolls, news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"ended": False, "attempt": 1, "text": ""}
    monkeypatch.setattr(long_polls.logs, "log_from", lambda *_: dict(page))
    assert not _is_news(polls, "log", None)
    news.comes = lambda: page.update(text="x")
    assert _is_news(polls, "log", None)
    page["text"], news.comes = "", lambda: None
    assert not _is_news(polls, "log", None), "of something else"


def test_few_polls_wait_on_a_thread_before_they_are_parked(
    polls: LongPolls, news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"ended": False, "attempt": 1, "text": ""}
    monkeypatch.setattr(long_polls.logs, "log_from", lambda *_: page)
    waiting = [0]

    def another() -> None:
        """A poll that arrives while others wait."""
        waiting[0] += 1
        news.comes = another
        assert not _is_news(polls, "log", None)

    news.comes = another
    assert not _is_news(polls, "log", None)
    assert waiting == [long_polls.QUICK_POLLS]
    news.comes = another
    assert not _is_news(polls, "log", None)
    assert waiting == [2 * long_polls.QUICK_POLLS], "they release what they took"


def test_no_poll_is_parked_while_the_process_stops(
    polls: LongPolls, news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_polls.logs, "log_from", lambda *_: {"ended": False, "attempt": 1, "text": ""})
    news.stopped = True
    assert _is_news(polls, "log", None) and polls.parked.taken == 0


def test_news_are_forgotten_before_each_look(
    polls: LongPolls, news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So none that comes after a look is missed, and none that came before it wakes the poll again."""
    order: list[str] = []

    def look(*_: Any) -> dict[str, Any]:
        order.append("look")
        return {"ended": False, "attempt": 1, "text": ""}

    monkeypatch.setattr(long_polls.logs, "log_from", look)
    monkeypatch.setattr(news, "clear", lambda: order.append("clear"))
    news.comes = lambda: order.append("news")
    assert not _is_news(polls, "log", None)
    assert order == ["clear", "look", "news", "clear", "look"]


def test_a_poll_that_waits_in_a_thread_misses_no_news(
    polls: LongPolls, news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def look(*_: Any) -> dict[str, Any]:
        order.append("look")
        return {"ended": order.count("look") == 3, "attempt": 1, "text": ""}

    def another() -> None:
        order.append("news")
        news.comes = another

    monkeypatch.setattr(long_polls.logs, "log_from", look)
    monkeypatch.setattr(news, "clear", lambda: order.append("clear"))
    news.comes = another
    assert polls.log(ME, "t", offset=0, attempt=None, wait=30.0)["ended"]
    assert order == ["clear", "look", "news", "clear", "look", "news", "clear", "look"]
