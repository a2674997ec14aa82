"""Every operator works the same when the leader is killed between any two of its log entries."""

from __future__ import annotations

import asyncio

from orchestrator.testing import fail, http_answer
from orchestrator_client import TerminalError
from tests.testing_kit.exactness import (
    Story,
    a,
    b,
    c,
    d,
    element,
    same_wherever_the_leader_dies,
    step,
    undone,
    workflow,
)

RETRIED = {"name": "a", "retryCount": 2, "retryDelaySeconds": 1}


@same_wherever_the_leader_dies
async def test_a_task_that_is_retried(story: Story) -> None:
    story.serve(fail(a, OSError("busy"), times=2), b)
    ended = await story.run(step("a", 1, retryCount=2, taskDefinition=RETRIED), step("b", "${a.output.n}"))
    assert ended.status == "COMPLETED"
    assert story.asked[0].effects == ["a", "b"]


@same_wherever_the_leader_dies
async def test_optional_and_permissive_tasks(story: Story) -> None:
    story.serve(fail(a, TerminalError("NO")), fail(b, TerminalError("NEITHER")), c, d)
    fork = element("FORK_JOIN", "f", forkTasks=[[step("b", permissive=True)], [step("c")]])
    ended = await story.run(step("a", optional=True), fork, element("JOIN", "j", joinOn=["b", "c"]), step("d"))
    assert ended.status == "FAILED"
    assert story.asked[0].effects == ["c"]


@same_wherever_the_leader_dies
async def test_scripts(story: Story) -> None:
    story.serve(a)
    script = {"n": 20, "evaluatorType": "javascript", "expression": "$.n + 1"}
    body = {"n": "${i.output.result}", "scriptExpression": "return $.n * 2;"}
    jq = {"n": ["${l.output.result}", 1], "queryExpression": ".n | add"}
    ended = await story.run(
        element("INLINE", "i", script),
        element("LAMBDA", "l", body),
        element("JSON_JQ_TRANSFORM", "q", jq),
        step("a", "${q.output.result}"),
    )
    assert ended.output == {"did": "a", "n": 43}


@same_wherever_the_leader_dies
async def test_a_script_that_fails(story: Story) -> None:
    story.serve()
    script = {"evaluatorType": "javascript", "expression": "nothing.at.all"}
    ended = await story.run(undone("a"), element("INLINE", "i", script))
    assert ended.status == "FAILED"
    assert story.asked[0].effects == ["a", "undo_a"]


@same_wherever_the_leader_dies
async def test_switches(story: Story) -> None:
    story.serve()
    by_value = element(
        "SWITCH",
        "v",
        {"v": "x"},
        evaluatorType="value-param",
        expression="v",
        decisionCases={"x": [step("a")]},
        defaultCase=[step("b")],
    )
    by_script = element(
        "SWITCH",
        "s",
        {"v": 2},
        evaluatorType="javascript",
        expression="$.v > 1 ? 'big' : 'small'",
        decisionCases={"big": [step("c")], "small": []},
    )
    ended = await story.run(by_value, by_script, step("d"))
    assert ended.status == "COMPLETED"
    assert story.asked[0].effects == ["a", "c", "d"]


@same_wherever_the_leader_dies
async def test_a_loop_with_a_condition(story: Story) -> None:
    story.serve()
    body = [step("a", "${l.output.iteration}"), undone("b", "${a.output.n}")]
    loop = element("DO_WHILE", "l", {"keepLastN": 2}, loopCondition="$.l['iteration'] < 4", loopOver=body)
    ended = await story.run(loop, step("c", "${a.output.n}"))
    assert ended.output == {"did": "c", "n": 4}
    assert story.asked[0].effects == ["a", "b"] * 4 + ["c"]


@same_wherever_the_leader_dies
async def test_a_loop_over_items_that_is_undone(story: Story) -> None:
    story.serve(a, fail(c, TerminalError("NO")))
    loop = element("DO_WHILE", "l", items="${workflow.input.list}", loopOver=[undone("a", "${l.output.loopItem}")])
    ended = await story.run(loop, step("c"), given={"list": ["p", "q", "r"]})
    assert ended.status == "FAILED"
    assert story.asked[0].effects == ["a"] * 3 + ["undo_a"] * 3
    assert [call.input["n"] for call in story.asked[0].of("undo_a")] == ["r", "q", "p"]


@same_wherever_the_leader_dies
async def test_a_fork_and_its_join(story: Story) -> None:
    story.serve()
    fork = element(
        "FORK_JOIN", "f", forkTasks=[[step("a", 1), step("b", 2)], [element("WAIT", "t", {"duration": "3s"})]]
    )
    ended = await story.run(fork, element("JOIN", "j", joinOn=["b", "t"]), step("d", "${j.output.b.n}"))
    assert ended.output == {"did": "d", "n": 2}


