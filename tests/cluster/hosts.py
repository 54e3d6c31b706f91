"""Hosts of a cluster on this machine: each has its own network, processes and /tmp/ray.

Network namespaces on one bridge; this machine is at its other end, as somebody outside.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
NET = "10.77.0."
OUTSIDE = NET + "254"
CABLES = itertools.count(1)
# Ray waits half a minute before it takes a host for dead.
SOON_DEAD = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


def why_not() -> str:
    """Why hosts cannot be made here; empty where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    done = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"],
                          capture_output=True, text=True)  # fmt: skip
    ip = subprocess.run(["ip", "link", "help"], capture_output=True).returncode in (0, 255)
    return "" if done.returncode == 0 and ip else f"no namespaces here: {done.stderr.strip()}"


class Host:
    """One of them.

    Args:
        number: 1 and up; the last number of its address.
        home: its home folder.
    """

    def __init__(self, number: int, home: Path) -> None:
        self.ip, self.home = f"{NET}{number}", home
        # A cable of a host that was switched off goes a moment later than the host.
        self.link = f"rm{os.getpid() % 100000}v{next(CABLES)}"
        home.mkdir(parents=True)
        # bash collects the processes that others leave behind, as the first one must.
        begin = "mount -t tmpfs ray /tmp/ray && while :; do sleep 1000 & wait; done"
        self._init = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             "bash", "-c", begin], stdin=subprocess.DEVNULL
        )  # fmt: skip
        self.pid = self._first_process()

    def _first_process(self) -> int:
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        for _ in range(100):
            with contextlib.suppress(OSError):
                if found := children.read_text().split():
                    return int(found[0])
            time.sleep(0.05)
        raise AssertionError("the namespace did not start")

    def wire(self, bridge: str) -> None:
        """Put a cable between it and the bridge."""
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.pid)
        ip("link", "set", self.link, "master", bridge, "up")
        for words in (["link", "set", "lo", "up"], ["addr", "add", f"{self.ip}/24", "dev", "eth0"],
                      ["link", "set", "eth0", "up"]):  # fmt: skip
            subprocess.run([*self.enter, "ip", *words], check=True)

    @property
    def enter(self) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid"]

    @property
    def env(self) -> dict[str, str]:
        bare = {k: v for k, v in os.environ.items() if not k.startswith(("RAY", "OMP"))}
        tools = Path(sys.executable).parent
        return {
            **bare, "HOME": str(self.home), "RAYMRCNN_IP": self.ip, "PYTHON": sys.executable,
            "PATH": f"{tools}:{bare['PATH']}", "RAYMRCNN_DASHBOARD": self.ip,
            "GLOO_SOCKET_IFNAME": "eth0", **SOON_DEAD,
        }  # fmt: skip

    def start(self, *words: object, **extra: Any) -> subprocess.Popen[str]:
        """A process on the host."""
        extra = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | extra
        env = self.env | extra.pop("env", {})
        return subprocess.Popen([*self.enter, *map(str, words)], env=env, cwd="/tmp", **extra)

    def run(self, *words: object, limit_s: float = 120, **extra: Any) -> str:
        """Run to a good end, and return what was printed."""
        process = self.start(*words, **extra)
        output, _ = process.communicate(timeout=limit_s)
        assert process.returncode == 0, f"{words}: {output}"
        return output

    def tellers(self, secret: Path) -> list[str]:
        """Command lines and logs of Ray on it that hold the text of a file."""
        look = """
        exec 2> /dev/null  # processes come and go
        for place in /proc/[0-9]*/cmdline; do
            tr '\\0' ' ' < $place | grep -qFf "$1" && echo $place
        done
        grep -rlFf "$1" /tmp/ray
        true"""
        return self.run("bash", "-c", look, "look", secret).split()

    def cut(self, *, off: bool) -> None:
        """Take its cable out, or put it in again."""
        ip("link", "set", self.link, "down" if off else "up")

    def kill(self) -> None:
        """Switch it off."""
        self._init.kill()
        self._init.wait()


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True)


class Cluster:
    """A head and workers, started by the scripts of `cluster/`.

    Args:
        number: of hosts.
        folder: for their homes.
        tls: whether each of them has a certificate of `cluster/tls.sh`.
    """

    def __init__(self, number: int, folder: Path, *, tls: bool = False) -> None:
        self.bridge = f"rm{os.getpid() % 100000}b"
        Path("/tmp/ray").mkdir(exist_ok=True)
        self.hosts: list[Host] = []
        try:
            ip("link", "add", self.bridge, "type", "bridge")
            ip("addr", "add", f"{OUTSIDE}/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
            self.folder = folder
            for _ in range(number):
                self.add()
            if tls:
                self.certify(folder / "authority")
            self.head.run(CLUSTER / "head.sh", "--num-cpus", 1, "--object-store-memory", 200 << 20)
            for host in self.hosts[1:]:
                self.join(host)
        except BaseException:
            self.stop()
            raise

    def add(self) -> Host:
        """One more host on the network, on which nothing runs."""
        number = len(self.hosts) + 1
        self.hosts.append(Host(number, self.folder / f"host{number}"))
        self.hosts[-1].wire(self.bridge)
        return self.hosts[-1]

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def token(self) -> Path:
        return self.head.home / ".ray" / "auth_token"

    def certify(self, authority: Path) -> None:
        """Give each host its certificate, as the lines that the script prints would."""
        subprocess.run([CLUSTER / "tls.sh", *(host.ip for host in self.hosts)], check=True,
                       env={**os.environ, "RAYMRCNN_TLS_OUT": str(authority)})  # fmt: skip
        for host in self.hosts:
            shutil.copytree(authority / host.ip, host.home / ".ray" / "tls")

    def trust(self, host: Host) -> None:
        """Give a host the token."""
        place = host.home / ".ray" / "auth_token"
        place.parent.mkdir(exist_ok=True)
        place.write_text(self.token.read_text())

    def join(self, host: Host) -> None:
        self.trust(host)
        host.run(CLUSTER / "worker.sh", self.head.ip, "--num-cpus", 2,
                 "--object-store-memory", 200 << 20)  # fmt: skip

    def stop(self) -> None:
        for host in self.hosts:
            host.kill()
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)
