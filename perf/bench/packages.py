"""Rivals from Debian, installed if they are missing.

Promises that no daemon is started by it: policy-rc.d (invoke-rc.d(8)) forbids that meanwhile, and what was there is put
back.
"""

import contextlib
import os
import subprocess
from pathlib import Path

from .machine import is_root, program

NEEDS = {
    "/usr/sbin/smtp-source": "postfix",
    "/usr/lib/postfix/sbin/virtual": "postfix",
    "/usr/lib/dovecot/lmtp": "dovecot-lmtpd",
    "/usr/lib/cyrus/bin/lmtpd": "cyrus-imapd",
    "/usr/sbin/mkfs.ext4": "e2fsprogs",
    "/usr/sbin/mkfs.xfs": "xfsprogs",
    "/usr/bin/setpriv": "util-linux",
}
POLICY = Path("/usr/sbin/policy-rc.d")
FORBID = "#!/bin/sh\nexit 101\n"


def missing(of=NEEDS) -> list[str]:
    return sorted({package for path, package in of.items() if not Path(path).exists() and not program(Path(path).name)})


def install_missing(say, of=NEEDS):
    """Installs what is missing, if it may; what then is still missing is said by whoever needs it."""
    packages = missing(of)
    if not packages:
        return
    if not is_root() or not program("apt-get"):
        say(f"not installed: {', '.join(packages)} (apt-get install {' '.join(packages)}, as root)")
        return
    say(f"installing: {', '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with no_daemons():
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
            done = subprocess.run(["apt-get", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
            if done.returncode != 0:
                say(f"apt-get {words[0]}: {done.stderr.strip()[-500:]}")


@contextlib.contextmanager
def no_daemons():
    kept = (POLICY.read_bytes(), POLICY.stat().st_mode) if POLICY.exists() else None
    POLICY.write_text(FORBID)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if kept:
            POLICY.write_bytes(kept[0])
            POLICY.chmod(kept[1] & 0o7777)
        else:
            POLICY.unlink(missing_ok=True)
