"""What the ops' compiled forms depend on, and torch cannot see."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

# Every op takes this as an argument.  torch.compile keeps compiled graphs on disk under a key of the op's
# name and arguments, not of its body: after an upgrade it would run the old body.
SOURCE: Final = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:16]
