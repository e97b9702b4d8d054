"""A FUSE file system with one file whose reads are never answered, mounted in another process'
mount namespace. Speaks the kernel's protocol (include/uapi/linux/fuse.h, version 7) by itself.

    python3 hanging_fuse.py PID PATH      prints `mounted`, then `read` when somebody reads
"""

import ctypes
import os
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS = 0x00020000
# Operations of the protocol.
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, OPENDIR = 1, 2, 3, 14, 15, 18, 25, 26, 27
INTERRUPT = 36
HEAD_IN, HEAD_OUT = "<IIQQIIIHH", "<IiQ"
DIRECTORY, FILE = 0o040755, 0o100644


def attributes(node: int) -> bytes:
    """What `stat` tells of a node: 1 is the top, 2 the file."""
    mode = DIRECTORY if node == 1 else FILE
    return struct.pack("<QQQQQQIIIIIIIIII", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0,
                       4096, 0)


def mount(pid: int, path: str) -> int:
    """Mounts in the namespace of a process; gives the descriptor of the protocol."""
    device = os.open("/dev/fuse", os.O_RDWR)
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY)
    if LIBC.setns(namespace, CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.fchdir(root)
    os.chroot(".")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if LIBC.mount(b"hang", path.encode(), b"fuse", 6, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    return device


def main() -> None:
    device = mount(int(sys.argv[1]), sys.argv[2])
    print("mounted", flush=True)
    while True:
        request = os.read(device, 1 << 20)
        _, operation, unique, node = struct.unpack_from(HEAD_IN, request)[:4]
        answer, error = b"", 0
        if operation == INIT:
            answer = struct.pack("<IIIIHHIIHH", 7, 31, 0, 0, 12, 12, 65536, 1, 1, 0) + bytes(28)
        elif operation in (FORGET, INTERRUPT):
            continue
        elif operation == LOOKUP:
            answer = struct.pack("<QQQQII", 2, 1, 60, 60, 0, 0) + attributes(2)
        elif operation == GETATTR:
            answer = struct.pack("<QII", 60, 0, 0) + attributes(node)
        elif operation in (OPEN, OPENDIR):
            # FOPEN_DIRECT_IO: the reader waits for us, not for the page cache.
            answer = struct.pack("<QII", 0, 1, 0)
        elif operation == READ:
            print("read", flush=True)
            continue
        elif operation not in (RELEASE, FLUSH):
            error = -38
        head = struct.pack(HEAD_OUT, 16 + len(answer), error, unique)
        os.write(device, head + answer)


if __name__ == "__main__":
    main()
