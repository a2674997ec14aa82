"""Roles, what a call may need, and which role has what.

The only table of that. A role that is limited to names has what it has for names that match its grant's patterns.
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a grant gives, in its namespaces."""

    READER = "reader"  # sees everything, changes nothing
    STARTER = "starter"  # starts workflows, signals them and sees what becomes of them; limited to workflows and events
    WORKER = "worker"  # executes tasks; limited to tasks
    OPERATOR = "operator"  # a reader and starter of everything, who also steers executions and schedules
    ADMIN = "admin"  # everything; with namespaces = ["*"] also what concerns the whole cluster
    NODE = "node"  # the nodes' own: system work, and nothing else


class Need(StrEnum):
    """What a call needs; the values are for people."""

    NOTHING = "nothing"  # whoever calls, and before anything is shown
    MEMBER = "any role"
    PRESENT = "any role in the namespace"
    READ = "to read the namespace"
    SEE = "to see an execution"
    START = "to start the workflow"
    SIGNAL = "to signal an execution"
    PUBLISH = "to publish the event"
    WORK = "to execute the task"
    OPERATE = "to operate the namespace"
    ADMINISTER = "to administer the namespace"
    ADMINISTER_CLUSTER = "to administer the cluster"
    SYSTEM_WORK = "to execute system work"


_ALL = (Role.READER, Role.STARTER, Role.WORKER, Role.OPERATOR, Role.ADMIN)

ROLES: dict[Need, tuple[Role, ...]] = {
    Need.MEMBER: (*_ALL, Role.NODE),
    Need.PRESENT: _ALL,
    Need.READ: (Role.READER, Role.OPERATOR, Role.ADMIN),
    Need.SEE: (Role.READER, Role.STARTER, Role.OPERATOR, Role.ADMIN),
    Need.START: (Role.STARTER, Role.OPERATOR, Role.ADMIN),
    Need.SIGNAL: (Role.STARTER, Role.OPERATOR, Role.ADMIN),
    Need.PUBLISH: (Role.STARTER, Role.OPERATOR, Role.ADMIN),
    Need.WORK: (Role.WORKER, Role.ADMIN),
    Need.OPERATE: (Role.OPERATOR, Role.ADMIN),
    Need.ADMINISTER: (Role.ADMIN,),
    Need.ADMINISTER_CLUSTER: (Role.ADMIN,),
    Need.SYSTEM_WORK: (Role.NODE,),
}

# Which patterns of a grant limit which role in which need.
LIMITED_BY: dict[tuple[Role, Need], str] = {
    (Role.STARTER, Need.START): "workflows",
    (Role.STARTER, Need.SIGNAL): "workflows",
    (Role.STARTER, Need.SEE): "workflows",
    (Role.STARTER, Need.PUBLISH): "events",
    (Role.WORKER, Need.WORK): "tasks",
}
NAMED: dict[Need, str] = {
    Need.SEE: "workflow", Need.START: "workflow", Need.SIGNAL: "workflow", Need.PUBLISH: "event", Need.WORK: "task",
}
"""What the name is of that some needs are about."""
