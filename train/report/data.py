"""What a report shows of the data: its splits, and samples that were bad."""

import os
from collections.abc import Sequence
from pathlib import Path

from turbomim.pipeline.decoding.header import ALTERED
from turbomim.pipeline.places.opening import is_remote
from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.pipeline.tars.manifest import BAD, Manifest
from turbomim.pipeline.tars.store import Store
from turbomim.train.report.files import json_lines
from turbomim.train.report.page import Html, html_table, short_path, tag
from turbomim.train.report.results import value_text
from turbomim.train.report.run import RunFacts
from turbomim.train.report.summary import NOT_SAID, all_names, heading_of, table_rows

# bad samples that are named
MOST_NAMED = 20
# letters of a fingerprint that tell data sets apart
FINGERPRINT = 16


def data_part(runs: Sequence[RunFacts]) -> list[Html]:
    """The splits that runs read, a column each; the same one is shown once."""
    columns: dict[str, tuple[str, dict[str, str]]] = {}
    notes = []
    for run in runs:
        for name, (path, manifest) in run.splits.items():
            head = heading_of(run, name, runs)
            # not resolved: a path out of a damaged file may be one that the system refuses
            where = os.path.abspath(path)
            if where not in columns:
                columns[where] = (head, _split_facts(path, manifest, run.problems))
            if name == "training" and manifest and run.trained_on not in ("", manifest.fingerprint):
                then = f"the fingerprint was {run.trained_on[:FINGERPRINT]} then"
                notes.append(f"{short_path(path)} is not the data that {run.label} was trained on: {then}")
    if not columns:
        return []
    facts = [facts for _, facts in columns.values()]
    rows = table_rows(all_names(facts), facts)
    warnings = [tag("ul", *(tag("li", note) for note in notes), class_="problems")] if notes else []
    return [*warnings, html_table(["data", *(head for head, _ in columns.values())], rows)]


def bad_part(runs: Sequence[RunFacts]) -> list[Html]:
    """Photographs that were left out of the splits, and samples that the runs replaced."""
    parts = []
    for path in dict.fromkeys(path for run in runs for path, _ in run.splits.values()):
        if is_remote(path):
            continue
        rows = [
            [value_text(t.get("path")), value_text(t.get("reason"))]
            for t in json_lines(Path(path) / BAD, runs[0].problems)
        ]
        if rows:
            text = f"Left out of {short_path(path)} when it was made: {len(rows):,}{_first(rows)}"
            parts.append(html_table(["photograph", "reason"], rows[:MOST_NAMED], caption=text))
    for run in runs:
        count = run.records[-1].get("replaced_total", 0) if run.records else 0
        if count or run.replaced:
            text = f"{run.label}: {count:,.0f} samples replaced while training; of these named in train.log: "
            text += f"{len(run.replaced):,}{_first(run.replaced)}"
            parts.append(
                html_table(["sample", "reason", "replaced by"], run.replaced[:MOST_NAMED], caption=text)
            )
    return parts


def _split_facts(path: str, manifest: Manifest | None, problems: list[str]) -> dict[str, str]:
    if manifest is None:
        return {"folder": f"{short_path(path)} (not read, see the problems above)"}
    try:
        store = ", ".join(value_text(value) for value in Store.of(manifest.made).to_json().values())
    except (UserError, TypeError) as error:
        problems.append(f"{path}: {one_line(error, 300)}")
        store = NOT_SAID
    made = manifest.made.get("class_samples")
    counts = [n for n in made if isinstance(n, int)] if isinstance(made, list) else []
    spread = f", {min(counts):,} to {max(counts):,} samples each" if counts else ""
    unnamed = "not named" if manifest.labelled else "none"
    return {
        "folder": short_path(path),
        "name": f"{manifest.name}-{manifest.split}",
        "samples": f"{manifest.samples:,}",
        "classes": f"{len(manifest.classes):,}{spread}" if manifest.classes else unnamed,
        "shards": f"{len(manifest.shards):,}" + (", indexed as they were" if manifest.foreign else ""),
        "bytes": f"{manifest.bytes:,}",
        "store": store,
        "fingerprint": manifest.fingerprint[:FINGERPRINT],
        "made by": value_text(manifest.made.get("by")),
        **_altered(manifest.made.get("altered")),
    }


def _altered(counts: object) -> dict[str, str]:
    """What training sees otherwise than files had it, as `shard make` counted; nothing if it did not."""
    if not isinstance(counts, dict) or not counts:
        return {}
    lines = [
        f"{value_text(some.get('images'))} {words}"
        for what, words in ALTERED.items()
        if isinstance(some := counts.get(what), dict)
    ]
    return {"images seen otherwise": "; ".join(lines)}


def _first(rows: Sequence[object]) -> str:
    return f", the first {MOST_NAMED}:" if len(rows) > MOST_NAMED else ""
