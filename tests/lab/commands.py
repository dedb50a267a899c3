"""Running commands: what lab.py and its parts share."""

import subprocess


class LabError(Exception):
    """Something in the lab did not come up, or a command failed; one line."""


def run_command(arguments, timeout=120, check=True):
    """Runs a command; returns the CompletedProcess with text output."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise LabError(f"{' '.join(str(a) for a in arguments)}: exit {done.returncode}: {lines[-1]}")
    return done
