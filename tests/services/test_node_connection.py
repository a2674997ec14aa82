"""A node's way to the leader: by what it knows itself, and no other node is asked."""

from __future__ import annotations

import asyncio
import random

import grpc.aio
import pytest

from orchestrator.services.node_connection import NodeConnection

OWN, OTHER = "n1:7400", "n2:7400"


class Known:
    """What the node knows of the leader."""

    def __init__(self) -> None:
        self.leader = ("", 0)
        self.asked = asyncio.Event()

    def __call__(self) -> tuple[str, int]:
        self.asked.set()
        return self.leader


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def connection(known: Known) -> NodeConnection:
    def refuse(address: str) -> grpc.aio.Channel:
        raise AssertionError(f"{address} is called")

    return NodeConnection(OWN, known, namespace="$system", open_channel=refuse, dice=random.Random(0))


async def test_the_leader_is_who_the_node_knows(connection: NodeConnection, known: Known) -> None:
    known.leader = (OTHER, 3)
    assert await connection.locate(0)
    assert (connection.finder.current, connection.finder.term) == (OTHER, 3)


async def test_while_nobody_leads_it_waits_and_asks_nobody(connection: NodeConnection, known: Known) -> None:
    assert not await connection.locate(0)
    known.asked.clear()
    waiting = asyncio.create_task(connection.locate(60))
    await known.asked.wait()
    known.leader = (OTHER, 4)
    assert await waiting
    assert connection.finder.current == OTHER


async def test_a_leader_that_was_found_silent_is_believed_in_a_later_term_only(
    connection: NodeConnection, known: Known
) -> None:
    """The node itself notices a death a little later."""
    known.leader = (OTHER, 3)
    assert await connection.locate(0)
    connection.finder.failed(OTHER, connection.now())
    assert not await connection.locate(0)
    known.leader = (OTHER, 4)
    assert await connection.locate(0)
