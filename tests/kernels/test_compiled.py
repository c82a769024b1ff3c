"""The kernels compile for GPUs that artists have, and fit into their shared memory, which is less than half
of an H100's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.pack import ROOT

# bytes that one program may have. By compute capability: CUDA C++ Programming Guide, technical
# specifications; a Radeon (RX 7900): RDNA 3 instruction set, local data share
SHARED_MEMORY = {"86": 99 * 1024, "gfx1100": 64 * 1024, "120": 99 * 1024}


@pytest.mark.slow
def test_kernels_fit_into_a_geforce_and_a_radeon(pytestconfig, tmp_path):
    """Triton's cache stays between sessions: it compiles again what changed, a kernel or Triton itself."""
    pytest.importorskip("triton")
    # a GeForce 50 has as much shared memory as a 30: it is compiled for by hand
    targets = list(SHARED_MEMORY)[: None if pytestconfig.getoption("--full") else 2]
    cache = getattr(pytestconfig, "cache", None)
    folder = tmp_path if cache is None else cache.mkdir("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compiled.py")), str(ROOT), *targets],
        env=environment | {"TRITON_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr[-3000:]
    needed = json.loads(done.stdout.splitlines()[-1])
    assert len(needed) == {2: 55, 3: 78}[len(targets)]
    too_large = {name: size for name, size in needed.items() if size > SHARED_MEMORY[name.split()[-1]]}
    assert not too_large
