#!/usr/bin/python3
"""Migrates between an agent of this build and one of another build, both ways.

Where the two do not speak each other's protocol, the migration is refused in one line that names both versions, the
container runs on where it was, its client notices nothing, and nothing is left at the other host. With --spoken (the
other build is of this protocol version or the one before it) the container is moved, there and back. Exit status 0 if
that is so, 1 if not, 2 if called wrongly.
"""

import argparse
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lab"))

from lab import Lab, LabError, run_command, wait_for  # noqa: E402

ADDRESS = "10.77.0.60"
VERSIONS = re.compile(r"protocol version \d+, this agent \d+")


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tests/run upgrade", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", metavar="BUILD", required=True, type=pathlib.Path,
                        help="the other build's directory: its tools/godwitd/godwitd and tools/godwit/godwit are used")
    parser.add_argument("--spoken", action="store_true", help="they are to speak with each other")
    asked = parser.parse_args(arguments)
    asked.old = asked.old.resolve()
    for program in ("tools/godwitd/godwitd", "tools/godwit/godwit"):
        if not (asked.old / program).exists():
            parser.error(f"there is no {asked.old / program}")
    return asked


def expect(condition, what):
    if not condition:
        raise LabError(what)


def expect_answers(client):
    def has_answered():
        seen = client.mark()
        expect(seen["wrong"] == 0, "an answer of the container is wrong")
        return seen["answered"] > 2
    client.mark()
    wait_for(has_answered, "answers of the container")


def expect_refused(lab, result):
    expect(not result["succeeded"], "it was moved, though the two do not speak with each other")
    expect(len(result["error"].splitlines()) == 1 and VERSIONS.search(result["error"]),
           f"it was not refused in one line with both versions: {result['error']}")
    source, target = lab.where["redis"], lab.other("redis")
    expect(lab.agents[source].containers()["redis"]["state"] == "running", "it does not run on")
    wait_for(lambda: not lab.agents[target].containers(), "the target to forget the container")
    links = run_command(["ip", "-n", f"{lab.name}-{target}", "-o", "link"]).stdout
    expect("veth" not in links, "the target keeps an interface of the container")


def migrate_from(old_host, asked):
    """The container starts at a; the agent of `old_host` is the old one."""
    lab = Lab()
    lab.agents[old_host].build = asked.old
    with lab:
        lab.run("redis", "redis", ADDRESS)
        client = lab.redis_client(ADDRESS, rate=500, preload=4 << 20)
        for _ in range(2 if asked.spoken else 1):
            result = lab.migrate("redis", check=asked.spoken, timeout=60)
            if not asked.spoken:
                expect_refused(lab, result)
                print(f"  {result['error']}")
            expect_answers(client)
        total = client.finish()
        expect((total["wrong"], total["lost"]) == (0, 0), f"the client has lost something: {total}")


def main():
    asked = parse(sys.argv[1:])
    try:
        for old_host, direction in (("a", "from the old agent to this one"), ("b", "from this agent to the old one")):
            print(direction, flush=True)
            migrate_from(old_host, asked)
    except LabError as error:
        print(f"tests/run upgrade: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
