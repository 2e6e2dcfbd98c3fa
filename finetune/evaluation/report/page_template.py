"""The template of an evaluation's page."""

from __future__ import annotations

__all__ = ["PAGE_TEMPLATE"]

PAGE_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {{ title }}</title>
<style>{{ style }}
  h1, h2, dd { overflow-wrap: anywhere; } td { white-space: nowrap; } table.wide td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
  .card { box-sizing: border-box; flex-basis: 7.5rem; }
  .charts { margin-top: 1.4rem; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
  .charts svg { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: .5rem; }
  .pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; }
  .pair, .hit { font-size: .75rem; color: var(--soft); overflow-wrap: anywhere; }
  .pair div { display: flex; gap: .2rem; } .pair img { width: 50%; object-fit: contain; }
  .ranking { display: flex; gap: .35rem; overflow-x: auto; padding-bottom: .4rem; }
  .hit { flex: 0 0 4.2rem; } .hit img { width: 100%; box-sizing: border-box; border: 3px solid var(--soft); display: block; }
  .hit.right img { border-color: var(--good); } .hit.wrong img { border-color: var(--bad); border-style: dashed; }
  .none { display: block; height: 3rem; border: 1px dashed var(--line); }
  h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dt { color: var(--soft); } dd { margin: 0; }
</style>
</head>
<body>
<h1>Evaluation of {{ title }}</h1>
<dl>{% for name, value in facts.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% macro picture(image) %}{% if image.data %}<img src="{{ image.data }}" alt="{{ image.name }}" title="{{ image.name }}">{% else %}<span class="none">unreadable</span>{% endif %}{% endmacro %}
{% for section in sections %}
<h2>{{ section.title }}</h2>
<p class="lead">{{ section.protocol }}</p>
<div class="cards">{% for value, name in section.cards %}<div class="card"><b>{{ value }}</b><span>{{ name }}</span></div>{% endfor %}</div>
{% if section.differences %}<h3>Against the other model</h3>
<div class="scroll"><table>
<tr><th>metric</th><th class="number">model</th><th class="number">other</th><th class="number">difference</th><th>95 % interval</th><th>verdict</th></tr>
{% for metric, value, other, difference, interval, verdict in section.differences %}<tr><td>{{ metric }}</td><td class="number">{{ value }}</td><td class="number">{{ other }}</td><td class="number">{{ difference }}</td><td>{{ interval }}</td><td class="{{ 'passed' if verdict == 'better' else 'failed' if verdict == 'worse' else '' }}">{{ verdict }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% if section.table[0] %}<p class="lead">Masks drawn: {{ section.masks }}</p>
<div class="scroll"><table><tr>{% for name in section.table[0] %}<th{% if not loop.first %} class="number"{% endif %}>{{ name }}</th>{% endfor %}</tr>
{% for row in section.table[1] %}<tr>{% for cell in row %}<td{% if not loop.first %} class="number"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
{% if section.charts %}<div class="charts">{% for caption, svg in section.charts %}<figure>{{ markup(svg) }}<figcaption>{{ caption }}</figcaption></figure>{% endfor %}</div>{% endif %}
{% for title, pairs in (("Same pairs that look least alike", section.same), ("Different pairs that look most alike", section.different), ("Pairs on which the two models differ most", section.contested)) if pairs %}
<h3>{{ title }}</h3>
{% if section.masks %}<p class="lead">By the {{ section.hard_by }} score, which stands below each pair; red is what is hidden.</p>{% endif %}
{% if pairs[0].other is not none %}<p class="lead">Below each pair its score by the model, then by the other; they differ in the FAR at which they would accept it.</p>{% endif %}
<div class="pairs">{% for pair in pairs %}<div class="pair"><div>{{ picture(pair.first) }}{{ picture(pair.second) }}</div>{{ '%.3f' | format(pair.score) }}{% if pair.other is not none %} / {{ '%.3f' | format(pair.other) }}{% endif %}</div>{% endfor %}</div>
{% endfor %}
{% if section.queries %}<h3>Rankings: the hardest queries, then some about the median</h3>
<p class="lead">The query, then the nearest images of its gallery; a match has a full green frame, another person a dashed red one.</p>
{% for query in section.queries %}<div class="ranking"><div class="hit">{{ picture(query.query) }}query</div>
{% for image in query.nearest %}<div class="hit {{ image.frame }}">{{ picture(image) }}{{ loop.index }}</div>{% endfor %}</div>
<figcaption>average precision {{ '%.3f' | format(query.precision) }}, first match at rank {{ query.first }}</figcaption>
{% endfor %}{% endif %}
{% endfor %}
<h2>All figures</h2>
<div class="scroll"><table class="wide">{% for name, value in rows %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table></div>
</body>
</html>
"""  # noqa: E501 - markup
