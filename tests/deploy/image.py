"""A Dockerfile done without a container engine: its instructions, literally, on private copies of this machine's disk.

Each stage is an overlay over `/` in a mount namespace, as if this Debian with its Python were the image it begins with.
Nothing of it can be seen outside, and nothing is left when the one who made it ends.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
_KILLED_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
# Python's own library, too, where it is a file of its own.
_LIBRARIES = "/opt/python/lib"
_SEARCHED = "/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# $0 is a folder; what comes after it are the names of stages. Python is where everybody may read it.
_MAKE_DISKS = """
mount -t tmpfs -o mode=0755 tmpfs "$0"; base=$1; shift
for stage; do
    mkdir -p "$0/$stage/upper" "$0/$stage/work" "$0/$stage/disk"
    mount -t overlay -o "lowerdir=/,upperdir=$0/$stage/upper,workdir=$0/$stage/work" overlay "$0/$stage/disk"
    mkdir -p "$0/$stage/disk/opt/python"
    [ -e "$0/$stage/disk$base/bin/python" ] || ln -s python3 "$0/$stage/disk$base/bin/python"
    mount --bind "$0/$stage/disk$base" "$0/$stage/disk/opt/python"
    for each in proc dev; do mount --rbind "/$each" "$0/$stage/disk/$each"; done
done
echo ready; read -r _
"""


@dataclass
class Stage:
    """What has been said of an image until now."""

    name: str
    environment: dict[str, str] = field(default_factory=lambda: {
        "PATH": _SEARCHED, "LD_LIBRARY_PATH": _LIBRARIES, "HOME": "/root"})
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    user: str = "0:0"
    last: dict[str, str] = field(default_factory=dict)

    @property
    def all(self) -> dict[str, str]:
        return {**self.arguments, **self.environment}


class Image:
    """Made by `build`, instruction by instruction. Close it."""

    def __init__(self, file: Path, folder: Path, **arguments: str) -> None:
        with file.open("rb") as source:
            self._instructions = [one for one in DockerfileParser(fileobj=source).structure
                                  if one["instruction"] != "COMMENT"]
        self._folder = folder
        self._given = arguments
        froms = [one["value"].split() for one in self._instructions if one["instruction"] == "FROM"]
        self.names = [words[-1] if "AS" in words else f"stage-{number}" for number, words in enumerate(froms)]
        self.stages: list[Stage] = []
        self._holders: list[subprocess.Popen[str]] = []

    @property
    def result(self) -> Stage:
        return self.stages[-1]

    def build(self) -> None:
        """Raises CalledProcessError; the words of what failed are on standard output by then."""
        base = os.path.realpath(sys.base_prefix)
        self._hold("unshare", "--mount", "sh", "-euc", _MAKE_DISKS, str(self._folder), base, *self.names)
        # Where what is built runs later: nobody else's ports.
        self._hold("unshare", "--net", "sh", "-euc", "ip link set lo up; echo ready; read -r _")
        for one in self._instructions:
            {"FROM": self._from, "ARG": self._arg, "ENV": self._env, "SHELL": self._shell, "RUN": self._run,
             "WORKDIR": self._workdir, "COPY": self._copy, "USER": self._user}.get(
                one["instruction"], self._remember(one["instruction"]))(one["value"])

    def close(self) -> None:
        for holder in self._holders:
            holder.kill()
            holder.communicate()

    def disk(self, stage: str) -> str:
        return f"{self._folder}/{stage}/disk"

    def inside(self, *command: str, stage: Stage | None = None, alone: bool = False, **more: str) -> list[str]:
        """What runs a command in an image, as its user; `alone`: in a network of its own, and as the first process."""
        stage = stage or self.result
        uid, gid = stage.user.split(":")
        who = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups"] if uid != "0" else []
        space = [f"--mount=/proc/{self._holders[0].pid}/ns/mnt",
                 *([f"--net=/proc/{self._holders[1].pid}/ns/net"] if alone else [])]
        environment = [f"{name}={value}" for name, value in {**stage.all, **more}.items()]
        # By the shell, for it must be found where the image has it.
        script = f'cd {shlex.quote(stage.workdir)} && exec "$0" "$@"'
        first = ["unshare", "--pid", "--fork", "--kill-child"] if alone else []
        return [*_KILLED_WITH_US, "nsenter", *space, *first, "chroot", self.disk(stage.name), *who,
                "env", "-i", *environment, "/bin/sh", "-c", script, *command]

    def runs(self, *command: str, stage: Stage | None = None, alone: bool = False, **more: str) -> str:
        done = subprocess.run(self.inside(*command, stage=stage, alone=alone, **more), text=True, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        print(f"--- {' '.join(command)}\n{done.stdout}")
        done.check_returncode()
        return done.stdout

    def _hold(self, *command: str) -> None:
        holder = subprocess.Popen([*_KILLED_WITH_US, *command], text=True, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        self._holders.append(holder)
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise RuntimeError("the disks were not made")

    # -- instructions ------------------------------------------------------------------------------------------------

    def _from(self, _value: str) -> None:
        self.stages.append(Stage(self.names[len(self.stages)]))

    def _arg(self, value: str) -> None:
        name, _, default = value.partition("=")
        if self.stages:
            self.result.arguments[name] = self._given.get(name, default)

    def _env(self, value: str) -> None:
        for word in shlex.split(value):
            name, _, text = word.partition("=")
            self.result.environment[name] = Template(text).safe_substitute(self.result.all)

    def _shell(self, value: str) -> None:
        self.result.shell = json.loads(value)

    def _run(self, value: str) -> None:
        self.runs(*self.result.shell, value)

    def _workdir(self, value: str) -> None:
        self.result.workdir = value
        self.runs("mkdir", "-p", value, stage=Stage(self.result.name))

    def _copy(self, value: str) -> None:
        source, *sources, target = re.sub(r"^--from=\S+ ", "", value).split()
        found = re.match(r"--from=(\S+) ", value)
        where = self.disk(found[1]) if found else str(ROOT)
        target = os.path.join(self.result.workdir, target)  # noqa: PTH118 - not a path of this machine
        into = f"{self.disk(self.result.name)}{target}"
        paths = [f"{where}/{each.lstrip('/')}" for each in (source, *sources)]
        folder = bool(found) or (len(paths) == 1 and Path(paths[0]).is_dir())
        command = f"mkdir -p {into}; cp -a {' '.join(paths)}{'/.' if folder else ''} {into}"
        subprocess.run(["nsenter", f"--mount=/proc/{self._holders[0].pid}/ns/mnt", "sh", "-euc", command], check=True)

    def _user(self, value: str) -> None:
        self.result.user = value
        self.result.environment["HOME"] = "/"

    def _remember(self, instruction: str) -> Callable[[str], None]:
        def remembered(value: str) -> None:
            self.result.last[instruction] = value

        return remembered
