"""Who may do what, as one version of the access file says it. It is replaced whole, never changed."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.access.jwts import JwtIssuer
from orchestrator.access.node_secret import NodeSecret
from orchestrator.access.patterns import NONE, Patterns
from orchestrator.access.principals import (
    ANONYMOUS,
    GROUP_PREFIX,
    Credentials,
    Identity,
    Known,
    NotAuthenticated,
    Principal,
)
from orchestrator.access.roles import LIMITED_BY, NAMED, ROLES, Need, Role
from orchestrator.access.tokens import TokenHash, id_of

# What was shown and found good is remembered, so that a call costs one hash.
_REMEMBERED_MAX = 10_000
_DECISIONS_MAX = 10_000
_EVERY_NAMESPACE = Patterns(("*",))


@dataclass(frozen=True)
class Grant:
    """One of the file's, by its place there."""

    number: int
    to: tuple[str, ...]
    role: Role
    namespaces: Patterns
    workflows: Patterns = NONE
    tasks: Patterns = NONE
    events: Patterns = NONE

    def __str__(self) -> str:
        said = f"grant {self.number}: {self.role}"
        if self.role is Role.NODE:
            return said
        said += f" in {self.namespaces}"
        for what in ("workflows", "tasks", "events"):
            patterns: Patterns = getattr(self, what)
            if patterns.texts:
                said += f", {what} {patterns}"
        return said

    def allows(self, need: Need, namespace: str, name: str | None) -> bool:
        """`name` None: of whatever has the needed kind of name, at least one."""
        if self.role not in ROLES[need]:
            return False
        if need is Need.ADMINISTER_CLUSTER:
            return self.namespaces.is_everything
        if need not in (Need.MEMBER, Need.SYSTEM_WORK) and not self.namespaces.match(namespace):
            return False
        limited = LIMITED_BY.get((self.role, need))
        if limited is None:
            return True
        patterns: Patterns = getattr(self, limited)
        return bool(patterns.texts) if name is None else patterns.match(name)


@dataclass(frozen=True)
class Decision:
    """`why` names the grant that allows it, or what is missing."""

    allowed: bool
    why: str


class Holder:
    """A principal with what it was granted; it remembers what was decided."""

    __slots__ = ("_decided", "grants", "is_node", "principal")

    def __init__(self, principal: Principal, grants: Sequence[Grant]) -> None:
        self.principal = principal
        self.grants = tuple(grants)
        self.is_node = any(grant.role is Role.NODE for grant in grants)
        self._decided: dict[tuple[Need, str, str | None], Decision] = {}

    def decide(self, need: Need, namespace: str = "", name: str | None = None) -> Decision:
        key = (need, namespace, name)
        decision = self._decided.get(key)
        if decision is None:
            if len(self._decided) >= _DECISIONS_MAX:
                self._decided.clear()
            decision = self._decided[key] = self._look(need, namespace, name)
        return decision

    def _look(self, need: Need, namespace: str, name: str | None) -> Decision:
        if need is Need.NOTHING:
            return Decision(True, "everybody may")
        for grant in self.grants:
            if grant.allows(need, namespace, name):
                return Decision(True, str(grant))
        return Decision(False, missing(need, namespace, name))


def missing(need: Need, namespace: str, name: str | None) -> str:
    """What somebody lacks who may not."""
    if need is Need.MEMBER:
        return "nothing is granted"
    if need is Need.SYSTEM_WORK:
        return "it takes the role node"
    if need is Need.ADMINISTER_CLUSTER:
        return 'it takes the role admin for namespaces ["*"]'
    roles = [str(role) for role in ROLES[need]]
    said = f"it takes the role {' or '.join(roles)} in the namespace {namespace!r}"
    return f"{said}, for the {NAMED[need]} {name!r}" if need in NAMED and name is not None else said


@dataclass(frozen=True)
class StaticToken:
    hash: TokenHash
    identity: Identity


@dataclass(frozen=True)
class CertificateName:
    """Which certificates are a principal's; `principal` empty: it is called like the name that matches."""

    kind: str  # "common_name" or "alternative_name"
    pattern: Patterns
    principal: str
    groups: frozenset[str]


