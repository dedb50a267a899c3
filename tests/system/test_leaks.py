"""Two hundred migrations in a row leave nothing behind at either host."""

import os
import pathlib
import unittest

from base import LabCase, run_command

WARM_UP = 10
MIGRATIONS = 200
ADDRESS = "10.77.0.40"


def count_cgroups():
    return sum(len(dirs) for _, dirs, _ in os.walk("/sys/fs/cgroup"))


class Leaks(LabCase):
    def census(self):
        """Everything of a kind that a migration makes and that could stay."""
        agents = [agent.process.pid for agent in self.lab.agents.values()]
        counts = {
            "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in agents),
            "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
            "mounts": len(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()),
            "namespaces": len(run_command(["lsns", "--noheadings", "--output", "NS"]).stdout.splitlines()),
            "cgroups": count_cgroups(),
            "interfaces": sum(len(run_command(["ip", "-n", f"{self.lab.name}-{host}", "-o", "link"]).stdout.splitlines())
                              for host in self.lab.agents),
            "files": sum(len(files) + len(dirs) for directory, dirs, files in os.walk(self.lab.directory)
                         if pathlib.Path(directory).name != "sessions"),
        }
        memory = {}
        for host, agent in self.lab.agents.items():
            status = pathlib.Path(f"/proc/{agent.process.pid}/status").read_text()
            memory[host] = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return counts, memory

    def test_nothing_stays(self):
        self.lab.run("redis", "redis", ADDRESS)
        client = self.lab.redis_client(ADDRESS, rate=200, preload=4 << 20)
        for _ in range(WARM_UP):  # caches, pools and threads of the agents come to rest
            self.lab.migrate("redis")
        before, memory_before = self.census()
        for _ in range(MIGRATIONS):
            self.lab.migrate("redis")
        after, memory_after = self.census()
        # Other programs of the machine come and go too: what matters is that nothing grows with the migrations.
        for kind, count in before.items():
            self.assertLess(after[kind] - count, 5, f"more {kind}: {before} became {after}")
        # Of each migration a record stays at either side, for some days; how many is bounded by the store.
        for agent in self.lab.agents.values():
            self.assertLessEqual(len(os.listdir(agent.root / "sessions")), WARM_UP + MIGRATIONS)
        for host in memory_before:
            self.assertLess(memory_after[host] - memory_before[host], 8 << 10, f"KiB more in the agent of host {host}")
        total = client.finish()
        self.assertEqual((total["wrong"], total["lost"], total["reconnects"]), (0, 0, 0))


if __name__ == "__main__":
    unittest.main()
