"""Have the C library keep freed memory, so that a step on a CPU does not fetch it page by page again.

A step allocates and frees the same few megabytes over and over. By default glibc gives pieces back
to the kernel when they are freed, and each page costs a fault, and zeros written, when it is touched
the next time: a quarter of the step of a small model (LOG.md). No number changes by it.
"""

import ctypes
import sys
from functools import cache

# Parameters of mallopt(3), malloc.h; bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}


@cache
def keep_freed_memory() -> bool:
    """Keep freed pieces of up to 1 GiB in this process; says whether the C library takes it.

    Other C libraries (musl, macOS) and allocators put in the place of glibc's (LD_PRELOAD) are left
    as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    return all([libc.mallopt(name, n_bytes) == 1 for name, n_bytes in _KEPT.items()])
