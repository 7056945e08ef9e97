"""Memory that is freed returns to the operating system."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAGMENTED = """
import threading
from pipelines.memory import give_back_freed

if {bounded}:
    give_back_freed()


def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))


kept = []
before = resident()


def work():
    # Like a stream's threads: large blocks that are freed, and small ones between them that stay.
    for _ in range(4):
        large = [bytearray(size * 100_000) for size in range(3, 23)]
        kept.append(bytearray(2_000))
        del large


bytearray(30_000_000)
for _ in range(2):
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(resident() - before)
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="where the C library is not glibc there is nothing to be set")
def test_give_back_freed__many_threads() -> None:
    def grown(bounded: bool) -> int:
        program = FRAGMENTED.format(bounded=bounded)
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    assert grown(True) * 3 < grown(False)
