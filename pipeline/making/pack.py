"""Photographs into shards: `make_shards` plans pure jobs, one a shard, runs them anywhere, and can be killed.

What is written depends on the photographs and on the settings, and on nothing else: no clock, no path outside
the source, no worker count, no executor, no kill.
"""

import json
import os
from collections import Counter
from concurrent.futures import Executor
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from turbomim.pipeline.decoding.header import ALTERED
from turbomim.pipeline.making.destination import Destination, difference
from turbomim.pipeline.making.journal import FolderDestination
from turbomim.pipeline.making.photographs import describe_others
from turbomim.pipeline.making.plan import (
    Plan,
    default_name,
    describe_making,
    find_source,
    plan_jobs,
    source_times,
)
from turbomim.pipeline.making.settings import ShardSettings, check_settings
from turbomim.pipeline.making.shard_job import (
    Progress,
    ShardJob,
    ShardResult,
    bad_image_error,
    job_bytes,
    pack_shard,
)
from turbomim.pipeline.making.store_destination import StoreDestination
from turbomim.pipeline.places.opening import is_remote, open_place
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import UserError, at_least_one
from turbomim.pipeline.system.executors import local_processes, run_jobs
from turbomim.pipeline.system.words import counted, sized
from turbomim.pipeline.tars.listings import BadImage, list_split, read_bad
from turbomim.pipeline.tars.manifest import (
    BAD,
    Manifest,
    Shard,
    check_shards,
    fingerprint_of,
    index_name,
    load_manifest,
)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PackReport:
    """What `make_shards` wrote and what it left out; printed, it is `describe_make`.

    bad: images that were refused.  kept: shards that an earlier run of the same command had finished.
    found_whole: nothing was left to do, not even to move them into place.  notes: how the source was read.
    """

    place: Place
    manifest: Manifest
    bad: tuple[BadImage, ...]
    kept: int
    notes: tuple[str, ...]
    found_whole: bool = False

    def __repr__(self) -> str:
        return describe_make(self)

    @property
    def other_files(self) -> dict[str, int]:
        """Number of files that are no images, by extension."""
        files: dict[str, int] = self.manifest.made["other_files"]
        return files

    @property
    def empty_classes(self) -> list[str]:
        """Classes without a sample."""
        counts = self.manifest.made["class_samples"]
        return [name for name, count in zip(self.manifest.classes, counts, strict=True) if not count]


def describe_make(report: PackReport, seconds: float | None = None) -> str:
    """What was written and what was left out, in lines; seconds: that it took, if somebody counted."""
    manifest = report.manifest
    classes = counted(len(manifest.classes), "class", "classes") if manifest.classes else "no classes"
    what = (
        f"{counted(manifest.samples, 'image')} of {classes} in "
        f"{counted(len(manifest.shards), 'shard')}, {sized(manifest.bytes)}, in {report.place}"
    )
    if report.found_whole:
        lines = [f"already whole, nothing to do: {what}"]
    elif report.kept:
        lines = [f"{what} ({counted(report.kept, 'shard')} kept from an earlier run)"]
    else:
        lines = [what if seconds is None else f"{what} ({manifest.samples / seconds:,.0f} img/s)"]
    lines += report.notes
    if report.bad:
        reasons = f"first: {report.bad[0].path!r}, {report.bad[0].reason}"
        left_out = counted(len(report.bad), "image")
        lines.append(f"left out: {left_out}, named in {report.place.at(BAD)}; {reasons}")
    if few := manifest.made.get("few_levels"):
        path, levels = few["first"]
        lines.append(
            f"{counted(few['images'], 'image')} of 16 bits with hardly any contrast in 8 (first: {path!r}, "
            f"{levels}): scale their values to all 16 bits before, or they train as nearly one colour"
        )
    lines += [
        f"{counted(some['images'], 'image')} {ALTERED.get(what, what)} (first: {some['first']!r})"
        for what, some in manifest.made.get("altered", {}).items()
    ]
    if report.other_files:
        lines.append(f"not images by their names: {describe_others(report.other_files, most=20)}")
    if report.empty_classes:
        more = f" and {len(report.empty_classes) - 10:,} others" if len(report.empty_classes) > 10 else ""
        lines.append(f"classes without an image: {', '.join(map(repr, report.empty_classes[:10]))}{more}")
    return "\n".join(lines)


def make_shards(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    settings: ShardSettings | None = None,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    progress: Progress = lambda *_: None,
    lock: bool = True,
) -> PackReport:
    """Pack the images of `source`, a folder or a .csv, .tsv or .txt list, into one split in `folder`.

    Both may be places in a store of objects, by their URLs.  workers: processes; 1 works in this one.
    executor: where jobs run instead; its workers must see `source` and `folder` under the same absolute
    paths, and have the keys of stores in their environment.  lock: keep a second process out of `folder`;
    not every file system can, and a store always does.

    `folder` is new, empty, or what an unfinished run of the same call left: that is resumed, and a finished
    one is left as it is.  Raises UserError for everything that a user, a file or the disk can cause.
    """
    source = os.fspath(source)
    at_least_one("--workers", workers)
    settings = settings or ShardSettings()
    check_settings(settings)
    destination = open_destination(folder)
    name = default_name(source) if settings.name is None else settings.name
    found = find_source(source, settings.root, settings.columns, settings.skip)
    destination.check(source)
    if found.refused and settings.on_bad == "fail":
        raise bad_image_error(found.refused[0])
    made = describe_making(source, settings, found)
    plan = Plan(name=name, settings=settings, found=found, made=made)
    if destination.is_finished():
        return _finished(destination, plan)
    with destination.held(lock=lock):
        # an earlier run was killed while it cleaned up
        if destination.is_finished(held=True):
            return _finished(destination, plan)
        jobs = plan_jobs(plan, destination.where, destination.mark)
        destination.agree_on_plan({**plan.identity(), "source_times_sha256": source_times(plan.found)})
        results = destination.results()
        kept = sum(result.shard is not None for result in results.values())
        destination.check_space(sum(job_bytes(job) for job in jobs if job.number not in results))
        # a store may be down, and what it does not have whole it does not have
        patient = destination.place.folder is not None
        own = local_processes(min(workers, len(jobs)), patient=patient)
        with own if executor is None else nullcontext(executor) as place:
            _run(destination, jobs, results, place, progress)
        return _finish(destination, plan, [results[job.number] for job in jobs], kept)


