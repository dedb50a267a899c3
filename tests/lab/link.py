"""The link between two hosts, cut one way at a time, as a broken path does it: packets vanish."""

from commands import run_command

ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2", "c": "10.77.0.3"}


def cut_way(lab, sender, receiver):
    """Nothing of host `sender` reaches the host `receiver`, and nobody is told. Clients reach both."""
    name = f"{lab.name}-{receiver}"
    # Before the table of local addresses, which comes first by default.
    if run_command(["ip", "-n", name, "rule", "list"]).stdout.startswith("0:"):
        run_command(["ip", "-n", name, "rule", "add", "pref", "100", "lookup", "local"])
        run_command(["ip", "-n", name, "rule", "del", "pref", "0"])
    run_command(["ip", "-n", name, "rule", "add", "pref", "5", "from", ADDRESSES[sender], "blackhole"])


def mend_way(lab, sender, receiver):
    run_command(["ip", "-n", f"{lab.name}-{receiver}", "rule", "del", "pref", "5", "from", ADDRESSES[sender],
                 "blackhole"])
