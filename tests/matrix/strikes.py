"""What is done to a migration whose worker stands still at a step: each strike is a function of a Scene that returns
when it is over, and everything that it broke is whole again (except for the processes that it was to end)."""

import contextlib
import os
import signal
import time

from link import cut_way, mend_way

STOPPED_S = 40
CUT_S = 20
FULL_S = 20
AWAY_S = 5      # a host without power
RESTART_S = 2   # from an agent's end to its successor, as a service manager's RestartSec


class DoesNotApply(Exception):
    """There is nothing at this step that could be struck so."""


def send(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def strike(scene, cell):
    """`scene` stands still at the cell's step."""
    kind, _, what = cell.party.partition("-")
    if what == "worker":
        strike_worker(scene, kind, cell.action)
    elif cell.party == "both-agents":
        strike_agents(scene, [scene.source, scene.target], cell.action)
    elif what == "agent":
        strike_agents(scene, [scene.host_of(kind)], cell.action)
    elif cell.party == "link":
        cut_link(scene, cell.action)
    elif what == "disk":
        fill_disk(scene, scene.host_of(kind))
    elif what == "host":
        lose_power(scene, scene.host_of(kind))
    else:
        raise ValueError(cell.name)


def strike_worker(scene, side, action):
    worker = scene.worker_of(side)
    if worker is None:
        raise DoesNotApply(f"no worker at the {side} yet")
    if action == "kill":
        send(worker, signal.SIGKILL)
        scene.let_go()
        return
    scene.watch.held.add(worker)
    send(worker, signal.SIGSTOP)
    scene.let_go()
    time.sleep(STOPPED_S)
    scene.watch.held.discard(worker)
    send(worker, signal.SIGCONT)


def strike_agents(scene, hosts, action):
    agents = [scene.lab.agents[host] for host in hosts]
    for agent in agents:
        agent.process.send_signal(signal.SIGKILL if action == "kill" else signal.SIGSTOP)
    if action == "kill":
        for agent in agents:
            agent.process.wait()
    scene.let_go()
    time.sleep(RESTART_S if action == "kill" else STOPPED_S)
    for agent in agents:
        if action == "kill":
            agent.start()
        else:
            agent.process.send_signal(signal.SIGCONT)


def cut_link(scene, action):
    ways = {"cut-to-target": [(scene.source, scene.target)], "cut-to-source": [(scene.target, scene.source)],
            "cut": [(scene.source, scene.target), (scene.target, scene.source)]}[action]
    for way in ways:
        cut_way(scene.lab, *way)
    scene.let_go()
    time.sleep(CUT_S)
    for way in ways:
        mend_way(scene.lab, *way)


def fill_disk(scene, host):
    disk = scene.lab.agents[host].disk
    disk.fill()
    scene.let_go()
    time.sleep(FULL_S)
    disk.empty()


def lose_power(scene, host):
    agent = scene.lab.agents[host]
    agent.lose_power()
    scene.lost_host = host
    scene.let_go()
    time.sleep(AWAY_S)
    agent.reboot()