@same_wherever_the_leader_dies
async def test_a_dynamic_fork_of_one_task(story: Story) -> None:
    calls = story.serve()
    await story.register()
    given = {"forkTaskName": "a", "forkTaskInputs": [{"n": number} for number in range(3)]}
    ended = await story.run(element("FORK_JOIN_DYNAMIC", "f", given), element("JOIN", "j"), step("d"))
    assert ended.status == "COMPLETED"
    assert calls.effects == ["a", "a", "a", "d"]


@same_wherever_the_leader_dies
async def test_a_dynamic_fork_of_given_tasks(story: Story) -> None:
    story.serve(a, b, fail(c, TerminalError("NO")))
    fork = element(
        "FORK_JOIN_DYNAMIC",
        "f",
        {"tasks": "${workflow.input.tasks}", "inputs": {"x": {"n": 1}, "y": {"n": 2}}},
        dynamicForkTasksParam="tasks",
        dynamicForkTasksInputParamName="inputs",
    )
    tasks = [undone("a", reference="x"), step("b", reference="y")]
    ended = await story.run(fork, element("JOIN", "j"), step("c"), given={"tasks": tasks})
    assert ended.status == "FAILED"
    assert sorted(story.asked[0].effects) == ["a", "b", "undo_a"]


@same_wherever_the_leader_dies
async def test_a_dynamic_task(story: Story) -> None:
    story.serve()
    await story.register()
    dynamic = element("DYNAMIC", "x", {"n": 7, "task": "${workflow.input.which}"}, dynamicTaskNameParam="task")
    ended = await story.run(dynamic, step("b", "${x.output.n}"), given={"which": "a"})
    assert ended.output == {"did": "b", "n": 7}


@same_wherever_the_leader_dies
async def test_an_exclusive_join(story: Story) -> None:
    story.serve()
    choice = element(
        "SWITCH",
        "v",
        {"v": "y"},
        evaluatorType="value-param",
        expression="v",
        decisionCases={"x": [step("a", 1)], "y": [step("b", 2)]},
    )
    joined = element("EXCLUSIVE_JOIN", "j", joinOn=["a", "b"], defaultExclusiveJoinTask=["v"])
    ended = await story.run(choice, joined, step("d", "${j.output.n}"))
    assert ended.output == {"did": "d", "n": 2}


CHILD = workflow("child", undone("a", "${workflow.input.n}"), step("b", "${a.output.n}"))


def sub(**fields: object) -> dict[str, object]:
    return element("SUB_WORKFLOW", "s", {"n": 5}, subWorkflowParam={"name": "child"}, **fields)


@same_wherever_the_leader_dies
async def test_a_sub_workflow_that_completes(story: Story) -> None:
    story.serve()
    await story.register(CHILD)
    ended = await story.run(sub(), step("d", "${s.output.n}"))
    assert ended.output == {"did": "d", "n": 5}
    assert story.asked[0].effects == ["a", "b", "d"]


@same_wherever_the_leader_dies
async def test_a_sub_workflow_that_fails(story: Story) -> None:
    story.serve(a, c, fail(b, TerminalError("NO")))
    await story.register(CHILD)
    ended = await story.run(undone("c"), sub())
    assert ended.status == "FAILED"
    assert story.asked[0].effects == ["c", "a", "undo_a", "undo_c"]


@same_wherever_the_leader_dies
async def test_a_sub_workflow_that_is_undone_by_its_parent(story: Story) -> None:
    story.serve(a, b, c, fail(d, TerminalError("NO")))
    await story.register(CHILD)
    ended = await story.run(undone("c"), sub(), step("d"))
    assert ended.status == "FAILED"
    assert story.asked[0].effects == ["c", "a", "b", "undo_a", "undo_c"]


@same_wherever_the_leader_dies
async def test_a_sub_workflow_that_is_retried(story: Story) -> None:
    story.serve(fail(a, TerminalError("NO"), times=1), b)
    await story.register(CHILD)
    policy = {"name": "s", "retryCount": 1, "retryDelaySeconds": 1}
    ended = await story.run(sub(taskDefinition=policy, retryCount=1))
    assert ended.status == "COMPLETED"


@same_wherever_the_leader_dies
async def test_a_workflow_that_is_started_and_left_alone(story: Story) -> None:
    story.serve()
    await story.register(CHILD)
    request = {"name": "child", "input": {"n": 3}, "workflowId": "free"}
    await story.run(element("START_WORKFLOW", "t", {"startWorkflow": request}), step("d"))
    assert (await story.cluster.client.wait("free", 60)).status == "COMPLETED"
    assert sorted(story.asked[0].effects) == ["a", "b", "d"]


