"""The clients of the simulation: they submit, repeat, cancel, and follow results with a cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation.db.options import Options
from federation.ledger.cancel import cancel_group, cancel_task
from federation.ledger.results import results_after
from federation.ledger.submit import Submission, submit
from umbel.protocol import names

if TYPE_CHECKING:
    from tests.simulation.world import World


class Clients:
    """All clients of one user. ``tasks``: what was asked of each accepted task."""

    def __init__(self, world: World):
        self._world = world
        self.tasks: dict[str, Options] = {}
        self.payloads: dict[str, bytes] = {}
        self.cancelled: set[str] = set()
        # submissions by their key, and the answer if it has arrived
        self._submissions: dict[str, tuple[Submission, dict[str, Any] | None]] = {}
        self._groups: list[str] = []
        self._results: dict[str, list[tuple[Any, ...]]] = {}

    def submit(self) -> None:
        """Submit some calls."""
        chance, site = self._world.chance, self._world.site
        if not self._groups or chance.random() < 0.2:
            self._groups.append(names.new_id())
        group_id = chance.choice(self._groups)
        options = Options(max_attempts=chance.choice([1, 1, 2, 3]), retries=chance.choice([0, 0, 0, 1]))
        place = chance.choice(site.places[: max(1, len(self._world.nodes) // 2)])
        number = len(self._submissions)
        payloads = [b"%d.%d" % (number, call) for call in range(chance.choice([1, 1, 2, 5]))]
        key = names.new_id()
        self._submissions[key] = Submission(site.function_id, place.id, payloads, group_id, options), None
        self._send(key)

    def submit_again(self) -> None:
        """Repeat a submission, as a client does that saw no answer."""
        if self._submissions:
            self._send(self._world.chance.choice(list(self._submissions)))

    def submit_all_again(self) -> None:
        """Repeat all submissions that were not answered."""
        for key, (_, answer) in self._submissions.items():
            if answer is None:
                self._send(key)

    def _send(self, key: str) -> None:
        submission, before = self._submissions[key]
        answers: list[dict[str, Any]] = []
        world = self._world
        fed, user = world.site.fed, world.site.users[0]
        world.do(
            f"submission {key[:4]} of {len(submission.payloads)} calls, {submission.options.max_attempts} "
            f"attempts, {submission.options.retries} retries",
            lambda: answers.append(submit(fed, user, submission, key)),
        )
        if not answers:
            return
        assert before in (None, answers[0]), "a repeated submission has another answer"
        # a nested step may have repeated it meanwhile
        self._submissions[key] = submission, answers[0]
        for task_id, payload in zip(answers[0]["task_ids"], submission.payloads):
            self.tasks[task_id], self.payloads[task_id] = submission.options, payload

    def cancel(self) -> None:
        """Cancel a task, or rarely a group."""
        world, fed, user = self._world, self._world.site.fed, self._world.site.users[0]
        if not self.tasks:
            return
        if world.chance.random() < 0.2:
            answer = world.chance.choice(list(self._submissions.values()))[1]
            if answer is None:
                return
            group_id = answer["group_id"]
            self._note_cancelled(group_id)
            world.do(f"cancellation of group {group_id[:4]}", lambda: cancel_group(fed, user, group_id))
            # what was accepted meanwhile may be cancelled, too
            self._note_cancelled(group_id)
        else:
            task_id = world.chance.choice(list(self.tasks))
            self.cancelled.add(task_id)
            world.do(f"cancellation of task {task_id}", lambda: cancel_task(fed, user, task_id))

    def _note_cancelled(self, group_id: str) -> None:
        query = "SELECT tasks.id FROM tasks JOIN groups ON groups.no = group_no WHERE groups.id = "
        self.cancelled.update(task_id for (task_id,) in self._world.site.rows(f"{query}'{group_id}'"))

    def poll(self) -> None:
        """Read what has ended since the cursor, or everything once more."""
        answered = [its["group_id"] for _, its in self._submissions.values() if its]
        if answered:
            again = self._world.chance.random() < 0.1
            group_id = self._world.chance.choice(answered)
            self._world.do(f"poll of group {group_id[:4]}", lambda: self._poll(group_id, again))

    def _poll(self, group_id: str, again: bool = False, limit: int = 3) -> int:
        seen = self._results.setdefault(group_id, [])
        after = 0 if again else len(seen)
        page = results_after(self._world.site.fed, self._world.site.users[0], group_id, after, limit)
        found = [
            (r["completion"], r["task_id"], r["state"], r["code"], bytes(r["result"] or b""))
            for r in page["results"]
        ]
        numbers = list(range(after + 1, after + 1 + len(found)))
        assert [each[0] for each in found] == numbers, f"cursor {after}: completions {[e[0] for e in found]}"
        for each in found:
            if each[0] <= len(seen):
                assert seen[each[0] - 1] == each, f"a result has changed: {seen[each[0] - 1]} is now {each}"
            else:
                seen.append(each)
        return len(found)

    def follow_to_the_end(self) -> None:
        """Read everything; every accepted task must have exactly one result, its own."""
        expected = sum(len(submission.payloads) for submission, _ in self._submissions.values())
        (count,) = self._world.site.rows("SELECT count(*) FROM tasks")[0]
        assert count == expected == len(self.tasks), f"{count} tasks, {expected} submitted"
        for group_id in {its["group_id"]: None for _, its in self._submissions.values() if its}:
            while self._poll(group_id):
                pass
        seen = [each for results in self._results.values() for each in results]
        assert sorted(each[1] for each in seen) == sorted(self.tasks), "results are missing or doubled"
        for _, task_id, state, _, result in seen:
            if state == "succeeded":
                assert result.endswith(b":" + self.payloads[task_id]), f"task {task_id} has a wrong result"