def open_destination(where: str | os.PathLike[str]) -> Destination:
    """Open where shards are made.  Raises UserError for a place that can only be read."""
    return StoreDestination(open_place(where)) if is_remote(where) else FolderDestination(Path(where))


def _run(
    destination: Destination,
    jobs: list[ShardJob],
    results: dict[int, ShardResult],
    executor: Executor | None,
    progress: Progress,
) -> None:
    """Run the jobs without a result, and add theirs.  Raises UserError, with what is kept."""
    left = [job for job in jobs if job.number not in results]
    total = sum(len(job.images) for job in jobs)
    done = total - sum(len(job.images) for job in left)
    bad = next((image for result in results.values() for image in result.bad), None)
    if bad is not None and jobs[0].on_bad == "fail":
        raise bad_image_error(bad)
    try:
        progress(done, total)
        with destination.recording(results), closing(run_jobs(pack_shard, left, executor)) as ended:
            for result in ended:
                destination.record(result)
                results[result.number] = result
                done += len(jobs[result.number].images)
                progress(done, total)
    except UserError as error:
        kept = sum(result.shard is not None for result in results.values())
        if not kept:
            raise
        raise UserError(f"{error} (shards kept: {kept:,}; the same command resumes)") from error


def _finish(destination: Destination, plan: Plan, results: list[ShardResult], kept: int) -> PackReport:
    """Write the listings, and move everything into place."""
    found = plan.found
    bad = sorted(
        (*found.refused, *(image for result in results for image in result.bad)),
        key=lambda image: (image.path, image.reason),
    )
    names, shards = _close_gaps(plan, results)
    if not shards:
        first = f"the first is {bad[0].path!r}: {bad[0].reason}"
        raise UserError(f"all {len(bad):,} images in {plan.made['source']!r} are unusable; {first}")
    by_label = Counter[int]()
    for result in results:
        by_label.update(result.samples_by_label)
    made: dict[str, Any] = {
        **plan.made,
        "images_found": len(found.images) + len(found.refused),
        "images_bad": len(bad),
        "other_files": found.other_files,
        "class_samples": [by_label[label] for label in range(len(found.classes))],
    }
    few_levels = sorted((image.path, image.reason) for result in results for image in result.few_levels)
    if few_levels:
        made["few_levels"] = {"images": len(few_levels), "first": list(few_levels[0])}
    if altered := _altered(results):
        made["altered"] = altered
    manifest = Manifest(
        name=plan.name,
        split=plan.settings.split,
        shards=shards,
        classes=found.classes,
        fingerprint=fingerprint_of(shards),
        made=made,
    )
    sums = {names[index_name(r.shard.name)]: r.index_sha256 for r in results if r.shard}
    destination.publish(names, list_split(manifest, tuple(bad), sums))
    return PackReport(
        place=destination.place, manifest=manifest, bad=tuple(bad), kept=kept, notes=found.notes
    )


def _altered(results: list[ShardResult]) -> dict[str, Any]:
    """How many images training sees otherwise than their files have them, by what of `ALTERED`."""
    found = {what: [r.altered[what] for r in results if what in r.altered] for what in ALTERED}
    return {
        what: {"images": sum(count for count, _ in some), "first": min(first for _, first in some)}
        for what, some in found.items()
        if some
    }


def _close_gaps(plan: Plan, results: list[ShardResult]) -> tuple[dict[str, str], tuple[Shard, ...]]:
    """Renumber the shards where a job wrote none: the final name of each file, and the shards so named."""
    names: dict[str, str] = {}
    shards: list[Shard] = []
    for result in results:
        if result.shard is not None:
            name = f"{plan.shard_stem(len(shards))}.tar"
            names |= {result.shard.name: name, index_name(result.shard.name): index_name(name)}
            shards.append(replace(result.shard, name=name))
    return names, tuple(shards)


def _finished(destination: Destination, plan: Plan) -> PackReport:
    """Report a split that is whole.  Raises UserError: other settings or images made it, unwanted gaps."""
    place = destination.place
    manifest = load_manifest(place)
    # a new version, or new libraries, do not make a finished split another one
    wanted = {key: value for key, value in plan.identity().items() if key not in ("by", "encoders")}
    made = {"name": manifest.name, "split": manifest.split, **manifest.made}
    other = difference(made, json.loads(json.dumps(wanted)))
    if other:
        raise UserError(f"{str(place)!r} holds finished shards with {other}: choose another folder")
    check_shards(place, manifest)
    bad = read_bad(place)
    if bad and plan.settings.on_bad == "fail":
        raise bad_image_error(bad[0])
    return PackReport(
        place=place,
        manifest=manifest,
        bad=bad,
        kept=len(manifest.shards),
        notes=plan.found.notes,
        found_whole=True,
    )
