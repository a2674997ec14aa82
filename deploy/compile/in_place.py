"""Compiles the named modules below the working directory: `python in_place.py CONFIG MODULE...`.

A process of its own: setuptools and mypyc take over whatever they run in.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Distribution

FIELDS = Path(__file__).resolve().with_name("fields.h")


def main(config: str, modules: list[str]) -> None:
    extensions = mypycify([f"--config-file={config}", *modules], opt_level="3", debug_level="0", multi_file=True)
    if os.name == "posix":
        for extension in extensions:
            extension.extra_compile_args = [*extension.extra_compile_args, "-include", str(FIELDS)]
    command = Distribution({"name": "orchestrator", "ext_modules": extensions}).get_command_obj("build_ext")
    command.inplace = True
    command.parallel = os.cpu_count()
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
