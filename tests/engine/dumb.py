"""A second model of a workflow, deliberately dumb: each branch is a generator that says what it waits for.

It knows no agenda, no counters, no rows and no steps: after each event whoever may go on goes on, and a JOIN looks at
everything again. What it does is read off the rules of operators and retries (CONDUCTOR.md 2.2, 2.3, 2.6, 2.7, 2.8),
not off the engine. Times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

TERMINAL = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "TIMED_OUT", "CANCELED")
SUCCESSFUL = ("COMPLETED", "COMPLETED_WITH_ERRORS", "SCHEDULED", "IN_PROGRESS")
# Who is told of its end, or whose time comes, while the workflow is paused: nothing follows of it until it is resumed.
EVEN_WHEN_PAUSED = ("answer", "signal", "clock", "child")

Wait = tuple[str, Any]
Branch = Iterator[Wait]


class Place(NamedTuple):
    """In which iteration of each loop around it, and what those loops are called; and in which branches."""

    iterations: tuple[int, ...] = ()
    loops: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()

    def of(self, reference: str) -> str:
        return reference + "".join(f"__{number}" for number in self.iterations)


class Try:
    """One attempt of a task."""

    def __init__(self, base: str, place: Place, status: str, given: dict[str, Any]) -> None:
        self.base, self.place, self.status, self.given = base, place, status, given
        self.output: dict[str, Any] = {}
        self.passed = False  # it has failed, and the walk went on


class Ended(Exception):
    """The workflow has an outcome."""


class Broken(Exception):
    """A loop has to be left. (its name, the status of the task that failed)"""


class Thread:
    def __init__(self, branch: Branch, place: Place) -> None:
        self.branch, self.place, self.turn = branch, place, 0
        self.waits: Wait = ("going", None)


class Dumb:
    """A run of one execution. `definitions`: all workflows by name; `retries`: task definitions by name."""

    def __init__(
        self, definitions: dict[str, Any], name: str, retries: dict[str, Any], given: dict[str, Any], now: int
    ) -> None:
        self.definitions, self.definition, self.retries, self.input = definitions, definitions[name], retries, given
        self.clock = [now]  # shared with the children
        self.tries: dict[str, list[Try]] = {}
        self.made: list[Try] = []  # in the order in which they came to be
        self.children: dict[str, list[Dumb]] = {}
        self.done: set[str] = set()
        self.answers: dict[str, tuple[str, dict[str, Any]]] = {}
        self.owners: dict[str, Thread] = {}
        self.variables = dict(self.definition.get("variables", {}))
        self.status, self.is_paused, self.turns = "RUNNING", False, 0
        self.threads: list[Thread] = []
        self.now_runs: Thread | None = None
        self._spawn(self._sequence(self.definition["tasks"], Place()), Place())
        self.settle()

    # --- what happens to it

    def asked(self, kind: str = "answer") -> list[str]:
        return sorted(thread.waits[1] for thread in self.threads if thread.waits[0] == kind)

    def dues(self) -> list[int]:
        """When something goes on by itself."""
        own = [thread.waits[1] for thread in self.threads if thread.waits[0] in ("until", "clock")]
        inner = [due for one in self.all_children() if one.status == "RUNNING" for due in one.dues()]
        return sorted(due for due in (*own, *inner) if due > self.clock[0])

    def all_children(self) -> list[Dumb]:
        return [one for many in self.children.values() for one in many]

    def answer(self, reference: str, status: str, output: dict[str, Any]) -> None:
        self.answers[reference] = (status, output)
        self.settle()

    def settle(self) -> None:
        """Whoever may go on goes on, who has waited longest first, until nobody may."""
        while self.status == "RUNNING":
            for child in self.all_children():
                if child.status == "RUNNING":
                    child.settle()
            ready = [thread for thread in self.threads if self._may_go_on(thread)]
            if not ready:
                break
            # What a task that has ended is joined by knows of it before its branch goes on.
            self._resume(min(ready, key=lambda one: (one.waits[0] != "when", one.turn)))
        if self.status == "RUNNING" and not self.threads and not self.is_paused:
            self._complete()

    def end(self, status: str) -> None:
        self.status = status
        for one in self.made:
            self._cancel(one)
        for thread in self.threads:
            thread.branch.close()  # type: ignore[attr-defined]
        self.threads = []

    def output_of(self, base: str) -> dict[str, Any] | None:
        """Of the newest attempt, in whatever iteration."""
        found = [one for one in self.made if one.base == base]
        return found[-1].output if found else None

    # --- threads

    def _may_go_on(self, thread: Thread) -> bool:
        kind, what = thread.waits
        if self.is_paused and kind not in EVEN_WHEN_PAUSED:
            return False
        if kind in ("answer", "signal"):
            return what in self.answers
        if kind in ("until", "clock"):
            return bool(self.clock[0] >= what)
        return True if kind == "going" else bool(what())

    def _spawn(self, branch: Branch, place: Place) -> None:
        self.turns += 1
        thread = Thread(branch, place)
        thread.turn = self.turns
        self.threads.append(thread)

    def _resume(self, thread: Thread, error: Broken | None = None) -> None:
        before, self.now_runs = self.now_runs, thread
        try:
            thread.waits = thread.branch.throw(error) if error else next(thread.branch)  # type: ignore[attr-defined]
            self.turns += 1
            thread.turn = self.turns
        except StopIteration:
            self.threads.remove(thread)
        except Ended as ended:
            self.end(str(ended))
        except Broken as broken:
            # The loop runs in the thread from which this one branched off.
            self.threads.remove(thread)
            self._resume(self.owners[broken.args[0]], broken)
        finally:
            self.now_runs = before

    def _complete(self) -> None:
        for task in self._permissive(self.definition["tasks"]):
            if any(self._let_go_on(one) for one in self.made if one.base == task):
                self.end("FAILED")
                return
        self.end("COMPLETED")

    def _let_go_on(self, one: Try) -> bool:
        """Whether it has failed for good, and not been cancelled with a loop around it."""
        last = self.tries[one.place.of(one.base)][-1] is one
        return last and one.status not in SUCCESSFUL and (one.status != "CANCELED" or one.passed)

    def _permissive(self, tasks: list[dict[str, Any]]) -> list[str]:
        found = []
        for task in tasks:
            if task.get("permissive") and not task.get("optional"):
                found.append(task["taskReferenceName"])
            inner = [*task.get("decisionCases", {}).values(), task.get("defaultCase", []), task.get("loopOver", [])]
            for branch in (*inner, *task.get("forkTasks", [])):
                found += self._permissive(branch)
        return found

    # --- attempts

    def _begin(self, task: dict[str, Any], place: Place, status: str) -> Try:
        base = task["taskReferenceName"]
        given = {key: self._value(value) for key, value in task.get("inputParameters", {}).items()}
        made = Try(base, place, status, given)
        self.tries.setdefault(place.of(base), []).append(made)
        self.made.append(made)
        return made

    def _value(self, value: Any) -> Any:
        """Of `${workflow.input.x}`, `${workflow.variables.x}`, `${ref.output.x}`, and of anything else itself."""
        if not (isinstance(value, str) and value.startswith("${")):
            return value
        root, field, key = value[2:-1].split(".")
        if root == "workflow":
            return (self.input if field == "input" else self.variables).get(key)
        return (self.output_of(root) or {}).get(key)

    def _cancel(self, one: Try) -> None:
        if one.status in TERMINAL:
            return
        one.status = "CANCELED"
        for child in self.children.get(one.place.of(one.base), []):
            if child.status == "RUNNING":
                child.end("TERMINATED")

    def _outcome(self, status: str) -> str:
        return {"CANCELED": "TERMINATED", "TIMED_OUT": "TIMED_OUT"}.get(status, "FAILED")

    def _failed(self, task: dict[str, Any], one: Try, because: str = "") -> None:
        """It has failed for good: it is optional, permissive, or more than itself has failed."""
        if task.get("optional"):
            one.status = "COMPLETED_WITH_ERRORS"
        elif task.get("permissive") and not one.place.loops:
            one.passed = True
        else:
            because = because or ("FAILED" if task.get("permissive") else one.status)
            if one.place.loops:
                raise Broken(one.place.loops[-1], because)
            raise Ended(self._outcome(because))

    # --- operators

    def _sequence(self, tasks: list[dict[str, Any]], place: Place) -> Branch:
        for position, task in enumerate(tasks):
            yield ("going", None)
            kind = task["type"]
            if kind == "JOIN":
                yield from self._join(task, tasks[position - 1], place)
            else:
                yield from getattr(self, f"_{kind.lower()}")(task, place)
                self.done.add(place.of(task["taskReferenceName"]))

    def _noop(self, task: dict[str, Any], place: Place) -> Branch:
        self._begin(task, place, "COMPLETED")
        yield ("going", None)

    def _set_variable(self, task: dict[str, Any], place: Place) -> Branch:
        self.variables.update(self._begin(task, place, "COMPLETED").given)
        yield ("going", None)

    def _terminate(self, task: dict[str, Any], place: Place) -> Branch:
        made = self._begin(task, place, "COMPLETED")
        raise Ended(made.given["terminationStatus"])
        yield

    def _wait(self, task: dict[str, Any], place: Place) -> Branch:
        made = self._begin(task, place, "IN_PROGRESS")
        if "duration" in made.given:
            yield ("clock", self.clock[0] + 1000 * int(made.given["duration"].split()[0]))
        else:
            yield ("signal", place.of(made.base))
            _, made.output = self.answers.pop(place.of(made.base))
        made.status = "COMPLETED"
        yield ("going", None)

    def _simple(self, task: dict[str, Any], place: Place) -> Branch:
        yield from self._tried(task, place, self._work)

    def _inline(self, task: dict[str, Any], place: Place) -> Branch:
        yield from self._tried(task, place, self._work)

    def _sub_workflow(self, task: dict[str, Any], place: Place) -> Branch:
        yield from self._tried(task, place, self._child)

    def _tried(self, task: dict[str, Any], place: Place, do: Callable[..., Branch]) -> Branch:
        policy = task.get("taskDefinition") or self.retries.get(task["name"], {})
        most = task.get("retryCount", policy.get("retryCount", 3 if task["type"] == "SIMPLE" else 0))
        pause = 1000 * task.get("startDelay", 0)
        for retries in range(most + 1):
            made = self._begin(task, place, "SCHEDULED")
            yield ("until", self.clock[0] + pause)
            made.status = "IN_PROGRESS"
            yield from do(task, place, made)
            yield ("going", None)
            if made.status == "COMPLETED":
                return
            if made.status in ("FAILED_WITH_TERMINAL_ERROR", "CANCELED"):
                break
            pause = self._delay(policy, retries)
        self._failed(task, made)

    def _delay(self, policy: dict[str, Any], retries: int) -> int:
        base = int(policy.get("retryDelaySeconds", 60))
        delay = {
            "FIXED": base,
            "LINEAR_BACKOFF": base * int(policy.get("backoffScaleFactor", 1)) * (retries + 1),
            "EXPONENTIAL_BACKOFF": base * 2**retries,
        }[policy.get("retryLogic", "FIXED")]
        cap = int(policy.get("maxRetryDelaySeconds", 0))
        return 1000 * (min(delay, cap) if cap else delay)

    def _work(self, task: dict[str, Any], place: Place, made: Try) -> Branch:
        yield ("answer", place.of(made.base))
        made.status, made.output = self.answers.pop(place.of(made.base))

    def _child(self, task: dict[str, Any], place: Place, made: Try) -> Branch:
        child = Dumb(self.definitions, task["subWorkflowParam"]["name"], self.retries, made.given, self.clock[0])
        child.clock = self.clock
        self.children.setdefault(place.of(made.base), []).append(child)
        yield ("child", lambda: child.status != "RUNNING")
        made.status = "CANCELED" if child.status == "TERMINATED" else child.status

    def _switch(self, task: dict[str, Any], place: Place) -> Branch:
        made = self._begin(task, place, "IN_PROGRESS")
        reference = place.of(made.base)
        if task["evaluatorType"] == "value-param":
            chosen = made.given[task["expression"]]
        else:
            yield ("answer", reference)
            status, output = self.answers.pop(reference)
            if status != "COMPLETED":
                made.status = "FAILED"
                yield ("going", None)
                self._failed(task, made)
                return
            chosen = output["result"]
        made.status = "COMPLETED"
        cases: dict[str, Any] = task["decisionCases"]
        yield from self._sequence(cases.get("null" if chosen is None else chosen, task.get("defaultCase", [])), place)

    def _fork_join(self, task: dict[str, Any], place: Place) -> Branch:
        self._begin(task, place, "COMPLETED")
        for number, branch in enumerate(task["forkTasks"]):
            inner = place._replace(branches=(*place.branches, f"{place.of(task['taskReferenceName'])}/{number}"))
            self._spawn(self._sequence(branch, inner), inner)
        yield ("going", None)

    def _fork_join_dynamic(self, task: dict[str, Any], place: Place) -> Branch:
        self._begin(task, place, "COMPLETED")
        for number, one in enumerate(self._forked(task)):
            inner = place._replace(branches=(*place.branches, f"{place.of(task['taskReferenceName'])}/{number}"))
            self._spawn(self._sequence([one], inner), inner)
        yield ("going", None)

    def _forked(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        given = task["inputParameters"]
        name = given["forkTaskName"]
        return [
            {"name": name, "taskReferenceName": f"_{task['taskReferenceName']}_{name}_{number}", "type": "SIMPLE",
             "inputParameters": {**one, "__index": number}}
            for number, one in enumerate(given["forkTaskInputs"])
        ]

    def _join(self, task: dict[str, Any], fork: dict[str, Any], place: Place) -> Branch:
        made = self._begin(task, place, "IN_PROGRESS")
        if fork["type"] == "FORK_JOIN":
            branches = fork["forkTasks"]
        else:
            branches = [[one] for one in self._forked(fork)]
        joined = task.get("joinOn", []) if fork["type"] == "FORK_JOIN" else references(self._forked(fork))
        around = dict(_branches_around({**fork, "forkTasks": branches}))
        yield ("when", lambda: all(self._is_over(one, around[one], place) for one in joined))
        last = [self.tries[place.of(one)][-1] for one in joined if place.of(one) in self.tries]
        made.output = {one.place.of(one.base): one.output for one in last if one.output}
        bad = [one.status for one in last if one.status not in SUCCESSFUL]
        made.status = "COMPLETED"
        if any(one.status == "COMPLETED_WITH_ERRORS" for one in last):
            made.status = "COMPLETED_WITH_ERRORS"
        if bad:
            made.status = "CANCELED" if all(one == "CANCELED" for one in bad) else "FAILED"
            self._failed(task, made)
        self.done.add(place.of(made.base))

    def _is_over(self, base: str, branches: list[tuple[str, int]], place: Place) -> bool:
        """It has ended for good, or nobody is left who could come to it: a branch around it was begun and is at an end.
        """
        if place.of(base) in self.done:
            return True
        begun = [f"{place.of(fork)}/{number}" for fork, number in branches if place.of(fork) in self.tries]
        return any(not any(one in thread.place.branches for thread in self.threads) for one in begun)

    def _do_while(self, task: dict[str, Any], place: Place) -> Branch:
        made = self._begin(task, place, "IN_PROGRESS")
        name = place.of(made.base)
        assert self.now_runs is not None
        self.owners[name] = self.now_runs
        try:
            yield from self._iterations(task, place, made)
            if made.status == "IN_PROGRESS":
                made.status = "COMPLETED"
            yield ("going", None)
            if made.status != "COMPLETED":
                self._failed(task, made)
        except Broken as broken:
            if broken.args[0] == name:
                made.status = "FAILED"
            self._leave(name)
            if broken.args[0] != name:
                raise
            yield ("going", None)
            self._failed(task, made, broken.args[1])

    def _iterations(self, task: dict[str, Any], place: Place, made: Try) -> Branch:
        items = self._value(task["items"]) or [] if "items" in task else None
        name, keep, number = place.of(made.base), made.given.get("keepLastN", 0), 0
        made.output = {"iteration": 0}
        while items is None or number < len(items):
            number += 1
            made.output = {"iteration": number}
            if keep:
                self._forget(name, number - keep)
            inner = Place((*place.iterations, number), (*place.loops, name), place.branches)
            yield from self._sequence(task["loopOver"], inner)
            yield ("when", lambda: not any(name in one.place.loops for one in self.threads))
            if items is not None and number == len(items):
                return
            if "loopCondition" in task:
                yield ("answer", name)
                status, output = self.answers.pop(name)
                if status != "COMPLETED":
                    made.status = "FAILED_WITH_TERMINAL_ERROR"
                    return
                if not output["result"]:
                    return
                yield ("going", None)

    def _leave(self, name: str) -> None:
        """What is still open in a loop that has failed is cancelled."""
        for one in self.made:
            if name in one.place.loops:
                self._cancel(one)
        for thread in [one for one in self.threads if name in one.place.loops]:
            thread.branch.close()  # type: ignore[attr-defined]
            self.threads.remove(thread)

    def _forget(self, name: str, iteration: int) -> None:
        gone = [one for one in self.made if _stands_in(one.place, name, iteration)]
        self.made = [one for one in self.made if one not in gone]
        for one in gone:
            self.tries.pop(one.place.of(one.base), None)
            self.children.pop(one.place.of(one.base), None)


def _stands_in(place: Place, name: str, iteration: int) -> bool:
    return name in place.loops and place.iterations[place.loops.index(name)] == iteration


def references(tasks: list[dict[str, Any]]) -> list[str]:
    """All of them, those in loops left out."""
    fork = {"taskReferenceName": "", "forkTasks": [tasks]}
    return [reference for reference, _ in _branches_around(fork)]


def _branches_around(fork: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Each reference in the fork, those in loops left out, with the branches of forks around it, (fork, number)."""
    for number, branch in enumerate(fork["forkTasks"]):
        own = (fork["taskReferenceName"], number)
        for task in branch:
            yield task["taskReferenceName"], [own]
            chosen = [*task.get("decisionCases", {}).values(), task.get("defaultCase", [])]
            for case in chosen:
                for reference, around in _branches_around({"taskReferenceName": "", "forkTasks": [case]}):
                    yield reference, [own, *around[1:]]
            if "forkTasks" in task:
                for reference, around in _branches_around(task):
                    yield reference, [own, *around]
