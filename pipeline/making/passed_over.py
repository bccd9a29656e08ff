"""Files and folders beside photographs that are none, whatever they hold: one rule for all folders.

Systems leave them there: thumbnails of a NAS, copies of an editor, halves of a Mac's files.  Taken as images
they double a data set, or are a class.  Each is counted.
"""

import fnmatch
import re
from collections import Counter
from typing import Final

from turbomim.pipeline.system.words import counted

# names, in any case; the first one that fits counts
USUAL: Final = (
    ".DS_Store", "._*", ".ipynb_checkpoints", ".*", "@eaDir", "#recycle", "@Recycle", "@Recently-Snapshot",
    "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "ehthumbs.db",
    "desktop.ini",
)  # fmt: skip


class PassedOver:
    """The rule, and what it has passed over: files and folders by the pattern that their names fit.

    more: patterns that are added to the usual ones, with commas between them.
    """

    def __init__(self, more: str | None = None) -> None:
        added = [pattern for part in (more or "").split(",") if (pattern := part.strip())]
        self._patterns = (*USUAL, *added)
        groups = (f"(?P<p{at}>{fnmatch.translate(pattern)})" for at, pattern in enumerate(self._patterns))
        self._names = re.compile("|".join(groups), re.IGNORECASE)
        # by pattern
        self._files, self._folders, self._inside = Counter[str](), Counter[str](), Counter[str]()

    def fits(self, name: str) -> bool:
        """Whether a file or folder of this name is passed over."""
        return self._names.match(name) is not None

    def count(self, name: str, *, inside: int | None = None) -> None:
        """Take note of a file that fits, or of a folder and the number of files below it."""
        match = self._names.match(name)
        assert match is not None and match.lastgroup is not None
        pattern = self._patterns[int(match.lastgroup[1:])]
        if inside is not None:
            self._folders[pattern] += 1
            self._inside[pattern] += inside
        else:
            self._files[pattern] += 1

    def summary(self) -> str:
        """`passed over: 12 files in 3 @eaDir folders, 1 Thumbs.db file`; "" for nothing."""
        shown = []
        for pattern in self._patterns:
            name = "hidden" if pattern == ".*" else repr(pattern)[1:-1]
            if self._folders[pattern]:
                where = counted(self._folders[pattern], f"{name} folder")
                shown.append(f"{counted(self._inside[pattern], 'file')} in {where}")
            if self._files[pattern]:
                shown.append(counted(self._files[pattern], f"{name} file"))
        return f"passed over: {', '.join(shown)}" if shown else ""
