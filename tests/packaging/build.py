"""Build the wheel and the source distribution so that one commit gives the same bytes, whoever builds it.

`python tests/packaging/build.py FOLDER [ADDRESS]` builds both into FOLDER out of the files that git knows,
twice, compares the bytes, and lets twine check them.  ADDRESS: the repository's, https://HOST/OWNER/NAME; the
page of the package then links to its files.  Without, that page has neither relative links nor pictures.
`make wheel` calls this.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# what a link or a picture of Markdown is, and where it leads
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^][]*)\]\((?P<target>[^)\s]+)\)")


def long_description(readme: str, address: str, revision: str) -> str:
    """The README as a page away from its repository: each relative link is absolute, or its text alone."""

    def replace(link: re.Match[str]) -> str:
        picture, text, target = link["picture"], link["text"], link["target"]
        if target.startswith(("https://", "http://")):
            return link[0]
        if not address:
            return "" if picture else text
        target = f"README.md{target}" if target.startswith("#") else target
        return f"{picture}[{text}]({address}/{'raw' if picture else 'blob'}/{revision}/{target})"

    return LINK.sub(replace, readme)


def copy_tree(to: Path, epoch: int) -> None:
    """Copy the files that git knows, of one time and the same permissions everywhere."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for name in filter(None, listed.decode().split("\0")):
        copy = to / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy, follow_symlinks=False)
        if not copy.is_symlink():
            copy.chmod(0o644)
            os.utime(copy, (epoch, epoch))


def pack_again(path: Path, epoch: int) -> None:
    """Put the files of a .tar.gz in order, without the times and owners of this build."""
    packed = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.pax_headers = epoch, {}
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as zipped:
        zipped.write(packed.getvalue())


def build(out: Path, address: str) -> dict[str, bytes]:
    """Build into `out`; the files' bytes by name."""
    epoch = int(subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=ROOT))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "turbomim")
        copy_tree(tree, epoch)
        settings = tree / "setup.cfg"
        version = re.findall(r'__version__ = "(.+)"', (tree / "src/turbomim/__init__.py").read_text())[0]
        readme = tree / "README.md"
        readme.write_text(long_description(readme.read_text(), address, f"v{version}"))
        if address:
            changes = f"{address}/blob/v{version}/CHANGELOG.md"
            links = f"project_urls =\n    Source = {address}\n    Changelog = {changes}"
            settings.write_text(settings.read_text().replace("\nlicense = ", f"\n{links}\nlicense = ", 1))
        command = [sys.executable, "-m", "build", "--outdir", str(out), str(tree)]
        own = os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
        # the umask is part of what a wheel holds
        done = subprocess.run(
            command, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, umask=0o022
        )
        assert done.returncode == 0, done.stdout
    for path in out.glob("*.tar.gz"):
        pack_again(path, epoch)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def main(out: Path, address: str) -> None:
    """Build twice, compare, check.  Raises AssertionError where two builds differ."""
    shutil.rmtree(out, ignore_errors=True)
    built = build(out, address)
    with tempfile.TemporaryDirectory() as other:
        # as somebody who lets nobody else read new files
        before = os.umask(0o077)
        again = build(Path(other), address)
        os.umask(before)
    assert built.keys() == again.keys() and len(built) == 2, f"{[*built]} and {[*again]}"
    differ = [name for name in built if built[name] != again[name]]
    assert not differ, f"two builds of one commit differ: {', '.join(differ)}"
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, out.iterdir())], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].rstrip("/") if len(sys.argv) > 2 else "")
