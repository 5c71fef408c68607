"""The hot loops in compiled code: each has a plain torch path beside it and a test that they agree.

What was compiled is kept in NUMBA_CACHE_DIR, else beside these files, else in the user's cache; where none of them can
be written, in the folder for temporary files.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numba

config: Any = numba.config

_kept_in = [config.CACHE_DIR] if config.CACHE_DIR else [Path(__file__).parent, Path("~").expanduser()]
if not any(os.access(folder, os.W_OK) for folder in _kept_in):
    config.CACHE_DIR = str(Path(tempfile.gettempdir()) / f"hopstream-compiled-{os.getuid()}")
