"""Grants: each role has its own, in its namespaces, for the names that it is limited to; they add up."""

from __future__ import annotations

import pytest

from orchestrator.access.patterns import Patterns
from orchestrator.access.policy import Grant, Holder, Policy
from orchestrator.access.principals import Known, Principal
from orchestrator.access.roles import ROLES, Need, Role

ALICE = Principal("alice", Known.TOKEN)


def grant(role: Role, *namespaces: str, **patterns: list[str]) -> Grant:
    limited = {name: Patterns(texts) for name, texts in patterns.items()}
    return Grant(1, ("alice",), role, Patterns(namespaces or ("default",)), **limited)


def holder(*grants: Grant, who: Principal = ALICE) -> Holder:
    return Policy(grants=grants).holder(who)


def may(held: Holder, need: Need, namespace: str = "default", name: str | None = None) -> bool:
    return held.decide(need, namespace, name).allowed


@pytest.mark.parametrize("need", [need for need in Need if need is not Need.NOTHING])
def test_every_need_is_met_by_its_roles_and_no_other(need: Need) -> None:
    for role in Role:
        everything = {"workflows": ["*"], "tasks": ["*"], "events": ["*"]}
        held = holder(grant(role, "*", **everything))
        assert may(held, need, "default", "x") == (role in ROLES[need]), role


def test_a_grant_is_for_its_namespaces() -> None:
    held = holder(grant(Role.READER, "shop", "test-*"))
    assert [may(held, Need.READ, name) for name in ("shop", "test-1", "test-", "test", "shops", "")] == [
        True, True, True, False, False, False]


def test_who_starts_some_workflows_starts_and_sees_no_others() -> None:
    held = holder(grant(Role.STARTER, workflows=["order*", "refund"]))
    for need in (Need.START, Need.SIGNAL, Need.SEE):
        assert [may(held, need, name=name) for name in ("order", "order-2", "refund", "refunds", "*", "payroll")] == [
            True, True, True, False, False, False]
        assert may(held, need)  # of some workflow
    assert not may(held, Need.READ) and not may(held, Need.PUBLISH, name="order") and not may(held, Need.PUBLISH)


def test_who_executes_some_tasks_executes_no_others() -> None:
    held = holder(grant(Role.WORKER, tasks=["pay*"]))
    assert may(held, Need.WORK, name="pay") and not may(held, Need.WORK, name="ship")
    assert not may(held, Need.WORK, "other", "pay") and not may(held, Need.SEE)
    assert not may(held, Need.SYSTEM_WORK)


def test_the_cluster_is_administered_by_who_administers_every_namespace() -> None:
    assert may(holder(grant(Role.ADMIN, "*")), Need.ADMINISTER_CLUSTER)
    for namespaces in (("default",), ("d*", "a*")):
        held = holder(grant(Role.ADMIN, *namespaces))
        assert not may(held, Need.ADMINISTER_CLUSTER) and may(held, Need.ADMINISTER)


def test_grants_add_up_by_name_and_by_group() -> None:
    grants = (
        grant(Role.READER, "a"),
        Grant(2, ("group:ops",), Role.OPERATOR, Patterns(["b"])),
        Grant(3, ("bob",), Role.ADMIN, Patterns(["*"])),
        Grant(4, ("ops", "group:alice"), Role.ADMIN, Patterns(["*"])),
    )
    held = holder(*grants, who=Principal("alice", Known.TOKEN, frozenset({"ops"})))
    assert may(held, Need.READ, "a") and not may(held, Need.OPERATE, "a")
    assert may(held, Need.OPERATE, "b") and not may(held, Need.ADMINISTER, "b")


def test_a_decision_says_why() -> None:
    held = holder(grant(Role.WORKER, "shop", tasks=["pay*"]))
    assert held.decide(Need.WORK, "shop", "pay").why == "grant 1: worker in shop, tasks pay*"
    assert held.decide(Need.WORK, "shop", "ship").why == (
        "it takes the role worker or admin in the namespace 'shop', for the task 'ship'")
    assert "admin for namespaces" in held.decide(Need.ADMINISTER_CLUSTER).why


def test_decisions_that_are_remembered_do_not_fill_the_memory() -> None:
    held = holder(grant(Role.STARTER, workflows=["a*"]))
    for number in range(25_000):
        assert may(held, Need.START, name=f"a{number}")
    assert len(held._decided) <= 10_000


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a", ["a"], ["", "A", "ab", "*"]),
        ("*", ["", "a", "a\nb", "*"], []),
        ("a*c", ["ac", "abc", "a*c", "a\nc"], ["ab", "xac", "acx"]),
        ("a.c", ["a.c"], ["abc"]),
        ("[ab]?", ["[ab]?"], ["a", "ax"]),
    ],
)
def test_patterns_know_a_star_only(pattern: str, yes: list[str], no: list[str]) -> None:
    patterns = Patterns([pattern])
    assert all(map(patterns.match, yes)) and not any(map(patterns.match, no))
