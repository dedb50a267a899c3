"""tools/demo: a redis container is moved between two hosts while a client writes and reads back."""

import argparse
import json
import re
import sys
import time

from lab import Lab, LabError

UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "K": 1 << 10, "MiB": 1 << 20, "M": 1 << 20, "GiB": 1 << 30, "G": 1 << 30}
COLUMNS = (("", 5), ("rounds", 7), ("sent", 10), ("dirty rate", 11), ("throughput", 11), ("downtime", 9),
           ("client gap", 11), ("total", 9))


def size(text):
    match = re.fullmatch(r"(\d+)\s*([KMG]i?B?|B?)", text)
    if not match or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write 256MiB, 1GiB")
    return int(match[1]) * UNITS[match[2]]


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="tools/demo", description="Moves a running redis container between two hosts (network namespaces on this "
        "machine, an agent each), while a client in a third one writes and reads back over one TCP connection.",
        epilog="Exit status: 0 if every answer was right and no connection was lost, 1 otherwise.")
    parser.add_argument("--memory", type=size, default=size("256MiB"), help="data in redis (default 256MiB)")
    parser.add_argument("--migrations", type=int, default=3, help="how often it is moved (default 3: a, b, a, b)")
    parser.add_argument("--rate", type=float, default=1000, help="pairs of SET and GET per second (default 1000)")
    parser.add_argument("--load", type=float, default=0,
                        help="pipelined 4 KiB writes per second on a second connection (default 0)")
    parser.add_argument("--verify", action="store_true", help="compare every page of both ends")
    parser.add_argument("--json", action="store_true", help="the results as one JSON object on the last line")
    return parser.parse_args()


def megabytes(count):
    return f"{count / 1e6:.1f} MB"


def milliseconds(us):
    return f"{us / 1000:.1f} ms"


def show_progress(event, say):
    if "decision" in event.get("round", {}):
        done = event["round"]
        say(f"    round {done['round']}: {done['pages_sent']} pages, {megabytes(done['bytes_sent'])} in "
            f"{milliseconds(done['duration_us'])}; {done['decision']}")


def migrate_once(lab, client, options, number, say):
    source, target = lab.where["redis"], lab.other("redis")
    say(f"  {number}. {source} -> {target}")
    client.mark()
    result = lab.migrate("redis", *(["--verify"] if options.verify else []),
                         on_event=lambda event: show_progress(event, say))
    time.sleep(0.3)  # what clients notice may come a moment after the container runs
    seen = client.mark()
    return {"from": source, "to": target, "client_gap_us": seen["gap_us"],
            **{key: result[key] for key in ("downtime_us", "total_us", "rounds", "bytes_sent", "pages_sent",
                                            "pages_zero", "pages_unchanged", "dirty_bytes_per_second",
                                            "throughput_bytes_per_second", "verified", "transport", "tracker")}}


def print_table(migrations, total):
    print()
    print("  ".join(title.rjust(width) for title, width in COLUMNS))
    for m in migrations:
        cells = (f"{m['from']} -> {m['to']}"[-7:], str(m["rounds"]), megabytes(m["bytes_sent"]),
                 f"{m['dirty_bytes_per_second'] / 1e6:.1f} MB/s", f"{m['throughput_bytes_per_second'] / 1e6:.0f} MB/s",
                 milliseconds(m["downtime_us"]), milliseconds(m["client_gap_us"]), milliseconds(m["total_us"]))
        print("  ".join(cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS)))
    verdict = "all well" if total["wrong"] == 0 and total["lost"] == 0 else "NOT WELL"
    print(f"\n{verdict}: {total['sent']} operations sent, {total['answered']} answered, {total['wrong']} wrong, "
          f"{total['lost']} lost, {total['reconnects']} reconnects")


def main():
    options = parse_arguments()
    quiet = options.json and not sys.stdout.isatty()
    say = (lambda _: None) if quiet else print
    try:
        say("starting two hosts, a and b, and a client")
        with Lab() as lab:
            lab.run("redis", "redis", "10.77.0.5", "--hostname", "redis")
            say(f"redis runs on host a with its own hostname and IP; filling it with {options.memory >> 20} MiB")
            client = lab.redis_client(rate=options.rate, preload=options.memory, load=options.load)
            migrations = [migrate_once(lab, client, options, i + 1, say) for i in range(options.migrations)]
            total = client.finish()
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if not quiet:
        print_table(migrations, total)
    if options.json:
        keys = ("sent", "answered", "wrong", "lost", "reconnects")
        print(json.dumps({"migrations": migrations, **{key: total[key] for key in keys}}))
    return 0 if total["wrong"] == 0 and total["lost"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
