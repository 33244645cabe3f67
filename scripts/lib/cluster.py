"""A cluster of processes on this machine, for programs that measure what happens as nodes come and go."""

import json, socket, subprocess, sys, time
from pathlib import Path

WAIT_MAX_S = 900


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    def __init__(self, bin, work):
        self.bin, self.work, self.nodes = bin, work, []

    def run(self, program, *arguments):
        command = [str(part) for part in (self.bin / program, *arguments)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def dfs(self, *arguments):
        return self.run("dfs", *arguments, "--profile", self.work / "node-1" / "admin")

    def add(self):
        data = self.work / f"node-{len(self.nodes) + 1}"
        where = ["--data", data, "--listen", f"127.0.0.1:{free_port()}"]
        if self.nodes:
            token = self.dfs("token", "create", "--for", "node").strip()
            self.run("dfs-node", "join", *where, "--token", token)
        else:
            self.run("dfs-node", "init", *where)
        log = open(self.work / f"{data.name}.log", "w")
        command = [self.bin / "dfs-node", "run", "--data", data, "--out-after", "4s"]
        self.nodes.append(subprocess.Popen([str(part) for part in command], stdout=log, stderr=log))

    def moves(self):
        try:
            return json.loads(self.dfs("status", "--json"))
        except subprocess.CalledProcessError:
            return None

    def wait(self, done):
        """Seconds until `done` says so of the status."""
        start = time.monotonic()
        while time.monotonic() < start + WAIT_MAX_S:
            status = self.moves()
            if status and done(status):
                return time.monotonic() - start
            time.sleep(0.2)
        sys.exit(f"{Path(sys.argv[0]).name}: it takes too long")

    def wait_moved(self, holders):
        """Until so many nodes hold everything."""
        def done(status):
            held = sum(1 for node in status["nodes"] if node["partitions"])
            return held == holders and status["moves"]["transition"] is None and status["moves"]["endangered"] == 0
        return self.wait(done)

    def stop(self):
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            node.wait()
