"""Finds in a trace of system calls those that change something outside of every effect."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.crash.process import wire
from tests.crash.process.fuse import LOG_MARK

# The calls that can change something outside of the process.  Not included: `flock`, `connect`,
# `bind` and the like, whose effects end with the process.
MUTATING: Final = (
    "open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,"
    "sendfile,copy_file_range,splice,tee,vmsplice,fsync,fdatasync,sync,syncfs,sync_file_range,"
    "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat,"
    "mknod,mknodat,chmod,fchmod,fchmodat,fchmodat2,chown,lchown,fchown,fchownat,truncate,ftruncate,"
    "fallocate,utime,utimes,futimesat,utimensat,setxattr,lsetxattr,fsetxattr,removexattr,"
    "lremovexattr,fremovexattr,mount,umount2,pivot_root,move_mount,open_tree,fsmount,mount_setattr,"
    "swapon,ioctl,fork,vfork,clone,clone3,kill,tkill,tgkill,pidfd_send_signal,setns,unshare,"
    "sethostname,bpf,add_key,keyctl,quotactl,io_uring_enter,process_vm_writev,ptrace,msync"
)
_LINE: Final = re.compile(r"(?P<tid>\d+) +(?P<name>[a-z_0-9]+)\((?P<rest>.*)")
_TEXT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
# These only read, or concern the descriptor itself.
_IOCTLS: Final = re.compile(
    r"TIOCOUTQ|FIONREAD|FIONBIO|FIOCLEX|FIONCLEX|TCGETS|FS_IOC_GET|KVM_CHECK|TUNGETIFF|DM_|0xfd"
    r"|TIOCGWINSZ"
)
_NETLINK_GET: Final = re.compile(r"(RTM_GET\w+|NFT_MSG_GET\w+)")
_NFT_KIND: Final = re.compile(r"nlmsg_type=0xa([0-9a-f]{2})\b")


@dataclass(slots=True)
class Trace:
    """The calls between the fuse's arming and its disarming."""

    effects: int = 0
    within: int = 0  # changing calls that belong to an effect
    escaped: list[str] = field(default_factory=list)


def read(text: str) -> Trace:
    """The trace of `strace -f -y` with `MUTATING`, from the fuse's arming to its disarming."""
    lines = text.splitlines()
    marks = [number for number, line in enumerate(lines) if f'"{LOG_MARK} ' in line]
    armed = next(n for n in marks if f'"{LOG_MARK} armed' in lines[n])
    disarmed = next(n for n in marks if f'"{LOG_MARK} disarmed' in lines[n])
    threads = set(lines[disarmed].split(f'"{LOG_MARK} disarmed ')[1].split("\\n")[0].split())
    return _between(lines[armed + 1 : disarmed], threads)


def _between(lines: list[str], threads: set[str]) -> Trace:
    found, inside = Trace(), set[str]()
    for line in lines:
        call = _LINE.match(line)
        if call is None or call["tid"] not in threads:
            continue
        tid, rest = call["tid"], call["rest"]
        if f'"{LOG_MARK} + ' in rest:
            inside.add(tid)
            found.effects += 1
        elif f'"{LOG_MARK} - ' in rest:
            inside.discard(tid)
        elif tid in inside:
            found.within += 1
        elif _changes(call["name"], rest):
            found.escaped.append(line[:400])
    return found


def _changes(name: str, rest: str) -> bool:
    if name in ("open", "openat", "openat2"):
        return "O_CREAT" in rest or "O_TRUNC" in rest
    if name in ("clone", "clone3"):
        return "CLONE_THREAD" not in rest
    if name == "ioctl":
        return _IOCTLS.search(rest) is None
    if name.startswith("send"):
        return not _asks(rest)
    # hostd's log; wake-ups among its own threads; the ledger's shared memory, which SQLite rebuilds
    # from the log.
    return re.match(r"2<|\d+<anon_inode:\[event|\d+<[^>]*-shm>", rest) is None


def _asks(rest: str) -> bool:
    if _NETLINK_GET.search(rest) and not re.search(r"RTM_(NEW|DEL|SET)|NFT_MSG_(NEW|DEL)", rest):
        return True
    kinds = _NFT_KIND.findall(rest)  # if strace does not know the socket's family
    if kinds:
        return all(int(kind, 16) in wire.NFT_GETS for kind in kinds)
    text = _TEXT.search(rest)
    if text is None:
        return False
    data: bytes = ast.literal_eval(f'b"{text[1]}"')
    return wire.stream(data)[1]


def names() -> Iterator[str]:
    """The system calls to trace; `?` accepts a kernel or a strace without one of them."""
    return (f"?{name}" for name in MUTATING.split(","))
