"""Nodes prove that they have the cluster's secret, without sending it."""

from __future__ import annotations

import pytest

from orchestrator.access.node_secret import GOOD_FOR_MS, NodeSecret
from orchestrator.access.principals import Known, NotAuthenticated

OLD, NEW = b"0123456789abcdef0123456789abcdef", b"fedcba9876543210fedcba9876543210"
NOW_MS = 1_900_000_000_000


def shown(secret: NodeSecret, node: str = "a", now_ms: int = NOW_MS) -> str:
    scheme, _, value = secret.authorization(node, now_ms).partition(" ")
    assert scheme == "Node"
    return value


def test_a_node_is_known_by_its_name() -> None:
    secret = NodeSecret(OLD + b"\n", "cluster")
    identity = NodeSecret(OLD, "cluster").verify(shown(secret), NOW_MS + 1_000)
    assert (identity.principal.name, identity.principal.known_by) == ("node:a", Known.NODE_SECRET)
    assert OLD.decode() not in shown(secret)


@pytest.mark.parametrize("other", [NodeSecret(NEW, "cluster"), NodeSecret(OLD, "another cluster")])
def test_another_secret_or_cluster_proves_nothing(other: NodeSecret) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        NodeSecret(OLD, "cluster").verify(shown(other), NOW_MS)
    assert refused.value.reason == "TOKEN_INVALID"


@pytest.mark.parametrize("off_ms", [GOOD_FOR_MS + 1, -GOOD_FOR_MS - 1])
def test_a_proof_is_good_for_a_minute(off_ms: int) -> None:
    secret = NodeSecret(OLD, "cluster")
    with pytest.raises(NotAuthenticated) as refused:
        secret.verify(shown(secret), NOW_MS + off_ms)
    assert refused.value.reason == "TOKEN_EXPIRED"


def test_a_proof_is_of_one_name_and_one_time() -> None:
    secret = NodeSecret(OLD, "cluster")
    _, made, proof = shown(secret).split(".")
    for wrong in (f"b.{made}.{proof}", f"a.{int(made) + 1}.{proof}", f"a.{made}.{proof[:-1]}", "a", ""):
        with pytest.raises(NotAuthenticated):
            secret.verify(wrong, NOW_MS)


def test_a_new_secret_takes_the_place_of_the_old_one_node_by_node() -> None:
    old, both, new = (NodeSecret(text, "c") for text in (OLD, NEW + b"\n" + OLD, NEW))
    both.verify(shown(old), NOW_MS)
    both.verify(shown(new), NOW_MS)
    new.verify(shown(both), NOW_MS)
    with pytest.raises(NotAuthenticated):
        old.verify(shown(both), NOW_MS)


@pytest.mark.parametrize("text", [b"", b"\n", b"short", OLD + b"\nshort"])
def test_a_secret_that_could_be_guessed_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"empty|at least 32"):
        NodeSecret(text, "c")
