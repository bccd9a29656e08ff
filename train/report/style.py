"""How a report looks: on a phone, on a desktop, in the dark and in print."""

# of lines in charts, one a run
COLOURS = 6

STYLE = """
:root {
  --paper: #fff; --ink: #1c1c1c; --soft: #595959; --rule: #d8d8d8; --wash: #f5f5f4; --warn: #9a3b00;
  --c0: #1f5fa8; --c1: #c2570c; --c2: #2c7a3f; --c3: #8a3ab9; --c4: #b3203a; --c5: #0b7a75;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    color-scheme: dark;
    --paper: #16181b; --ink: #e9e9e7; --soft: #a9adb3; --rule: #3a3f45; --wash: #1f2226; --warn: #ffab70;
    --c0: #7cb4f2; --c1: #ff9d57; --c2: #74cc8a; --c3: #c99bf0; --c4: #ff8a99; --c5: #5fd3cb;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem;
  background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
}
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; padding-top: .5rem; border-top: 2px solid var(--rule); font-size: 1.25rem; }
h3 { margin: 1.2rem 0 .4rem; font-size: 1.05rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--c0); }
nav a { display: inline-block; margin-right: .9rem; padding: .2rem 0; }
summary { padding: .3rem 0; cursor: pointer; }
.soft, figcaption, caption { color: var(--soft); font-size: .88rem; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .3rem; text-align: left; overflow-wrap: anywhere; }
th, td {
  padding: .28rem .9rem .28rem 0; max-width: 26rem; border-bottom: 1px solid var(--rule);
  text-align: left; vertical-align: top; overflow-wrap: break-word;
}
th { font-weight: 600; }
tbody th { font-weight: 400; color: var(--soft); }
td:not(.number) { min-width: 6.5rem; }
.number { text-align: right; }
.changed { font-weight: 600; }
.problems li { color: var(--warn); overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.charts, .pictures { gap: 1rem 2rem; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--soft); }
.axis { stroke: var(--soft); fill: none; }
.grid { stroke: var(--rule); fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.faint { stroke-width: 1; opacity: .4; }
.dashed { stroke-dasharray: 6 4; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: 0; padding: 0; list-style: none; }
.legend svg { display: inline-block; width: 1.8rem; margin-right: .4rem; vertical-align: middle; }
.legend li { overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.pictures figure.last { grid-column: 1 / -1; }
img { display: block; max-width: 100%; height: auto; background: #fff; }
@media (max-width: 40rem) { .wide img { width: 36rem; max-width: none; } }
pre {
  padding: .7rem; background: var(--wash); font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere;
}
@media print {
  body { padding: 0; max-width: none; font-size: 10pt; }
  nav, details:not([open]) { display: none; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  th, td, td:not(.number) { min-width: 0; font-size: 8.5pt; overflow-wrap: anywhere; }
  .charts, .pictures { grid-template-columns: 1fr 1fr; }
  .wide img { width: auto; max-width: 100%; }
}
""" + "".join(
    f".c{n} {{ stroke: var(--c{n}); }} circle.c{n} {{ fill: var(--c{n}); }}\n" for n in range(COLOURS)
)
