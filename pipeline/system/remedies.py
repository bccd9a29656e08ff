"""What helps where the system refuses: one table of its error numbers, for every message."""

import errno
import os
import re
import resource

from turbomim.pipeline.system.errors import one_line

# a disk, a quota or a limit on file sizes that is full
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
# not of the file, but of this process or machine: another file would be refused too
OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# file systems that cannot do what was asked for
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

REMEDIES = {
    errno.EMFILE: "a process may have no more than {limit} open here: raise that with `ulimit -n 65536`",
    errno.ENFILE: "no program here can open another: end some, or raise fs.file-max (`ulimit -n` is not it)",
    errno.ENOMEM: "end other programs, or give this one more memory",
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "free some space, or ask for a larger quota (`quota -s`)",
    errno.EFBIG: "free some space (or raise the file size limit, `ulimit -f`), or choose another disk",
    errno.EROFS: "it can only be read: choose another folder, or mount it for writing",
    errno.EBUSY: "another program has it open: end that one and try again, or choose another name",
    errno.ETXTBSY: "another program has it open: end that one and try again, or choose another name",
    errno.EIO: "the disk, or the way to it, fails: `dmesg` says more",
    errno.ESTALE: "the server of that file system has lost it: try again, or mount it again",
    errno.ETIMEDOUT: "the server of that file system does not answer: try again when it does",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class PlaceError(OSError):
    """What a store of objects refused, in words without secrets.  helps: the remedy; passing: try again."""

    def __init__(self, said: str, helps: str = "", *, passing: bool = False) -> None:
        super().__init__(said)
        self.helps, self.passing = helps, passing


class NoSuchObject(PlaceError, FileNotFoundError):
    """A store of objects has no such file, or no such bucket."""


class Changed(PlaceError):
    """A file is not of the version that was asked for."""


class Exists(PlaceError):
    """A file was not written, because there is one, or because it has another version."""


def number_of(error: Exception) -> int | None:
    """The system's number of an error: an OSError's own, or another library's as Rust prints it."""
    printed = re.search(r"\(os error (\d+)\)", str(error))
    return error.errno if isinstance(error, OSError) else int(printed[1]) if printed else None


def reason(error: Exception) -> str:
    """Why the system refused, in its own words."""
    number = number_of(error)
    return os.strerror(number) if number else one_line(error)


def remedy(error: Exception, usual: str) -> str:
    """What helps against an error of the system; `usual` where its number does not say."""
    if isinstance(error, PlaceError) and error.helps:
        return error.helps
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return REMEDIES.get(number_of(error) or 0, usual).format(limit=f"{limit:,} files")


def explain(error: Exception, usual: str) -> str:
    """Why the system refused, and what helps."""
    return f"{reason(error)}; {remedy(error, usual)}"
