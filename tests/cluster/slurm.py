"""A real SLURM of one node with two cores, in a folder of its own, set up and torn down in seconds.

    python tests/cluster/slurm.py DIR     starts it, prints its SLURM_CONF, and ends it on Ctrl-C

It needs root and Debian's packages `slurm-wlm` and `munge`. While it runs, /etc/slurm/slurm.conf is a link
to its configuration, since Snakemake clears SLURM's variables from the jobs; where there is such a file
already, no SLURM is set up."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PLACE = Path('/etc/slurm/slurm.conf')
PACKAGES = ('slurm-wlm', 'munge')
COMMANDS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'scancel', 'scontrol', 'sinfo')
_CONF = """ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    "Return why no SLURM can be set up here, or ''."
    if os.name != 'posix' or os.geteuid():
        return 'a SLURM of its own needs root'
    if PLACE.exists():
        return f'{PLACE} is there: this machine has a SLURM already'
    missing = [name for name in COMMANDS if not shutil.which(name)]
    if not missing:
        return ''
    return f'{", ".join(missing)} not found; as root: apt-get install {" ".join(PACKAGES)}'


def installed() -> str:
    "Install what is missing, where that can be done; return why it cannot, or ''."
    if not lacking() or os.geteuid() or not shutil.which('apt-get'):
        return lacking()
    command = ['apt-get', 'install', '-y', '--no-install-recommends', *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    reason = (done.stderr.strip().splitlines() or ['no message'])[-1]
    return f'apt-get install failed: {reason}' if done.returncode else lacking()


class Slurm:
    "The daemons, as children of this process."

    def __init__(self, folder):
        self.folder, self.daemons = Path(folder), {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self.conf = self.folder / 'slurm.conf'
        self.conf.write_text(_CONF.format(host=socket.gethostname(), folder=self.folder))
        for name in ('state', 'spool'):
            (self.folder / name).mkdir(exist_ok=True)

    @property
    def environment(self) -> dict:
        return {'SLURM_CONF': str(self.conf)}

    def start(self, name: str, *command):
        log = open(self.folder / f'{name}.out', 'ab')  # noqa: SIM115 (the daemon keeps it)
        env = {**os.environ, **self.environment}
        self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, env=env)

    def start_munge(self):
        key = self.folder / 'munge.key'
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        files = {'key-file': key, 'socket': self.folder / 'munge.socket'}
        files |= {f'{kind}-file': self.folder / f'munge.{kind}' for kind in ('pid', 'log', 'seed')}
        options = [f'--{name}={path}' for name, path in files.items()]
        self.start('munged', 'munged', '--foreground', '--force', *options)

    def start_controller(self):
        self.start('slurmctld', 'slurmctld', '-D')

    def up(self) -> 'Slurm':
        "Start everything; RuntimeError if no node is idle after a minute, or another SLURM is there."
        if PLACE.exists():
            raise RuntimeError(f'{PLACE} is there: another trial runs, or this machine has a SLURM')
        PLACE.parent.mkdir(parents=True, exist_ok=True)
        PLACE.unlink(missing_ok=True)  # a link that a killed trial left leads nowhere
        PLACE.symlink_to(self.conf)
        self.start_munge()
        time.sleep(1)
        self.start_controller()
        self.start('slurmd', 'slurmd', '-D', '-N', socket.gethostname())
        for _ in range(60):
            if 'idle' in self.ask('sinfo', '-h', '-o', '%T'):
                return self
            time.sleep(1)
        self.down()
        raise RuntimeError(f'no idle node; see the logs in {self.folder}')

    def ask(self, *command) -> str:
        env = {**os.environ, **self.environment}
        return subprocess.run(command, capture_output=True, text=True, env=env).stdout

    def kill_controller(self):
        "End the controller as a crash would, and start it again."
        self.daemons['slurmctld'].kill()
        self.daemons['slurmctld'].wait()
        time.sleep(5)
        self.start_controller()

    def release(self, seconds=20) -> bool:
        """Do what an administrator does after a crash; return whether there was anything to do.

        A controller that ends within seconds of a job's start, before it has written so, starts the job
        again; the node refuses the second copy, and SLURM drains the node and holds the job."""
        time.sleep(seconds)
        drained = 'drain' in self.ask('sinfo', '-h', '-o', '%T')
        if drained:
            self.ask('scontrol', 'update', f'nodename={socket.gethostname()}', 'state=resume')
        held = [
            number
            for number, _, why in (
                line.partition(' ') for line in self.ask('squeue', '-h', '-o', '%i %r').splitlines()
            )
            if 'held' in why.lower()
        ]
        for number in held:
            self.ask('scontrol', 'release', number)
        return drained or bool(held)

    def down(self):
        "Cancel what runs, and end the daemons."
        self.ask('scancel', '--user', 'root')
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        PLACE.unlink(missing_ok=True)


if __name__ == '__main__':
    if reason := installed():
        sys.exit(f'skipped: {reason}')
    slurm = Slurm(Path(sys.argv[1]).absolute()).up()
    print(f'SLURM_CONF={slurm.conf}', flush=True)
    try:
        slurm.daemons['slurmctld'].wait()
    finally:
        slurm.down()
