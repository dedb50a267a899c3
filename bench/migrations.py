#!/usr/bin/env python3
"""Whole migrations, measured: downtime, client gap, throughput, slowdown. Prints tables, and with --json one object.

Parts (default: all):
  load        redis with data under a checking client and a writing one, moved to and fro
  growth      downtime of an idle redis with little and with much data
  throughput  of round 0, against one iperf3 stream between the same two hosts
  slowdown    operations per second of a busy client before and during the rounds
  compare     part load, by this build and by the one of --beside in turn; only if it is named

Figures are medians, with the smallest and the largest; nothing is asserted here. Build first: tools/setup.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/lab"))

from lab import ADDRESSES, BUILD, Lab, wait_for  # noqa: E402

ADDRESS = "10.77.0.5"
MIB = 1 << 20


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show(title, values, unit, scale=1.0):
    s = spread(values)
    print(f"  {title:<42} {s['median'] / scale:10.2f} {unit:<5} (from {s['min'] / scale:.2f} to {s['max'] / scale:.2f}, "
          f"{len(values)} runs)")


FILL_MEMORY = """
import sys, time
size = int(sys.argv[1])
start = time.monotonic()
b = bytearray(size)
b[::4096] = bytes([1]) * len(b[::4096])
print(size / (time.monotonic() - start))
"""


def fill_memory(size):
    """A program that fills as much memory as a migration must, and ends: bytes per second. What any program gets at
    most on this machine, and what it costs its neighbours."""
    command = [sys.executable, "-c", FILL_MEMORY, str(size)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure_load(options):
    """Point 1: many migrations under load."""
    with Lab() as lab:
        lab.run("redis", "redis", ADDRESS)
        client = lab.redis_client(ADDRESS, rate=1000, preload=options.memory * MIB, load=options.load)
        rows = []
        for _ in range(options.runs):
            client.mark()
            time.sleep(3)
            usual = client.mark()["gap_us"]
            fill_memory(options.memory * MIB)
            beside = client.mark()["gap_us"]
            result = lab.migrate("redis", "--verify")
            time.sleep(0.5)
            seen = client.mark()
            rows.append(result | {"client_gap_us": seen["gap_us"], "usual_gap_us": usual, "beside_gap_us": beside,
                                  "wrong": seen["wrong"]})
        total = client.finish()
    print(f"redis, {options.memory} MiB, {options.load:.0f} writes of 4 KiB per second, {options.runs} migrations:")
    show("downtime", [r["downtime_us"] for r in rows], "ms", 1e3)
    show("client gap", [r["client_gap_us"] for r in rows], "ms", 1e3)
    show("client gap in 3 s without a migration", [r["usual_gap_us"] for r in rows], "ms", 1e3)
    show("the same beside a program that fills memory", [r["beside_gap_us"] for r in rows], "ms", 1e3)
    show("total", [r["total_us"] for r in rows], "ms", 1e3)
    show("rounds", [r["rounds"] for r in rows], "")
    show("dirtied", [r["dirty_bytes_per_second"] for r in rows], "MB/s", 1e6)
    verified = sum(bool(r["verified"]) for r in rows)
    print(f"  {total['sent']} operations, {total['wrong']} wrong, {total['lost']} lost, {total['reconnects']} reconnects, "
          f"memory verified {verified} of {len(rows)} times")
    keys = ("downtime_us", "client_gap_us", "usual_gap_us", "beside_gap_us", "total_us", "rounds", "bytes_sent",
            "dirty_bytes_per_second", "verified")
    return {"migrations": [{k: r[k] for k in keys} for r in rows], "total": total}


def measure_compare(options):
    """The same load at two pairs of hosts, one of each build, whose migrations take turns."""
    builds = {"this build": BUILD, "the other": options.beside}
    rows = {name: [] for name in builds}
    with contextlib.ExitStack() as stack:
        labs = {}
        for index, (name, build) in enumerate(builds.items()):
            lab = stack.enter_context(Lab(name=f"cmp{os.getpid() % 10000}{index}", build=build))
            lab.run("redis", "redis", ADDRESS)
            labs[name] = (lab, lab.redis_client(ADDRESS, rate=1000, preload=options.memory * MIB, load=options.load / 2))
            lab.migrate("redis")  # warms up: the first one differs from all others
        for _ in range(options.runs):
            for name, (lab, client) in labs.items():
                client.mark()
                result = lab.migrate("redis")
                time.sleep(0.3)
                rows[name].append((result["downtime_us"], client.mark()["gap_us"]))
        totals = {name: client.finish() for name, (_, client) in labs.items()}
    print(f"redis, {options.memory} MiB, {options.load / 2:.0f} writes of 4 KiB per second, two builds in turn:")
    for column, what in enumerate(("downtime", "client gap")):
        for name in builds:
            show(f"{what}, {name}", [row[column] for row in rows[name]], "ms", 1e3)
        ours, theirs = (statistics.median(row[column] for row in rows[name]) for name in builds)
        print(f"  {what + ', difference of the medians':<42} {(ours - theirs) / 1e3:+10.2f} ms")
    for name, total in totals.items():
        print(f"  {name}: {total['wrong']} wrong, {total['lost']} lost, {total['reconnects']} reconnects")
    return rows


def measure_growth(options):
    """Point 2: idle containers of two sizes, alternately."""
    downtimes = {}
    with Lab() as lab:
        for index, mib in enumerate((256, options.large)):
            address = f"10.77.0.{50 + index}"
            lab.run(f"redis{mib}", "redis", address)
            client = lab.redis_client(address, rate=1, preload=mib * MIB)
            downtimes[mib] = []
            lab.clients.remove(client)
            client.close()
        for _ in range(options.runs // 2):
            for mib in downtimes:
                downtimes[mib].append(lab.migrate(f"redis{mib}")["downtime_us"])
    print("downtime of an idle redis:")
    for mib, values in downtimes.items():
        show(f"{mib} MiB", values, "ms", 1e3)
    small, large = (statistics.median(values) for values in downtimes.values())
    print(f"  {'ratio of the medians':<42} {large / small:10.2f}")
    return {str(mib): values for mib, values in downtimes.items()} | {"ratio": large / small}


def iperf(lab):
    server = subprocess.Popen(["nsenter", f"--net=/run/netns/{lab.name}-b", "iperf3", "-s", "-1"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    done = subprocess.run(["nsenter", f"--net=/run/netns/{lab.name}-a", "iperf3", "-c", ADDRESSES["b"], "-t", "3", "-J"],
                          capture_output=True, text=True, check=True)
    server.wait()
    return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 8


def measure_throughput(options):
    """Point 3: round 0 against iperf3, alternately. Where the machine is a virtual one, its host may have taken back
    the memory that was free, and the first use of it is slow for everybody; so it is used just before each round."""
    rounds, wires, first, again = [], [], [], []
    with Lab() as lab:
        lab.run("redis", "redis", ADDRESS)
        client = lab.redis_client(ADDRESS, rate=1, preload=options.memory * MIB)
        lab.clients.remove(client)
        client.close()
        for _ in range(max(options.runs // 4, 3)):
            wires.append(iperf(lab))
            first.append(fill_memory(2 * options.memory * MIB))
            again.append(fill_memory(2 * options.memory * MIB))
            rounds.append(lab.migrate("redis")["throughput_bytes_per_second"])
    print("throughput:")
    show("one iperf3 stream", wires, "GB/s", 1e9)
    show("a program that fills memory", first, "GB/s", 1e9)
    show("the same again", again, "GB/s", 1e9)
    show("round 0", rounds, "GB/s", 1e9)
    fraction = statistics.median(rounds) / statistics.median(wires)
    print(f"  {'round 0 as a fraction of iperf3':<42} {fraction:10.2f}")
    return {"iperf3": wires, "fill_first": first, "fill_again": again, "round0": rounds, "fraction": fraction}


def answered_per_second(seen):
    return seen["bulk"]["answered"] / seen["elapsed_us"] * 1e6


def migrate_watched(lab, client):
    """Moves redis; returns the operations per second in the rounds, up to the beginning of the cutover, and the total
    time."""
    rates = []

    def on_event(event):
        state = event.get("state", {}).get("state")
        if state == "rounds":
            client.mark()
        elif state == "cutover" and not rates:
            rates.append(answered_per_second(client.mark()))

    result = lab.migrate("redis", on_event=on_event)
    return rates[0], result["total_us"]


def measure_slowdown(options):
    """Point 4: how many operations per second a container that is kept busy does before and during pre-copy."""
    before, during, totals = [], [], []
    with Lab() as lab:
        lab.run("redis", "redis", ADDRESS)
        client = lab.redis_client(ADDRESS, rate=100, preload=options.memory * MIB, load=options.saturation,
                                  reads=options.reads)
        migrate_watched(lab, client)  # warms up: the first one differs from all others
        for _ in range(max(options.runs // 2, 3)):
            time.sleep(1.0)
            client.mark()
            time.sleep(2.0)
            before.append(answered_per_second(client.mark()))
            rate, total_us = migrate_watched(lab, client)
            during.append(rate)
            totals.append(total_us)
    print(f"operations of a client that keeps redis busy, {options.reads * 100:.0f} % of them reads:")
    show("before", before, "/s")
    show("during pre-copy", during, "/s")
    lost = 1 - statistics.median(during) / statistics.median(before)
    print(f"  {'lost':<42} {lost * 100:10.1f} %")
    show("total of a migration", totals, "s", 1e6)
    return {"before": before, "during": during, "lost": lost, "total_us": totals}


PARTS = {"load": measure_load, "growth": measure_growth, "throughput": measure_throughput,
         "slowdown": measure_slowdown}
NAMED_ONLY = {"compare": measure_compare}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--runs", type=int, default=20, help="migrations of part load (default 20)")
    parser.add_argument("--memory", type=int, default=1024, help="MiB of data (default 1024)")
    parser.add_argument("--large", type=int, default=4096, help="MiB of the large container of part growth")
    parser.add_argument("--load", type=float, default=5000, help="4 KiB writes per second of part load")
    parser.add_argument("--saturation", type=float, default=1e6, help="requests per second that part slowdown tries")
    parser.add_argument("--reads", type=float, default=0.9, help="the part of these that only read (default 0.9)")
    parser.add_argument("--beside", metavar="BUILD", help="another version's build directory, for part compare")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    known = PARTS | NAMED_ONLY
    if wrong := [part for part in options.parts if part not in known]:
        parser.error(f"there is no part {wrong[0]}; the parts are {', '.join(known)}")
    if "compare" in options.parts and not options.beside:
        parser.error("part compare wants --beside BUILD")
    results = {part: known[part](options) for part in (options.parts or PARTS)}
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
