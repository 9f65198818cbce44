"""`python -m netem relay|responder|certify|profiles`."""

import sys

from netem.commands import COMMANDS
from splitbed.process import guarded


def main() -> int:
    """Run one of the commands."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in COMMANDS:
        lines = [f"  {name:10} {about}" for name, (_, about) in COMMANDS.items()]
        sys.stderr.write("usage: python -m netem COMMAND [--help]\n" + "\n".join(lines) + "\n")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    run, _ = COMMANDS[arguments[0]]
    return guarded(lambda: run(arguments[1:]), "netem")


if __name__ == "__main__":
    sys.exit(main())