@same_wherever_the_leader_dies
async def test_an_event_and_its_handlers(story: Story) -> None:
    story.serve()
    await story.register(CHILD)
    client = story.cluster.client
    start = {"action": "start_workflow", "start_workflow": {"name": "child", "input": {"n": "${k}"}}}
    complete = {
        "action": "complete_task",
        "complete_task": {"workflowId": "${workflowInstanceId}", "taskRefName": "h", "output": {"said": "${k}"}},
    }
    event = "conductor:flow:x"
    await client.events.put_handler(
        {
            "name": "all",
            "event": event,
            "condition": "$.k > 1",
            "evaluatorType": "javascript",
            "active": True,
            "actions": [start, complete],
        }
    )
    await client.events.put_handler(
        {
            "name": "none",
            "event": event,
            "condition": "$.k > 9",
            "evaluatorType": "javascript",
            "active": True,
            "actions": [start],
        }
    )
    fork = element(
        "FORK_JOIN",
        "f",
        forkTasks=[
            [element("HUMAN", "h")],
            [element("WAIT", "t", {"duration": "2s"}), element("EVENT", "e", {"k": 3}, sink="conductor:x")],
        ],
    )
    ended = await story.run(fork, element("JOIN", "j", joinOn=["h", "e"]), step("d", "${h.output.said}"))
    assert ended.output == {"did": "d", "n": 3}
    await story.cluster.advance(seconds=5)
    assert sorted(story.asked[0].effects) == ["a", "b", "d"]
    states = sorted([str(run.state) async for run in client.events.runs()])
    assert states == ["COMPLETED", "COMPLETED", "SKIPPED"]


@same_wherever_the_leader_dies
async def test_waits(story: Story) -> None:
    story.serve()
    timer = element("WAIT", "t", {"duration": "1 hours"})
    run = await story.start(timer, element("WAIT", "s", {"signal": "go"}), step("a", "${s.output.by}"))
    await run.signal("go", {"by": "ann"})
    assert (await run.wait(7200)).output == {"did": "a", "n": "ann"}


@same_wherever_the_leader_dies
async def test_a_wait_whose_signal_comes_before_its_time(story: Story) -> None:
    story.serve()
    run = await story.start(element("WAIT", "s", {"signal": "go", "duration": "1 hours"}), step("a"))
    await story.begun("s")
    await run.signal("go", {"by": "ann"})
    began = story.cluster.now
    assert (await run.wait(7200)).status == "COMPLETED"
    assert (story.cluster.now - began).total_seconds() < 600


@same_wherever_the_leader_dies
async def test_what_people_do(story: Story) -> None:
    story.serve()
    run = await story.start(element("HUMAN", "h"), step("a", "${h.output.said}"))
    await story.begun("h")
    await story.cluster.client.update_task("w", "h", "IN_PROGRESS", {"seen": True})
    await story.cluster.client.update_task("w", "h", "COMPLETED", {"said": "yes"})
    assert (await story.ended(run)).output == {"did": "a", "n": "yes"}


@same_wherever_the_leader_dies
async def test_a_terminate_task(story: Story) -> None:
    story.serve()
    given = {"terminationStatus": "FAILED", "terminationReason": "enough", "workflowOutput": {"k": 1}}
    fork = element(
        "FORK_JOIN",
        "f",
        forkTasks=[
            [element("HUMAN", "h")],
            [undone("a"), element("TERMINATE", "t", {**given, "compensate": True})],
        ],
    )
    ended = await story.run(fork, element("JOIN", "j", joinOn=["h", "t"]))
    assert (ended.status, ended.output) == ("FAILED", {"k": 1})
    assert story.asked[0].effects == ["a", "undo_a"]


@same_wherever_the_leader_dies
async def test_variables(story: Story) -> None:
    story.serve()
    count = element("SET_VARIABLE", "v", {"last": "${a.output.n}"})
    loop = element("DO_WHILE", "l", items=[1, 2], loopOver=[step("a", "${l.output.loopItem}"), count])
    ended = await story.run(loop, step("b", "${workflow.variables.last}"), variables={"last": 0})
    assert (ended.variables, ended.output) == ({"last": 2}, {"did": "b", "n": 2})


@same_wherever_the_leader_dies
async def test_calls(story: Story) -> None:
    """What the leader's node was calling when it died is called again, under the same key."""

    async def pay(request: dict[str, object]) -> object:
        await asyncio.sleep(0.5)
        return http_answer({"receipt": 17}, 201)

    story.stub(pay)
    story.serve()
    call = element("HTTP", "h", {"uri": "https://pay.example/", "method": "POST", "body": {"n": 1}})
    policy = {"name": "h", "retryCount": 1, "retryDelaySeconds": 1}
    ended = await story.run({**call, "taskDefinition": policy}, step("a", "${h.output.response.body.receipt}"))
    assert ended.output == {"did": "a", "n": 17}


@same_wherever_the_leader_dies
async def test_messages_of_a_workflow(story: Story) -> None:
    """Each is taken once, in the order in which they came."""
    calls = story.serve()
    pull = element("PULL_WORKFLOW_MESSAGES", "p", {"batchSize": 5})
    loop = element("DO_WHILE", "l", items=[1, 2, 3], loopOver=[pull, step("a", "${p.output.messages[0].payload.n}")])
    run = await story.start(loop)
    for number in range(3):
        await story.begun(f"p__{number + 1}")
        await story.cluster.client.push_message("w", {"n": number})
        await story.begun(f"a__{number + 1}")
    assert (await story.ended(run)).status == "COMPLETED"
    assert [call.input["n"] for call in calls.of(a)] == [0, 1, 2]
