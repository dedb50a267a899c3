#!/usr/bin/env python3
"""What each dirty tracker of this kernel costs, side by side: a table, and a plot (SVG) of the same figures.

  arm          the first step: everything is protected or cleared
  live round   what was written since, of a running process, at several shares of dirty pages
  last round   the same of a frozen one
  first write  what a page takes to be written the first time after a round, against a page that nobody tracks
  redis        operations per second of a busy redis while a round is made every so often

Needs root. Build first: tools/setup. In the lab all trackers are at hand: tests/lab/vm run -- bench/trackers.py ...
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

PARTS = ("micro", "redis")
NAMES = ["uffd", "soft-dirty", "uffd-sync"]
COLOURS = {"none": "#888888", "uffd": "#1b6ca8", "soft-dirty": "#c8553d", "uffd-sync": "#588b4b"}
SHARES = [0, 1, 10, 100, 1000]  # dirty pages in a thousand
BUILD = pathlib.Path(__file__).resolve().parent.parent / "build/bench"


def micro(build, mebibytes):
    """{"live_round": {"uffd": {0: ms, ...}}, "arm": {"uffd": ms}, "first_write": {"uffd": us}}"""
    text = subprocess.run([build / "bench_tracker", "--benchmark_format=json"], check=True, stdout=subprocess.PIPE,
                          env=os.environ | {"GODWIT_BENCH_MIB": str(mebibytes)}).stdout
    found = {}
    for run in json.loads(text)["benchmarks"]:
        if "error_message" in run:
            sys.exit(f"{run['name']}: {run['error_message']}")
        what, name, *rest = run["name"].split("/")
        if what in ("live_round", "last_round"):
            found.setdefault(what, {}).setdefault(name, {})[int(rest[0])] = run["real_time"]
        else:
            found.setdefault(what, {})[name] = run["real_time"]
    return found


class Redis:
    """A redis-server in a cgroup of its own, filled."""

    def __init__(self, mebibytes):
        roots = [p for p in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(f"{p}/cgroup.procs")]
        self.group = pathlib.Path(roots[0]) / f"godwit-bench-{os.getpid()}"
        self.directory = tempfile.TemporaryDirectory()
        self.socket = f"{self.directory.name}/redis"
        self.server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir",
                                        self.directory.name], stdout=subprocess.DEVNULL)
        try:
            self.group.mkdir()
            (self.group / "cgroup.procs").write_text(str(self.server.pid))
            while subprocess.run(["redis-cli", "-s", self.socket, "ping"], capture_output=True).returncode != 0:
                time.sleep(0.05)
            self.keys = mebibytes * 256
            subprocess.run(["redis-cli", "-s", self.socket, "debug", "populate", str(self.keys), "key", "4000"],
                           check=True, capture_output=True)
        except BaseException:
            self.close()
            raise

    def close(self):
        self.server.kill()
        self.server.wait()
        if self.group.exists():
            self.group.rmdir()
        self.directory.cleanup()

    def operations(self, seconds):
        """Operations per second, over some seconds, of a client that writes random keys, pipelined by four."""
        return self.run(max(1000, int(seconds * self.run(1000))))

    def run(self, requests):
        out = subprocess.run(["redis-benchmark", "-s", self.socket, "-c", "4", "-P", "4", "-n", str(requests), "-r", str(self.keys),
                              "-d", "100", "--csv", "SETRANGE", "key:__rand_int__", "0", "x" * 100],
                             check=True, capture_output=True, text=True).stdout
        return float(re.findall(r'"([\d.]+)"', out.splitlines()[-1])[0])


def on_redis(build, names, options):
    """{"uffd": {"ops": ..., "ms": per round, "pages": per round}}; "none" is without."""
    found = {}
    redis = Redis(options.redis)
    try:
        redis.operations(options.seconds)  # warm
        for name in (["none"] + names) * 3:
            tracking = None
            if name != "none":
                tracking = subprocess.Popen([build / "bench_track", str(redis.server.pid), name, str(options.period)],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                time.sleep(1)
            operations = redis.operations(options.seconds)
            found.setdefault(name, []).append(operations)
            if tracking:
                _, errors = tracking.communicate("")
                if tracking.returncode != 0:
                    sys.exit(errors.strip())
    finally:
        redis.close()
    return {name: statistics.median(values) for name, values in found.items()}


def table(figures, names):
    rows = [("", names)]
    if "arm" in figures:
        rows.append(("arm, ms", [f"{figures['arm'][n]:.2f}" for n in names]))
        for what, title in (("live_round", "live round"), ("last_round", "last round")):
            for share in SHARES:
                rows.append((f"{title}, {share / 10:g} % dirty, ms", [f"{figures[what][n][share]:.2f}" for n in names]))
        none = figures["first_write"]["none"]
        rows.append((f"first write to a page, us (untracked {none:.2f})", [f"{figures['first_write'][n]:.2f}" for n in names]))
    if "redis" in figures:
        none = figures["redis"]["none"]
        rows.append((f"redis, operations per second (untracked {none:,.0f})",
                     [f"{figures['redis'][n]:,.0f} ({100 * figures['redis'][n] / none - 100:+.0f} %)" for n in names]))
    lines = ["| " + " | ".join([title] + list(cells)) + " |" for title, cells in rows]
    lines.insert(1, "|---" * (len(names) + 1) + "|")
    return "\n".join(lines)


def bars(title, unit, groups, left, top, width, height):
    """groups: [(label, [(name, value)])], on a logarithmic scale if the values ask for one."""
    import math
    values = [max(v, 1e-3) for _, bars_ in groups for _, v in bars_]
    logarithmic = max(values) / min(values) > 50
    low = math.floor(math.log10(min(values))) if logarithmic else 0
    high = math.log10(max(values)) if logarithmic else max(values)
    scale = lambda v: ((math.log10(max(v, 1e-3)) if logarithmic else v) - low) / ((high - low) or 1) * (height - 40)
    out = [f'<text x="{left}" y="{top + 12}" font-weight="bold">{title}, {unit}{" (logarithmic)" if logarithmic else ""}</text>']
    step = width / len(groups)
    for i, (label, cells) in enumerate(groups):
        bar = step * 0.8 / len(cells)
        out.append(f'<text x="{left + i * step + step * 0.4:.1f}" y="{top + height + 14}" text-anchor="middle">{label}</text>')
        for j, (name, value) in enumerate(cells):
            tall = max(scale(value), 1)
            x, y = left + i * step + j * bar, top + height - tall
            out.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar * 0.92:.1f}" height="{tall:.1f}" fill="{COLOURS[name]}"/>')
            out.append(f'<text x="{x + bar / 2:.1f}" y="{y - 3:.1f}" text-anchor="middle" font-size="8">{value:.3g}</text>')
    return "\n".join(out)


def plot(figures, names, path):
    parts, top = [], 30
    for what, title in (("live_round", "Live round"), ("last_round", "Last round")):
        if what in figures:
            groups = [(f"{s / 10:g} %", [(n, figures[what][n][s]) for n in names]) for s in SHARES]
            parts.append(bars(f"{title} by share of dirty pages", "ms", groups, 20, top, 660, 150))
            top += 195
    if "first_write" in figures:
        parts.append(bars("First write to a page", "us", [("", [(n, figures["first_write"][n]) for n in ["none"] + names])],
                          20, top, 300, 150))
    if "redis" in figures:
        parts.append(bars("redis", "operations per second", [("", [(n, figures["redis"][n]) for n in ["none"] + names])],
                          370, top, 300, 150))
    legend = "".join(f'<rect x="{20 + 110 * i}" y="6" width="10" height="10" fill="{COLOURS[n]}"/>'
                     f'<text x="{34 + 110 * i}" y="15">{n}</text>' for i, n in enumerate(["none"] + names))
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {top + 180}" font-family="sans-serif" '
                    f'font-size="11"><rect width="700" height="{top + 180}" fill="white"/>{legend}\n' + "\n".join(parts) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: both")
    parser.add_argument("--build", type=pathlib.Path, default=BUILD, help="where bench_tracker and bench_track are")
    parser.add_argument("--memory", type=int, default=1024, help="MiB of the tracked process")
    parser.add_argument("--redis", type=int, default=256, help="MiB of data in redis")
    parser.add_argument("--seconds", type=float, default=5, help="of one measurement of redis")
    parser.add_argument("--period", type=int, default=200, help="ms between two rounds beside redis")
    parser.add_argument("--plot", type=pathlib.Path, help="write an SVG here")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if wrong := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {wrong[0]}; the parts are {', '.join(PARTS)}")
    listed = subprocess.run([options.build / "bench_tracker", "--benchmark_list_tests"], check=True, capture_output=True,
                            text=True).stdout
    names = [n for n in NAMES if f"arm/{n}/" in listed]
    figures = micro(options.build, options.memory) if "micro" in parts else {}
    if "redis" in parts:
        print("redis ...", file=sys.stderr, flush=True)
        figures["redis"] = on_redis(options.build, names, options)
    print(f"Linux {os.uname().release}, {options.memory} MiB; redis {options.redis} MiB, a round every {options.period} ms:\n")
    print(table(figures, names))
    if options.plot:
        plot(figures, names, options.plot)
    if options.json:
        options.json.write_text(json.dumps({"kernel": os.uname().release, "trackers": names} | figures, indent=1))


if __name__ == "__main__":
    main()
