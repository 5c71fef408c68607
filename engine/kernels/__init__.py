"""The hot loops in compiled code: each has a plain torch path beside it and a test that they agree.

What was compiled is kept in NUMBA_CACHE_DIR, else beside these files, else in the user's cache; where none of them can
be written, in the folder for temporary files.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numba
from numba.core.cpu import CPUTargetOptions

_PRIVATE = {"_nrt": False} if hasattr(CPUTargetOptions, "_nrt") else {}

UNCOUNTED: dict[str, Any] = {"nogil": True, "cache": True, **_PRIVATE}
"""How what kernels call is compiled: no references to arrays are counted in it, and so it can neither make nor return
one. numba else counts one for every column of a tuple, at every call, each a locked access: half the time of some. What
it calls in turn must be inlined or uncounted too, since numba hands this down to what it compiles on the way. The
option is numba's own and not documented; without it, kernels are right and slower.
"""

_FOLDER = Path(__file__).parent
_BESIDE = _FOLDER / "__pycache__"


def fingerprint(folder: Path) -> str:
    """Of all sources of a folder: what is compiled holds parts of several, but numba looks at one when it reuses it."""
    sources = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        sources.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return sources.hexdigest()[:16]


def _kept_in(told: str) -> Path:
    """Where what is compiled from these very sources is kept."""
    home = Path("~").expanduser()
    choices = {Path(told): Path(told)} if told else {_FOLDER: _BESIDE, home: home / ".cache" / "hopstream"}
    writable = (folder for asked, folder in choices.items() if os.access(asked, os.W_OK))
    temporary = Path(tempfile.gettempdir()) / f"hopstream-compiled-{os.getuid()}"
    return next(writable, temporary) / f"compiled-{fingerprint(_FOLDER)}"


config: Any = numba.config
config.CACHE_DIR = str(_kept_in(config.CACHE_DIR))

for _old in _BESIDE.glob("compiled-*"):
    if str(_old) != config.CACHE_DIR:
        shutil.rmtree(_old, ignore_errors=True)