class Policy:
    """Answers who somebody is, and what a principal was granted."""

    def __init__(
        self,
        *,
        tokens: Iterable[StaticToken] = (),
        certificates: Iterable[CertificateName] = (),
        issuers: Iterable[JwtIssuer] = (),
        grants: Iterable[Grant] = (),
        node_secret: NodeSecret | None = None,
    ) -> None:
        self._tokens = {token.hash.id: token for token in tokens}
        self._certificates = tuple(certificates)
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self.grants = tuple(grants)
        self._node_secret = node_secret
        self._holders: OrderedDict[Principal, Holder] = OrderedDict()
        # By the hash of what was shown: what is secret is not kept.
        self._remembered: OrderedDict[bytes, Identity] = OrderedDict()

    def authenticate(self, shown: Credentials, now_ms: int) -> Identity:
        """Whoever shows an authorization is judged by that alone; else by the certificate; else it is anonymous.

        Raises NotAuthenticated.
        """
        if shown.authorization:
            return self._authorized(shown.authorization, now_ms)
        return self._certified(shown) or Identity(ANONYMOUS)

    def authenticate_again(self, identity: Identity, shown: Credentials, now_ms: int) -> Identity:
        """Who that is now, whom another policy has known. A node's proof is of one use, and its secret does not change.

        Raises NotAuthenticated.
        """
        if identity.principal.known_by is Known.NODE_SECRET:
            return identity
        return self.authenticate(shown, now_ms)

    def holder(self, principal: Principal) -> Holder:
        """The same one as long as it is remembered, so that what was decided for it is."""
        holder = self._holders.get(principal)
        if holder is None:
            holder = self._holders[principal] = Holder(principal, self._granted(principal))
            if len(self._holders) > _REMEMBERED_MAX:
                self._holders.popitem(last=False)
        return holder

    def principal(self, name: str, groups: Iterable[str] = ()) -> Principal:
        """As the file knows it, with the groups that its tokens or certificates give it; for questions."""
        found = frozenset(groups)
        for token in self._tokens.values():
            if token.identity.principal.name == name:
                found |= token.identity.principal.groups
        for certificate in self._certificates:
            if certificate.principal == name:
                found |= certificate.groups
        return Principal(name, Known.ANONYMOUS, found)

    def _granted(self, principal: Principal) -> list[Grant]:
        if principal.known_by is Known.NODE_SECRET:
            return [Grant(0, (), Role.NODE, _EVERY_NAMESPACE)]
        names = {principal.name, *(GROUP_PREFIX + group for group in principal.groups)}
        return [grant for grant in self.grants if names.intersection(grant.to)]

    def _authorized(self, authorization: str, now_ms: int) -> Identity:
        key = hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest()
        known = self._remembered.get(key)
        if known is not None and (known.expires_ms is None or now_ms < known.expires_ms):
            return known
        identity = self._examine(authorization, now_ms)
        if identity.principal.known_by is not Known.NODE_SECRET:  # its proofs are of one use
            self._remembered[key] = identity
            if len(self._remembered) > _REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        return identity

    def is_costly(self, authorization: str) -> bool:
        """Whether it takes a look at a signature to find out who that is."""
        if authorization.count(".") != 2:
            return False
        return hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest() not in self._remembered

    def _examine(self, authorization: str, now_ms: int) -> Identity:
        scheme, _, value = authorization.partition(" ")
        match scheme.lower():
            case "bearer" if token := value.strip():
                return self._bearer(token, now_ms)
            case "node":
                if self._node_secret is None:
                    raise NotAuthenticated("TOKEN_INVALID", "this node has no node_secret_file to judge another by")
                return self._node_secret.verify(value.strip(), now_ms)
        raise NotAuthenticated("TOKEN_INVALID", "authorization must be `Bearer` and a token")

    def _bearer(self, text: str, now_ms: int) -> Identity:
        if text.count(".") == 2:
            return self._jwt(text, now_ms)
        token = self._tokens.get(id_of(text))
        if token is None or not token.hash.matches(text):
            raise NotAuthenticated("TOKEN_INVALID", "the token is not known here")
        expires_ms = token.identity.expires_ms
        if expires_ms is not None and now_ms >= expires_ms:
            raise NotAuthenticated("TOKEN_EXPIRED", "the token has expired")
        return token.identity

    def _jwt(self, text: str, now_ms: int) -> Identity:
        issuer = self._issuers.get(JwtIssuer.named_in(text))
        if issuer is None:
            raise NotAuthenticated("TOKEN_INVALID", "the token is of no issuer that is trusted here")
        return issuer.verify(text, now_ms)

    def _certified(self, shown: Credentials) -> Identity | None:
        """By the first of the file's that matches; one without a principal here is anonymous."""
        for certificate in self._certificates:
            names = (shown.common_name,) if certificate.kind == "common_name" else shown.alternative_names
            for name in names:
                if name and certificate.pattern.match(name):
                    return Identity(Principal(certificate.principal or name, Known.CERTIFICATE, certificate.groups))
        return None
