"""The input of a GRPC task, and descriptors by which it is understood."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from orchestrator.engine.services import Tls
from orchestrator.integrations.grpc_calls.descriptors import (
    DescriptorsInvalid,
    MethodInvalid,
    method_of,
    pool_of,
    pool_of_set,
)
from orchestrator.integrations.grpc_calls.request import GrpcRequest, InputInvalid, read_request
from tests.integrations.grpc_server import SERVICE, descriptor_set, shop

CALL = {"target": "a:1", "method": "shop.Orders/Place"}


def read(**fields: Any) -> GrpcRequest:
    return read_request(json.dumps(CALL | fields).encode())


def test_the_fields_may_stand_in_the_input_itself_or_under_grpc_request() -> None:
    direct = read(request={"a": 1.10}, somebody="else's")
    nested = read_request(json.dumps({"target": 5, "grpc_request": CALL | {"request": {"a": 1.10}}}).encode())
    assert direct == nested
    assert (direct.target, direct.service, direct.method, direct.body) == ("a:1", SERVICE, "Place", b'{"a":1.1}')
    assert (direct.registered, direct.metadata, direct.deadline_ms, direct.tls) == ("", (), None, None)


def test_every_field_is_read() -> None:
    request = read(
        metadata={"Tenant": "a", "n": 1, "flag": True, "none": None, "x-bin": "AAE=", "Idempotency-Key": "mine"},
        deadlineMs=5, tls={"ca": "/ca.pem", "serverName": "x"}, descriptorSet="shop",
    )
    assert request.metadata == (("tenant", "a"), ("n", "1"), ("flag", "true"), ("x-bin", "AAE="))
    assert (request.deadline_ms, request.tls, request.described_by) == (5, Tls("/ca.pem", "", "", "x"), "shop")
    assert read(timeoutSeconds=0.25).deadline_ms == 250
    assert read(tls=True).tls == Tls()
    assert read(plaintext=True).tls is None
    assert read(target=None, service="shop").registered == "shop"
    assert read(method="/shop.Orders/Place").method == "Place"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"target": None}, "target"),
        ({"target": "a"}, "target"),
        ({"target": "unix:/run/x"}, "target"),
        ({"service": "s"}, "target"),
        ({"method": None}, "method"),
        ({"method": "Place"}, "method"),
        ({"method": "shop.Orders/Place/"}, "method"),
        ({"method": "shop Orders/Place"}, "method"),
        ({"request": []}, "request"),
        ({"request": "{}"}, "request"),
        ({"metadata": {"a b": "x"}}, "metadata.a b"),
        ({"metadata": {"a": []}}, "metadata.a"),
        ({"metadata": {"a": "é"}}, "metadata.a"),
        ({"metadata": {"grpc-x": "x"}}, "metadata.grpc-x"),
        ({"metadata": {"a-bin": "?"}}, "metadata.a-bin"),
        ({"deadlineMs": 0}, "deadlineMs"),
        ({"deadlineMs": 1, "timeoutSeconds": 1}, "timeoutSeconds"),
        ({"timeoutSeconds": 0}, "timeoutSeconds"),
        ({"timeoutSeconds": 3_601}, "timeoutSeconds"),
        ({"tls": {"cert": "/c"}}, "tls.key"),
        ({"tls": True, "plaintext": True}, "plaintext"),
        ({"target": None, "service": "s", "tls": True}, "tls"),
        ({"target": None, "service": "s", "plaintext": True}, "plaintext"),
    ],
)
def test_a_broken_rule_is_told_by_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        read(**fields)
    assert str(refused.value).startswith(f"{path}: ")
    with pytest.raises(InputInvalid) as nested:
        read_request(json.dumps({"grpc_request": CALL | fields}).encode())
    assert str(nested.value).startswith(f"grpc_request.{path}: ")


def test_a_set_made_without_its_well_known_imports_is_enough() -> None:
    found = method_of(pool_of_set(descriptor_set(shop())), SERVICE, "Place")
    assert found is not None and found.input_type.full_name == "shop.Order"


def test_files_may_come_in_any_order() -> None:
    pool = pool_of_set(descriptor_set(shop()[::-1]))
    assert method_of(pool, SERVICE, "Place") is not None
    assert method_of(pool, SERVICE, "Nothing") is None
    assert method_of(pool, "shop.Nobody", "Place") is None


def test_a_method_that_streams_can_not_be_called() -> None:
    with pytest.raises(MethodInvalid, match=r"shop\.Orders/Watch streams"):
        method_of(pool_of_set(descriptor_set(shop())), SERVICE, "Watch")


def test_two_servers_may_mean_two_things_by_one_name() -> None:
    plain, richer = (pool_of_set(descriptor_set(files)) for files in (shop(), shop(color="string")))
    assert "color" not in method_of(plain, SERVICE, "Place").input_type.fields_by_name  # type: ignore[union-attr]
    assert "color" in method_of(richer, SERVICE, "Place").input_type.fields_by_name  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff", "no FileDescriptorSet"),
        (b"", "no files"),
        (descriptor_set(shop()[1:]), "shop/money.proto is imported and not there"),
        (descriptor_set([FileDescriptorProto(name="a", dependency=["b"]), FileDescriptorProto(name="b",
                                                                                          dependency=["a"])]),
         "import each other"),
        (descriptor_set([FileDescriptorProto(name="a", dependency=["a"])]), "import"),
    ],
)
def test_what_is_no_set_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DescriptorsInvalid, match=reason):
        pool_of_set(data)


def test_a_file_that_makes_no_sense_is_refused() -> None:
    [money, orders] = shop()
    orders.service[0].method[0].input_type = ".shop.Nothing"
    with pytest.raises(DescriptorsInvalid, match=r"shop/orders\.proto"):
        pool_of({file.name: file for file in (money, orders)})


def test_a_long_chain_of_imports_is_no_problem() -> None:
    files = [FileDescriptorProto(name=f"f{number}", dependency=[f"f{number + 1}"]) for number in range(2_000)]
    assert pool_of_set(descriptor_set([*files, FileDescriptorProto(name="f2000")])) is not None
