"""What the jobs in both guests of `tests/lab/vm pair` share: each guest is a host with its own agent, on its own kernel,
and the client is beside host a."""

import os
import pathlib
import subprocess
import sys
import time

os.environ["GODWIT_LAB_PATIENCE_S"] = "120"  # before lab is read
# Like any container's, its files lie on the root file system: what is on a tmpfs, as /tmp is, cannot move.
os.environ["TMPDIR"] = "/var/tmp"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from lab import Agent, Lab, LabError, run_command, wait_for  # noqa: E402,F401

HERE = os.environ.get("GODWIT_GUEST")
API_PORT = 7101
CONTAINER = "10.77.0.5"
NAME = "vm"


def make_host(last_byte):
    """What tests/lab/hosts makes in a namespace, on this machine; eth0 leads to the other."""
    options = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    batch = f"""link add godwit0 address 02:77:00:00:00:0{last_byte} {options}
link set eth0 master godwit0 up
address add 10.77.0.{last_byte}/24 dev godwit0
link set godwit0 up
"""
    done = subprocess.run(["ip", "-batch", "-"], input=batch, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"the bridge could not be made: {done.stderr.strip()}")
    run_command(["ip", "netns", "attach", f"{NAME}-{HERE}", "1"])  # so that an agent here is like one in a namespace


def make_client():
    client = f"{NAME}-client"
    run_command(["ip", "netns", "add", client])
    run_command(["ip", "link", "add", "client", "type", "veth", "peer", "name", "uplink", "netns", client])
    run_command(["ip", "link", "set", "client", "master", "godwit0", "up"])
    run_command(["ip", "-n", client, "address", "add", "10.77.0.9/24", "dev", "uplink"])
    run_command(["ip", "-n", client, "link", "set", "uplink", "up"])
    run_command(["ip", "-n", client, "link", "set", "lo", "up"])


def meet(name):
    """`tests/lab/vm --timeout` is what ends a wait in vain."""
    run_command(["meet", name, "3600"], timeout=3600)


class GuestAgent(Agent):
    """The agent of this guest; or the other's, through a relay over eth1."""

    def start(self, fault=None):
        if self.host == HERE:
            super().start(fault)
            if HERE == "b":
                subprocess.Popen(["relay", f"{os.environ['GODWIT_ADDRESS']}:{API_PORT}", f"unix:{self.api}"])
            return self
        subprocess.Popen(["relay", f"unix:{self.api}", f"{os.environ['GODWIT_PEER']}:{API_PORT}"])
        wait_for(lambda: self.api.exists() and self.cli("ps", check=False).returncode == 0, "the agent of guest b")
        return self


class GuestLab(Lab):
    """Both hosts as seen from guest a. Nothing is removed at the end: the guests themselves go."""

    addresses = {"a": "10.78.0.1", "b": "10.78.0.2"}
    agent_type = GuestAgent

    def __init__(self):
        super().__init__(NAME)
        self.bundles = pathlib.Path("/var/tmp/bundles")  # the same in both: the images of a container are not moved

    def make_hosts(self):
        make_host(1)
        make_client()

    def close(self):
        print_complaints(self.agents[HERE])


def serve():
    """Guest b: a host whose agent does what guest a asks of it."""
    lab = GuestLab()
    make_host(2)
    lab.agents["b"].start()
    lab.bundle("redis")
    try:
        meet("ready")
        meet("done")
    finally:
        print_complaints(lab.agents["b"])


def print_complaints(agent):
    """Of its log, what is no mere information: time, letter, text."""
    lines = agent.log.read_text(errors="replace").splitlines() if agent.log.exists() else []
    for line in [line for line in lines if line.split()[1:2] != ["I"]][-20:]:
        print(line, file=sys.stderr, flush=True)


def say(what):
    print(f"[{time.clock_gettime(time.CLOCK_BOOTTIME):6.1f} s] {what}", file=sys.stderr, flush=True)


def run_job(name, job):
    """`job` in guest a, and beside it the host that guest b is. Returns the exit status."""
    if HERE not in ("a", "b"):
        print(f"{name}: it runs in the guests of `tests/lab/vm pair`", file=sys.stderr)
        return 2
    try:
        if HERE == "b":
            serve()
        else:
            job()
            meet("done")
    except (LabError, OSError, subprocess.TimeoutExpired) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
