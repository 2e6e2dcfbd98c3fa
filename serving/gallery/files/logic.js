// The gallery's logic, without a document: cut the tree, apply edits, number people. Mirrors people/*.py.
"use strict";

// Merges never rise in similarity, so those at or above the threshold are a prefix of the list.
function cutTree(count, merges, threshold) {
  const parent = Int32Array.from({ length: count }, (_, i) => i);
  const find = (i) => {
    while (parent[i] !== i) i = parent[i] = parent[parent[i]];
    return i;
  };
  for (const [first, second, similarity] of merges) {
    if (similarity < threshold) break;
    const a = find(first), b = find(second);
    parent[Math.max(a, b)] = Math.min(a, b);
  }
  return Array.from({ length: count }, (_, i) => find(i));
}

function lowest(groups, keys) {
  for (const key of keys) {
    let low = -1;
    for (let i = 0; i < groups.length; i++) {
      if (groups[i] !== key) continue;
      if (low < 0) low = i;
      groups[i] = low;
    }
  }
}

// Splits first, then merges, then drops: the rule of people/edits.py. Tracks are numbers here.
function applyEdits(base, edits) {
  const groups = base.slice(), count = groups.length;
  for (const { tracks, rest } of edits.split) {
    const held = new Set(rest.map((t) => groups[t]));
    const leaving = tracks.filter((t) => held.has(groups[t]));
    if (!leaving.length) continue;
    const touched = new Set(leaving.map((t) => groups[t]));
    const fresh = count + Math.min(...leaving);
    for (const t of leaving) groups[t] = fresh;
    lowest(groups, [...touched, fresh]);
  }
  for (const merge of edits.merge) {
    const joined = new Set(merge.map((t) => groups[t]));
    const low = groups.findIndex((group) => joined.has(group));
    for (let i = 0; i < count; i++) if (joined.has(groups[i])) groups[i] = low;
  }
  for (const track of edits.drop) groups[track] = -1;
  return groups;
}

// People by number of crops, then by their first track; each with its tracks, ascending.
function numberPeople(groups, tracks) {
  const members = new Map();
  groups.forEach((group, track) => {
    if (group < 0) return;
    if (!members.has(group)) members.set(group, []);
    members.get(group).push(track);
  });
  const people = [...members.values()].map((own) => ({
    tracks: own,
    crops: own.reduce((sum, t) => sum + tracks[t].crops, 0),
  }));
  people.sort((a, b) => b.crops - a.crops || a.tracks[0] - b.tracks[0]);
  people.forEach((person, id) => { person.id = id; });
  return people;
}

// A name goes to the person that has most of the tracks which had it when it was given.
function nameOf(person, names) {
  const own = new Set(person.tracks);
  let best = "", most = 0;
  for (const { tracks, name } of names) {
    const shared = tracks.filter((t) => own.has(t)).length;
    if (shared > most && 2 * shared > tracks.length) [best, most] = [name, shared];
  }
  return best;
}

const without = (list, gone) => list.filter((item) => !gone.has(item));

// New edits after `tracks` were joined into one person.
function withMerge(edits, tracks) {
  const joined = new Set(tracks);
  const split = edits.split
    .map((s) => (s.tracks.some((t) => joined.has(t)) ? { ...s, rest: without(s.rest, joined) } : s))
    .filter((s) => s.rest.length);
  const apart = edits.merge.filter((group) => !group.some((t) => joined.has(t)));
  const absorbed = edits.merge.filter((group) => group.some((t) => joined.has(t))).flat();
  const whole = [...new Set([...tracks, ...absorbed])].sort((a, b) => a - b);
  return { ...edits, split, merge: [...apart, whole] };
}

// New edits after `tracks` left the person that also has `rest`.
function withSplit(edits, tracks, rest) {
  const leaving = new Set(tracks);
  const merge = edits.merge.flatMap((group) => {
    const kept = without(group, leaving), gone = group.filter((t) => leaving.has(t));
    return kept.length && gone.length ? [kept, gone].filter((part) => part.length > 1) : [group];
  });
  return { ...edits, merge, split: [...edits.split, { tracks, rest }] };
}

// Cosines of people from those of tracks: the unit sums of the tracks' vectors.
function peopleSimilarity(people, similarity, count) {
  const size = people.length, result = new Float32Array(size * size), of = new Int32Array(count).fill(-1);
  people.forEach((person, id) => person.tracks.forEach((t) => { of[t] = id; }));
  for (let i = 0; i < count; i++) {
    if (of[i] < 0) continue;
    const row = of[i] * size, from = i * count;
    for (let j = 0; j < count; j++) if (of[j] >= 0) result[row + of[j]] += similarity[from + j];
  }
  const norm = people.map((_, p) => Math.sqrt(Math.max(1e-12, result[p * size + p])));
  for (let p = 0; p < size; p++)
    for (let q = 0; q < size; q++) result[p * size + q] = p === q ? 1 : result[p * size + q] / (norm[p] * norm[q]);
  return result;
}

// edits.json, by the labels of tracks; `source` lists the tracks of each person of clusters.json.
function editsRecord(data, edits, threshold) {
  const label = (t) => data.tracks[t].label;
  const from = (tracks) => data.source.findIndex((own) => own.some((t) => tracks.includes(t)));
  const names = {}, named = {};
  for (const { tracks, name } of edits.names) {
    const id = from(tracks);
    if (id >= 0 && !(id in names) && tracks.every((t) => data.source[id].includes(t))) names[id] = name;
    else named[label(tracks[0])] = name;
  }
  return {
    schema: 1,
    source_sha256: data.sha256,
    threshold: threshold,
    merge: edits.merge.map((group) => group.map(label)),
    split: edits.split.map((s) => ({ from: from(s.tracks), tracks: s.tracks.map(label), rest: s.rest.map(label) })),
    drop: edits.drop.map(label),
    names: names,
    named_tracks: named,
  };
}

if (typeof module !== "undefined")
  module.exports = { cutTree, applyEdits, numberPeople, nameOf, withMerge, withSplit, peopleSimilarity, editsRecord };
