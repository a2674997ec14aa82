"""Members that come, go, and lose their disks, while everything else goes on."""

from __future__ import annotations

from tests.simulation.faults.occasion import Kind, Occasion

SIZE_MIN, SIZE_MAX = 3, 5
# They stay, though their disks may go, one at a time: so clients always know an address.
STAY = ("n1", "n2")


async def _add_member(it: Occasion) -> None:
    """A new node, or one that was removed and comes back with what it has."""
    administrator = it.administrator
    if administrator.size_wanted >= SIZE_MAX:
        return
    gone = [member for member in it.shuffled() if member.is_lost and administrator.is_idle(member)]
    gone = [member for member in gone if not member.is_damaged]
    if gone and it.dice.random() < 0.5:
        member = gone[0]
        it.does(f"{member.name} comes back")
    else:
        member = it.cluster.add_machine()
        it.service.add(member)
        it.does(f"{member.name} is new")
    administrator.add(member, by_name=it.dice.random() < 0.5)


async def _remove_member(it: Occasion) -> None:
    """Sometimes the leader."""
    administrator = it.administrator
    leaders = [member.name for member in it.cluster.leaders()]
    wants_leader = it.dice.random() < 0.4
    members = [member for member in it.shuffled(it.cluster.voters()) if member.name not in STAY]
    members = [member for member in members if administrator.is_idle(member)]
    members.sort(key=lambda member: wants_leader and member.name in leaders, reverse=True)
    for member in members:
        failing = [name for name in it.cluster.failing() if name != member.name]
        size = administrator.size_wanted - 1
        if size >= SIZE_MIN and len(failing) <= (size - 1) // 2:
            it.does(f"{member.name}{', which leads' if member.name in leaders else ''}")
            administrator.remove(member, retires=it.dice.random() < 0.5)
            return


async def _replace_member(it: Occasion) -> None:
    """The disk of a member is lost, of one that is damaged already if there is one; and a blank one is in its place."""
    administrator = it.administrator
    members = [member for member in it.shuffled(it.cluster.voters()) if administrator.is_idle(member)]
    members.sort(key=lambda member: member.is_damaged, reverse=True)
    for member in members:
        if member.name in STAY and any(it.cluster.members[name].is_failing for name in STAY if name != member.name):
            continue
        if member.is_damaged or it.cluster.may_lose_one():
            it.does(f"{member.name}{', which was damaged' if member.is_damaged else ''}")
            administrator.replace(member, by_name=it.dice.random() < 0.5)
            return


KINDS: dict[str, Kind] = {
    "add_member": _add_member,
    "remove_member": _remove_member,
    "replace_member": _replace_member,
}
