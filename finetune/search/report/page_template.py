"""The template of a search's page."""

from __future__ import annotations

__all__ = ["PAGE_TEMPLATE"]

PAGE_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Search {{ title }}</title>
<style>{{ style }}
  h1, dd { overflow-wrap: anywhere; } td, th { white-space: nowrap; } td.long { white-space: normal; min-width: 12rem; }
  .card { box-sizing: border-box; flex-basis: 7.5rem; }
  .verdict { border-left: .3rem solid var(--line); padding: .2rem .9rem; } .verdict.yes { border-color: var(--good); } .verdict.no { border-color: var(--bad); }
  .charts { margin-top: 1.2rem; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
  .charts svg { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: .5rem; }
  .cells svg { border: 1px solid var(--line); border-radius: .5rem; }
  .cells .scroll { margin-bottom: .6rem; } .cells figcaption { margin-bottom: 1.2rem; }
  tr.found td { font-weight: 600; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dt { color: var(--soft); } dd { margin: 0; }
</style>
</head>
<body>
<h1>Search {{ title }}</h1>
<p class="lead">{{ lead }}</p>
<p class="verdict {{ verdict.kind }}">{{ verdict.text }}</p>
<div class="cards">{% for value, name in cards %}<div class="card"><b>{{ value }}</b><span>{{ name }}</span></div>{% endfor %}</div>
{% if pictures %}<h2>The found cell</h2>
<p class="lead">k-1 and k-2 are the outputs of the two cells before; all nodes are joined to the output.</p>
<div class="cells">{% for svg in pictures %}<div class="scroll">{{ markup(svg) }}</div>{% endfor %}</div>{% endif %}
{% if charts %}<h2>Over the epochs</h2>
<div class="charts">{% for caption, svg in charts %}<figure>{{ markup(svg) }}<figcaption>{{ caption }}</figcaption></figure>{% endfor %}</div>{% endif %}
{% if tables %}<h2>Weights of the operations, last epoch</h2>
<p class="lead">One row per edge, from its input to its node; the largest of each row is bold.</p>
<div class="cells">{% for caption, svg in tables %}<figure><div class="scroll">{{ markup(svg) }}</div><figcaption>{{ caption }}</figcaption></figure>{% endfor %}</div>{% endif %}
{% if shortlist %}<h2>Cells that were trained briefly</h2>
<p class="lead">{{ shortlist_lead }}</p>
<div class="scroll"><table>
<tr><th>cell</th>{% for name in rounds %}<th class="number">{{ name }}</th>{% endfor %}<th class="number">skips</th><th>normal cell</th></tr>
{% for row in shortlist %}<tr{% if row.found %} class="found"{% endif %}><td>{{ row.origin }}{% if row.found %}, found{% endif %}</td>{% for value in row.metrics %}<td class="number">{{ value }}</td>{% endfor %}<td class="number">{{ row.skips }}</td><td>{{ row.cell }}</td></tr>
{% endfor %}</table></div>{% endif %}
<h2>Trained in full</h2>
{% if compared %}{% if percentile %}<p>The found cell is at {{ percentile }}.</p>{% endif %}
<p class="lead">Mean and standard deviation over the training seeds.</p>
<div class="scroll"><table>
<tr><th>network</th><th></th><th class="number">parameters</th><th class="number">MACs</th><th class="number">ms</th><th class="number">seeds</th>{% for name in metrics %}<th class="number">{{ name }}</th>{% endfor %}</tr>
{% for row in compared %}<tr{% if row.found %} class="found"{% endif %}><td>{{ row.name }}</td><td>{{ row.role }}</td><td class="number">{{ row.parameters }}</td><td class="number">{{ row.macs }}</td><td class="number">{{ row.ms }}</td><td class="number">{{ row.seeds }}</td>{% for value in row.metrics %}<td class="number">{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% else %}<p>Not yet: what a supernet or a brief training reaches is not what a cell is worth. Train the found cell from scratch, with several seeds, beside random cells and baselines, then put them side by side here.</p>
<pre>{{ commands }}</pre>{% endif %}
<h2>Environment</h2>
<dl>{% for key, value in environment.items() %}<dt>{{ key }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<h2>Configuration</h2>
<pre>{{ config }}</pre>
</body>
</html>
"""  # noqa: E501 - markup
