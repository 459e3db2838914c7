"""The Debian packages that a dev cluster runs on."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from slurm.devcluster.cluster import ClusterError

_BASE = ("munge", "slurm-wlm")
_ACCOUNTING = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server-core", "mariadb-client-core")
_DO_NOT_START = "#!/bin/sh\nexit 101\n"


def why_not_here() -> str | None:
    """Say why no cluster can be brought up on this machine; None where it can."""
    if os.geteuid() != 0:
        return "a dev cluster needs root, for SLURM's daemons and node names: run it with sudo"
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        return (
            "there is no SLURM here and no apt-get to install it with: use Debian or Ubuntu, or a "
            "container of one"
        )
    return None


def install_packages(accounting: bool, say: Callable[[str], None]) -> None:
    """Install what is missing.

    Services that the packages bring are not started: nothing here uses /etc/slurm or /etc/munge.

    Raises:
        ClusterError: apt-get failed.
    """
    wanted = (*_BASE, *(_ACCOUNTING if accounting else ()))
    missing = [p for p in wanted if not _is_installed(p)]
    if not missing:
        return
    say(f"Installing {' '.join(missing)} with apt-get: half a minute, once ...")
    with _Quietly():
        done = _apt("install", "-y", "--no-install-recommends", *missing)
        if done.returncode:  # its lists may be old, or none
            _apt("update")
            done = _apt("install", "-y", "--no-install-recommends", *missing)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise ClusterError(f"apt-get install {' '.join(missing)} failed: {' '.join(last)}")


class _Quietly:
    """While it holds, packages that are installed do not start their services."""

    def __init__(self) -> None:
        self.policy = Path("/usr/sbin/policy-rc.d")
        self.ours = not self.policy.exists()

    def __enter__(self) -> None:
        if self.ours:
            self.policy.write_text(_DO_NOT_START)
            self.policy.chmod(0o755)

    def __exit__(self, *exc: object) -> None:
        if self.ours:
            self.policy.unlink(missing_ok=True)


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${Status}", package]
    return "install ok installed" in subprocess.run(query, capture_output=True, text=True).stdout


def _apt(*words: str) -> subprocess.CompletedProcess[str]:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *words],
        env=quiet,
        capture_output=True,
        text=True,
    )
