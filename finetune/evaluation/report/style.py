"""The style of every page that rtool writes: one self-contained file, light and dark, from 390 pixels up."""

from __future__ import annotations

__all__ = ["PAGE_STYLE"]

PAGE_STYLE = """
  :root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --page: #ffffff; --good: #1a7f37; --bad: #cf222e; --band: #f6f8fa; }
  @media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --page: #0d1117; --good: #3fb950; --bad: #f85149; --band: #151b23; } }
  body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
  h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
  p.lead { color: var(--soft); margin-top: 0; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); } th { color: var(--soft); font-weight: 600; }
  td.number, th.number { text-align: right; } .scroll { overflow-x: auto; }
  .cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; } .card { background: var(--band); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem 1.1rem; flex: 1 1 9rem; }
  .card b { display: block; font-size: 1.5rem; } .card span { color: var(--soft); font-size: .85rem; }
  .passed { color: var(--good); font-weight: 600; } .failed { color: var(--bad); font-weight: 600; }
  img { max-width: 100%; border-radius: .3rem; } figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; margin: .3rem 0 1rem; }
  pre { background: var(--band); padding: .8rem; overflow-x: auto; border-radius: .4rem; }
"""  # noqa: E501 - one rule a line
