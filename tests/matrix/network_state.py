"""What the kernels know of a connection that does not get on: for the log of a failed cell."""

import subprocess

from commands import run_command


def describe(lab, counter):
    """Bridges, neighbours and sockets on the way between the clients and the container, wherever a copy of it is."""
    text = shown("clients", f"--net=/run/netns/{lab.name}-client", ("ss", "-tinom"), ("ip", "neigh"))
    text += shown("switch", f"--net=/run/netns/{lab.name}-switch", ("bridge", "fdb"), ("bridge", "-d", "link"))
    for host in lab.agents:
        network = f"--net=/run/netns/{lab.name}-{host}"
        text += shown(f"host {host}", network, ("bridge", "fdb"), ("bridge", "-d", "link"), ("ip", "neigh"),
                      ("ip", "-s", "link"))
        for pid in sorted(counter.pids(host))[:1]:
            text += shown(f"the container at {host}", f"--net=/proc/{pid}/ns/net", ("ss", "-tinom"), ("ip", "neigh"),
                          ("ip", "-s", "link"), ("tc", "filter", "show", "dev", "eth0", "ingress"), ("ip", "route"))
    return text


def shown(place, network, *commands):
    text = f"--- {place}\n"
    for command in commands:
        try:
            done = run_command(["nsenter", network, *command], check=False, timeout=10)
            text += f"$ {' '.join(command)}\n{done.stdout}{done.stderr}"
        except subprocess.TimeoutExpired:
            text += f"$ {' '.join(command)}: no answer\n"
    return text
