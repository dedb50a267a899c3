#!/usr/bin/env python3
"""Throughput of an RDMA link as a fraction of ib_write_bw (perftest) between the same two ends in the same run.

Between two guests (each runs this), or two devices of one machine. Runs alternate, since emulated machines vary from
second to second: link, ib_write_bw, link, ...; the figure is the ratio of the medians.

    tests/lab/vm pair -- bench/rdma.py
    tests/lab/vm run --rdma -- bench/rdma.py --both
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = CHECKOUT / "build/bench/bench_rdma"
MIB = 1 << 20
PATIENCE_S = 120


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--both", action="store_true", help="both ends are on this machine")
    parser.add_argument("--runs", type=int, default=5, help="of each (default 5)")
    parser.add_argument("--mib", type=int, default=64, help="sent in each run (default 64)")
    parser.add_argument("--at-least", type=float, default=0, metavar="RATIO", help="fail below this ratio")
    return parser.parse_args()


def addresses(both):
    """The target's and the source's, and their devices."""
    links = [line.split() for line in subprocess.check_output(["rdma", "link"], text=True).splitlines()]
    devices = [words[1].split("/")[0] for words in links]  # "link rxe0/1 state ACTIVE ... netdev eth1"
    if both:
        shown = [subprocess.check_output(["ip", "-4", "address", "show", words[-1]], text=True) for words in links[:2]]
        target, source = (re.search(r"inet ([0-9.]+)", text)[1] for text in shown)
        return target, source, devices[0], devices[1]
    here, peer = os.environ["GODWIT_ADDRESS"], os.environ["GODWIT_PEER"]
    target, source = (here, peer) if os.environ["GODWIT_GUEST"] == "a" else (peer, here)
    return target, source, devices[0], devices[0]


def perftest(device, mib, *more):
    # As many writes of the same size on their way as a link has buffers.
    return ["ib_write_bw", f"--ib-dev={device}", f"--size={MIB}", "--tx-depth=8", f"--iters={mib}", "--CPU-freq", *more]


def bandwidth(output):
    """MiB/s, the average, of ib_write_bw's table; None where it printed 0, because what it measured of the processor's
    clock did not lie on a line, as on an emulated processor that was stopped for a while."""
    row = re.search(rf"^ *{MIB} +\d+ +[\d.]+ +([\d.]+)", output, re.MULTILINE)
    if row is None:
        raise RuntimeError(f"ib_write_bw printed no result:\n{output}")
    return float(row[1]) or None


def run_source(command):
    """Its target may be a moment from listening."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > give_up:
            raise RuntimeError(f"{command[0]}: {done.stderr.strip()}{done.stdout.strip()}")
        time.sleep(0.3)


def measure(options, places, share, target_here, source_here):
    target, source, target_device, source_device = places
    figures = {"link": [], "ib_write_bw": []}
    for number in range(options.runs):
        port_file = share / f"port.{number}"
        for name, at_target, at_source in (
                ("link", [PROGRAM, "target", target, port_file], [PROGRAM, "source", target, port_file, source,
                                                                  str(options.mib)]),
                ("ib_write_bw", perftest(target_device, options.mib),
                 perftest(source_device, options.mib, target))):
            listener = None
            if target_here:
                listener = subprocess.Popen(at_target, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                if source_here:
                    output = run_source(at_source)
                    figures[name].append(float(output) if name == "link" else bandwidth(output))
                if listener is not None:
                    output, _ = listener.communicate(timeout=PATIENCE_S)
                    if listener.returncode != 0:
                        raise RuntimeError(f"the target of {name} failed: {output}")
            finally:
                if listener is not None and listener.poll() is None:
                    listener.kill()
                    listener.wait()
    return figures


def main():
    options = parse_arguments()
    share = pathlib.Path(os.environ.get("GODWIT_SHARE", "/tmp"))
    target_here = options.both or os.environ["GODWIT_GUEST"] == "a"
    source_here = options.both or not target_here
    figures = measure(options, addresses(options.both), share, target_here, source_here)
    if not source_here:
        return 0
    medians = {}
    for name, values in figures.items():
        told = [value for value in values if value is not None]
        if not told:
            raise RuntimeError(f"{name} could not tell its bandwidth in any of {len(values)} runs")
        medians[name] = statistics.median(told)
        print(f"{name:<12} {' '.join(f'{value:7.1f}' if value is not None else '      ?' for value in values)} MiB/s, "
              f"median {medians[name]:.1f}")
    ratio = medians["link"] / medians["ib_write_bw"]
    print(f"link / ib_write_bw = {ratio:.2f}")
    return 0 if ratio >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
