"""A SLURM cluster of one machine, for as long as a test runs.

munged, slurmctld and slurmd run as the user who runs the test, listen on 127.0.0.1 and keep everything in one temporary
folder: key, socket, state, logs. Neither systemd nor control groups are needed, and nothing is read from /etc.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import WAIT_SECONDS, processes_with, until

VARIABLE = "REGMEAN_LAB_TEST_CLUSTERS"
"""Says that tests with clusters are wanted, and where SLURM and munge are: ``/``, or a folder of unpacked packages."""

DAEMONS = ("munged", "slurmctld", "slurmd", "slurmstepd")
COMMANDS = ("sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
# Everything binds to the address of the host that it is configured with.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
# A job that was put into the queue again begins when its old credential has expired.
AuthInfo=socket={folder}/munge/socket,cred_expire=10
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# No control groups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
# Seconds from SIGTERM to SIGKILL, but five at least.
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Programs:
    """Where SLURM and munge are installed.

    Attributes:
        paths: of each of ``DAEMONS`` and ``COMMANDS``.
        libraries: folders of shared libraries, where they are not those of the machine.
        plugins: SLURM's own folder of them.
    """

    paths: Mapping[str, Path]
    libraries: tuple[Path, ...]
    plugins: Path


def find_programs(root: Path) -> Programs | str:
    """The programs of the machine, or of packages that were unpacked into a folder; what is missing, if one is.

    Args:
        root: ``/``, or the folder.
    """
    root = root.resolve()
    folders = [root / "usr" / name for name in ("bin", "sbin")]
    paths = {}
    for name in (*DAEMONS, *COMMANDS):
        # Debian's daemons have their names by alternatives, which only an installation makes.
        found = [folder / text for folder in folders for text in (name, f"{name}-wlm") if (folder / text).is_file()]
        if not found:
            return f"there is no {name} in {', '.join(map(str, folders))}"
        paths[name] = found[0]
    usual = ("lib/*/slurm-wlm", "lib/*/slurm", "lib64/slurm", "lib/slurm")
    plugins = [path.parent for part in usual for path in (root / "usr").glob(f"{part}/auth_munge.so")]
    if not plugins:
        return f"SLURM's plugin auth_munge is not below {root / 'usr'}"
    libraries = () if root == Path("/") else (plugins[0].parent, plugins[0])
    return Programs(paths, libraries, plugins[0])


@dataclass(frozen=True)
class SlurmCluster:
    """A cluster that runs.

    Attributes:
        folder: what it keeps.
        environment: the variables with which programs find it.
    """

    folder: Path
    environment: Mapping[str, str]

    def call(self, *command: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """State of every task of a job array that the controller still knows of, by ``JOB_TASK``."""
        lines = self.call("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def logs(self) -> str:
        """The ends of what the daemons have written, for the message of a test that fails."""
        paths = [*self.folder.glob("*.log"), *self.folder.glob("*.out"), *self.folder.glob("munge/*.log")]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(paths))


@contextmanager
def slurm_cluster(programs: Programs) -> Iterator[SlurmCluster]:
    """Start a cluster of one node; at the end all its jobs and daemons are stopped, and its folder is deleted."""
    with ExitStack() as stack:
        # The names of sockets must be short. munged wants its socket in a folder that all may pass through.
        folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)
        for name, mode in (("munge", 0o711), ("state", 0o700), ("spool", 0o700), ("bin", 0o700)):
            (folder / name).mkdir(mode=mode)
        key = folder / "munge" / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        for name, path in programs.paths.items():
            (folder / "bin" / name).symlink_to(path)
        host = socket.gethostname().partition(".")[0]
        controller_port, node_port = free_ports(2)
        user = subprocess.check_output(["id", "--user", "--name"], text=True).strip()
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                **{"host": host, "user": user, "controller_port": controller_port, "node_port": node_port},
                **{"folder": folder, "plugins": programs.plugins},
            )
        )
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        if programs.libraries:
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, programs.libraries))
        cluster = SlurmCluster(folder, environment)
        stack.callback(end_what_is_left, folder)

        munge = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "munged.log",
            "seed-file": "seed",
        }
        options = [f"--{option}={folder / 'munge' / name}" for option, name in munge.items()]
        start(stack, cluster, "munged", "--foreground", *options)
        until((folder / "munge" / "socket").exists, cluster.logs)
        start(stack, cluster, "slurmctld", "-D", "-c")
        start(stack, cluster, "slurmd", "-D", "-N", host, "-d", str(programs.paths["slurmstepd"]))
        stack.callback(end_jobs, cluster)
        until(lambda: idle(cluster), cluster.logs)
        yield cluster


def start(stack: ExitStack, cluster: SlurmCluster, name: str, *arguments: str) -> None:
    """Start a daemon in the foreground; it is stopped when the stack is left."""
    with (cluster.folder / f"{name}.out").open("wb") as output:
        process = subprocess.Popen(
            [cluster.folder / "bin" / name, *arguments],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def stop() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)


def end_jobs(cluster: SlurmCluster) -> None:
    """Cancel all jobs, and wait until their processes have ended."""
    subprocess.run(["scancel", "--user", str(os.getuid())], env=cluster.environment, capture_output=True, timeout=30)
    end = time.monotonic() + 15
    while time.monotonic() < end:
        listed = subprocess.run(["squeue", "--noheader"], env=cluster.environment, capture_output=True, timeout=30)
        if listed.returncode == 0 and not listed.stdout.strip():
            return
        time.sleep(0.2)


def end_what_is_left(folder: Path) -> None:
    """Kill every process of the cluster that goes on, whoever started it."""
    for process in processes_with(f"{folder}/"):
        process.send(signal.SIGKILL)


def idle(cluster: SlurmCluster) -> bool:
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env=cluster.environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode == 0 and done.stdout.strip() == "idle"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
