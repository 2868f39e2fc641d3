#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The emulated KVM host: builds it, and runs commands in it.

    host.py build [--assets-only] [--update]     build what is missing
    host.py is-built                             status 0 if nothing is missing
    host.py packages LIST...                     the package names in lists of tools/packages
    host.py run [options] -- COMMAND [ARG...]    run one command inside; its exit status is ours
"""
import argparse
import shutil
import sys

import packages
from paths import cache


def build(options):
    from emulated import Host
    if options.update:
        for flavour in ("cloud", "generic"):
            shutil.rmtree(cache() / f"kernel-{flavour}", ignore_errors=True)
    Host().build(options.assets_only)
    return 0


def is_built(options):
    from emulated import Host
    return 0 if Host().is_built(options.assets_only) else 1


def list_packages(options):
    print(" ".join(dict.fromkeys(name for one in options.list for name in packages.read_list(one))))
    return 0


def run_command(options):
    from emulated import run_command as run
    return run(options.command, payload=options.payload, env=options.env, results=options.results,
               timeout=options.timeout, is_tty=options.tty or (options.tty_if_any and all(map(_is_tty, (0, 1)))),
               has_stdin=not options.no_stdin, log=options.log, icount=options.icount, is_cold=options.cold,
               memory_mib=options.memory)


def _is_tty(fd):
    import os
    return os.isatty(fd)


def parse(argv):
    parser = argparse.ArgumentParser(prog="host.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)

    one = commands.add_parser("build")
    one.add_argument("--assets-only", action="store_true", help="only what guests boot from, not the host")
    one.add_argument("--update", action="store_true", help="fetch the newest kernels again")
    one.set_defaults(do=build)

    one = commands.add_parser("is-built")
    one.add_argument("--assets-only", action="store_true")
    one.set_defaults(do=is_built)

    one = commands.add_parser("packages")
    one.add_argument("list", nargs="+")
    one.set_defaults(do=list_packages)

    one = commands.add_parser("run")
    one.add_argument("--payload", action="append", default=[], metavar="PATH[=NAME]",
                     help="a file or folder of the source tree to hand in; it lies at the same place below /varan")
    one.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    one.add_argument("--results", metavar="DIR", help="bring /results out to this folder")
    one.add_argument("--timeout", type=float, default=0, metavar="SECONDS", help="interrupt the command then")
    one.add_argument("--tty", action="store_true", help="give the command a terminal, connected to ours")
    one.add_argument("--tty-if-any", action="store_true", help="--tty if standard input and output are terminals")
    one.add_argument("--no-stdin", action="store_true", help="the command reads an end of file")
    one.add_argument("--icount", action="store_true", help="time is a count of instructions; one CPU")
    one.add_argument("--cold", action="store_true", help="boot instead of starting from the snapshot")
    one.add_argument("--memory", type=int, default=2048, metavar="MIB", help="not 2048: boots, no snapshot")
    one.add_argument("--log", metavar="FILE", help="keep the host's serial log")
    one.add_argument("command", nargs="+")
    one.set_defaults(do=run_command)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parsed = parse(sys.argv[1:])
    try:
        sys.exit(parsed.do(parsed))
    except KeyboardInterrupt:
        sys.exit(130)
