// The gallery's page: draws people as cards, takes corrections, saves them. All text goes in by textContent.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const count = data.tracks.length;
  const CHUNK = 24, SHOWN_TRACKS = 10, MS = 200;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const similarity = data.matrix ? decodeMatrix(data.matrix) : null;

  const state = { threshold: data.threshold, moved: false, edits: data.edits };
  const past = [], future = [];
  let people = [], shown = [], cards = [], at = 0, open = -1, dirty = false, pairs = null;
  const markedPeople = new Set(), markedTracks = new Set();

  function decodeMatrix(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const values = new Uint16Array(bytes.buffer);
    return Float32Array.from(values, (v) => v / 32767.5 - 1);
  }

  function el(tag, cls, text) {
    const node = document.createElement(tag);
    if (cls) node.className = cls;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function say(text) {
    $("said").textContent = text;
    $("said").classList.add("on");
    clearTimeout(say.timer);
    say.timer = setTimeout(() => $("said").classList.remove("on"), 2600);
  }

  // Pictures: each track has a strip of `frames` crops, side by side.
  const addresses = new Map();
  function address(track) {
    const { strip } = data.tracks[track];
    if (!strip.startsWith("data:")) return strip;
    if (!addresses.has(track)) { // a short address, for the browser reads it with every card
      const bytes = Uint8Array.from(atob(strip.slice(strip.indexOf(",") + 1)), (c) => c.charCodeAt(0));
      addresses.set(track, URL.createObjectURL(new Blob([bytes], { type: "image/webp" })));
    }
    return addresses.get(track);
  }
  function setCrop(node, track, frame) {
    const { frames } = data.tracks[track];
    node.style.backgroundImage = `url("${address(track)}")`;
    node.style.backgroundSize = `${frames * 100}% 100%`;
    node.style.backgroundPosition = frames > 1 ? `${(100 * frame) / (frames - 1)}% 0` : "0 0";
  }
  function crop(track, frame = 0) {
    const node = el("span", "crop");
    setCrop(node, track, Math.min(frame, data.tracks[track].frames - 1));
    return node;
  }
  // In a card, a picture is made when the card comes near the window.
  function later(track, frame = 0) {
    const node = el("span", "crop");
    node.dataset.track = track;
    node.dataset.frame = frame;
    return node;
  }
  function paint(card) {
    card.dataset.seen = "1";
    for (const node of card.querySelectorAll("[data-track]")) {
      setCrop(node, +node.dataset.track, +node.dataset.frame);
      delete node.dataset.track;
    }
  }
  const eye = new IntersectionObserver((seen) => {
    for (const entry of seen) if (entry.isIntersecting) {
      eye.unobserve(entry.target);
      paint(entry.target);
    }
  }, { rootMargin: "300px" });
  const best = (person) => person.tracks.reduce((a, b) => (data.tracks[b].crops > data.tracks[a].crops ? b : a));
  const title = (person) => nameOf(person, state.edits.names) || `Person ${person.id}`;

  function regroup() {
    const base = state.moved ? cutTree(count, data.merges, state.threshold) : data.groups;
    people = numberPeople(applyEdits(base, state.edits), data.tracks);
    pairs = null;
    filter();
  }

  function filter() {
    const text = $("find").value.trim().toLowerCase();
    shown = !text ? people : people.filter((p) => title(p).toLowerCase().includes(text)
      || p.tracks.some((t) => data.tracks[t].label.toLowerCase().includes(text)));
    at = Math.min(at, Math.max(0, shown.length - 1));
    draw();
  }

  function draw() {
    const box = $("people");
    box.textContent = "";
    eye.disconnect();
    cards = [];
    if (!shown.length) box.append(el("p", "empty", people.length ? "Nobody matches this search." : "Every track is dropped."));
    more();
    while (at >= cards.length && cards.length < shown.length) more();
    $("n-people").textContent = people.length;
    $("threshold").value = Math.round(state.threshold * 1000);
    $("value").textContent = state.threshold.toFixed(3);
    $("source").textContent = state.moved || data.source_of_threshold === "given" ? "set by hand; average linkage"
      : `${data.method}, ${data.source_note}`;
    tools();
    if (!$("similar").hidden) under();
  }

  function more() {
    const until = Math.min(shown.length, cards.length + CHUNK), part = document.createDocumentFragment();
    for (let n = cards.length; n < until; n++) {
      const card = makeCard(shown[n], n);
      cards.push(card);
      part.append(card);
    }
    $("people").append(part);
    if (cards.length < shown.length) watcher.observe(cards[cards.length - 1]);
  }
  const watcher = new IntersectionObserver((seen) => {
    for (const entry of seen) if (entry.isIntersecting) {
      watcher.unobserve(entry.target);
      if (entry.target === cards[cards.length - 1]) more();
    }
  }, { rootMargin: "900px" });

  function makeCard(person, n) {
    const card = el("article", "card");
    card.dataset.n = n;
    card.setAttribute("aria-label", title(person));
    const stage = el("div", "stage"), side = el("div");
    const main = later(best(person));
    main.classList.add("play");
    main.setAttribute("role", "img");
    main.setAttribute("aria-label", `Crops of ${title(person)}`);
    const who = el("button", "who", title(person));
    who.type = "button";
    who.tabIndex = n === at ? 0 : -1;
    who.setAttribute("aria-pressed", markedPeople.has(person.tracks[0]));
    side.append(who, el("div", "sub", `${person.crops} crops, ${person.tracks.length} ${person.tracks.length > 1 ? "tracks" : "track"}`));
    const cameras = [...new Set(person.tracks.map((t) => data.tracks[t].camera).filter(Boolean))];
    if (cameras.length) side.append(el("div", "sub clamp", `seen by ${cameras.sort().join(", ")}`));
    const cohesion = cohesionOf(person);
    if (cohesion !== null) {
      const meter = el("div", "meter"), fill = el("i");
      fill.style.width = `${Math.max(0, Math.min(1, cohesion)) * 100}%`;
      meter.append(fill);
      side.append(el("div", "sub", `cohesion ${cohesion.toFixed(2)}`), meter);
    }
    const near = nearest(person);
    if (near) {
      const link = el("button", "near", `nearest ${title(people[near[0]])}, ${near[1].toFixed(2)}`);
      link.type = "button";
      link.tabIndex = -1;
      link.dataset.go = near[0];
      side.append(link);
    }
    side.append(timeBar(person));
    stage.append(main, side);
    const row = el("div", "tracks");
    card.append(stage, row);
    card.classList.toggle("single", person.tracks.length === 1);
    fill(row, person, n === open);
    mark(card, person, n);
    eye.observe(card);
    return card;
  }

  // Of a person with many tracks the first are shown, and all in an open card.
  function fill(row, person, all) {
    const upto = all ? person.tracks.length : Math.min(SHOWN_TRACKS, person.tracks.length);
    if (row.querySelectorAll(".t").length === upto) return;
    row.textContent = "";
    for (const t of person.tracks.slice(0, upto)) row.append(trackButton(t));
    const card = row.closest(".card");
    if (card && card.dataset.seen) paint(card);
    if (upto < person.tracks.length) row.append(el("span", "sub", `and ${person.tracks.length - upto} more`));
  }

  function trackButton(t) {
    const track = data.tracks[t], button = el("button", track.suspect ? "t suspect" : "t");
    button.type = "button";
    button.tabIndex = -1;
    button.dataset.t = t;
    button.setAttribute("aria-pressed", markedTracks.has(t));
    const where = track.camera ? `${track.label}, camera ${track.camera}` : track.label;
    button.title = `${where}: ${track.crops} crops, frames ${track.first} to ${track.last}${track.suspect ? "; two people?" : ""}`;
    button.setAttribute("aria-label", `Track ${button.title}`);
    button.append(later(t, track.frames >> 1), el("span", "", track.suspect ? `${track.label} two?` : track.label));
    return button;
  }

  function timeBar(person) {
    const bar = el("div", "time"), span = Math.max(1, data.last - data.first);
    for (const t of person.tracks.slice(0, 30)) {
      const { first, last } = data.tracks[t], part = el("i");
      part.style.left = `${(100 * (first - data.first)) / span}%`;
      part.style.width = `${(100 * (last - first)) / span}%`;
      bar.append(part);
    }
    return bar;
  }

  function between(one, other) {
    let sum = 0;
    for (const a of one.tracks) for (const b of other.tracks) sum += similarity[a * count + b];
    return sum;
  }
  function cohesionOf(person) {
    const n = person.tracks.length;
    return !similarity || n < 2 ? null : (between(person, person) - n) / (n * (n - 1));
  }
  function nearest(person) {
    if (!similarity || people.length < 2) return null;
    const size = people.length, row = matrix().subarray(person.id * size, (person.id + 1) * size);
    let found = -1;
    for (let q = 0; q < size; q++) if (q !== person.id && (found < 0 || row[q] > row[found])) found = q;
    return [found, row[found]];
  }
  function matrix() {
    if (!pairs) pairs = peopleSimilarity(people, similarity, count);
    return pairs;
  }

  function mark(card, person, n) {
    const marked = person.tracks.some((t) => markedPeople.has(t));
    card.classList.toggle("at", n === at);
    card.classList.toggle("open", n === open);
    card.classList.toggle("marked", marked);
    const who = card.querySelector(".who");
    who.tabIndex = n === at ? 0 : -1;
    who.setAttribute("aria-pressed", marked);
    fill(card.querySelector(".tracks"), person, n === open);
    for (const button of card.querySelectorAll(".t")) {
      button.setAttribute("aria-pressed", markedTracks.has(+button.dataset.t));
      button.tabIndex = n === open ? 0 : -1;
    }
  }
  function remark() { cards.forEach((card, n) => mark(card, shown[n], n)); tools(); }

  function go(n, focus = true) {
    if (!shown.length) return;
    at = Math.max(0, Math.min(shown.length - 1, n));
    while (at >= cards.length) more();
    remark();
    if (focus) cards[at].querySelector(".who").focus({ preventScroll: true });
    cards[at].scrollIntoView({ block: "nearest" });
  }
  function goTo(id) {
    view("people");
    $("find").value = "";
    shown = people;
    at = id;
    draw();
    go(id);
  }
  const columns = () => getComputedStyle($("people")).gridTemplateColumns.split(" ").length;

  function view(name) {
    for (const [tab, part] of [["tab-people", "people"], ["tab-similar", "similar"]]) {
      $(part).hidden = part !== name;
      $(tab).setAttribute("aria-pressed", part === name);
    }
    if (name === "similar") under();
  }
  $("tab-people").addEventListener("click", () => view("people"));
  $("tab-similar").addEventListener("click", () => view("similar"));

  // Corrections. Each is one step of undo.
  function change(next, said) {
    past.push(JSON.stringify(state));
    future.length = 0;
    Object.assign(state, next);
    markedPeople.clear();
    markedTracks.clear();
    dirty = true;
    regroup();
    say(said);
  }
  function step(from, to, said) {
    if (!from.length) return say(`Nothing to ${said.toLowerCase()}.`);
    to.push(JSON.stringify(state));
    Object.assign(state, JSON.parse(from.pop()));
    markedPeople.clear();
    markedTracks.clear();
    regroup();
    say(said);
  }
  const chosen = () => people.filter((p) => p.tracks.some((t) => markedPeople.has(t)));

  const actions = {
    merge() {
      const own = chosen();
      if (own.length < 2) return say("Mark two or more people with space, then merge.");
      change({ edits: withMerge(state.edits, own.flatMap((p) => p.tracks)) }, `${own.length} people merged`);
    },
    split() {
      if (!markedTracks.size) return say("Open a person with Enter, mark tracks with space, then split.");
      let edits = state.edits, done = 0;
      for (const person of people) {
        const own = person.tracks.filter((t) => markedTracks.has(t));
        if (!own.length || own.length === person.tracks.length) continue;
        edits = withSplit(edits, own, person.tracks.filter((t) => !markedTracks.has(t)));
        done += own.length;
      }
      if (!done) return say("Leave at least one track of the person unmarked.");
      change({ edits }, `${done} ${done > 1 ? "tracks" : "track"} split off`);
    },
    drop() {
      let tracks = [...markedTracks, ...chosen().flatMap((p) => p.tracks)];
      if (!tracks.length && shown[at]) tracks = shown[at].tracks;
      if (!tracks.length) return;
      const drop = [...new Set([...state.edits.drop, ...tracks])].sort((a, b) => a - b);
      change({ edits: { ...state.edits, drop } }, `${tracks.length} ${tracks.length > 1 ? "tracks" : "track"} dropped`);
    },
    name() {
      if (!shown[at]) return;
      $("name-text").value = nameOf(shown[at], state.edits.names);
      $("name-box").showModal();
      $("name-text").select();
    },
    undo() { step(past, future, "Undo"); },
    redo() { step(future, past, "Redo"); },
    save() {
      const text = JSON.stringify(editsRecord(data, state.edits, state.moved ? state.threshold : null), null, 1) + "\n";
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = "edits.json";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      dirty = false;
      say("edits.json saved");
    },
    help() { $("help-box").showModal(); },
  };
  function tools() {
    $("merge").disabled = chosen().length < 2;
    $("split").disabled = !markedTracks.size;
    $("undo").disabled = !past.length;
    $("redo").disabled = !future.length;
  }

  function named() {
    const person = shown[at], text = $("name-text").value.trim();
    $("name-box").close();
    const others = state.edits.names.filter((entry) => !entry.tracks.some((t) => person.tracks.includes(t)));
    const names = text ? [...others, { tracks: person.tracks, name: text }] : others;
    change({ edits: { ...state.edits, names } }, text ? `Named ${text}` : "Name removed");
    go(at);
  }

  // Below the cards: the heat map of all pairs, and the most similar ones.
  function under() {
    if (!similarity || people.length < 2) {
      $("map").hidden = true;
      $("map-note").textContent = similarity ? "" : "Left out: too many tracks for one page; see similarity_matrix.npy.";
      return;
    }
    $("map").hidden = false;
    const size = people.length, values = matrix(), canvas = $("map");
    canvas.width = canvas.height = size;
    const g = canvas.getContext("2d"), image = g.createImageData(size, size);
    for (let i = 0; i < size * size; i++) {
      const v = Math.max(0, Math.min(1, (values[i] + 0.2) / 1.2)) ** 1.4;
      image.data.set([20 + 235 * v ** 1.6, 24 + 190 * v ** 0.9, 48 + 120 * Math.sin(3.14 * v * 0.8), 255], 4 * i);
    }
    g.putImageData(image, 0, 0);
    const high = [];
    let above = 0;
    for (let p = 0; p < size; p++) for (let q = p + 1; q < size; q++) {
      const v = values[p * size + q];
      if (v > data.listed) above++;
      if (v > data.listed) high.push([p, q, v]);
    }
    high.sort((a, b) => b[2] - a[2]);
    const total = (size * (size - 1)) / 2;
    $("pairs-note").textContent = `${above} of ${total} pairs (${((100 * above) / total).toFixed(1)} %) are above ${data.listed.toFixed(2)}.`;
    $("pairs").textContent = "";
    for (const [p, q, v] of high.slice(0, 100)) {
      const item = el("li"), button = el("button");
      button.type = "button";
      button.dataset.pair = `${p},${q}`;
      button.title = "Mark both, to merge";
      button.append(crop(best(people[p])), crop(best(people[q])), el("span", "", `${title(people[p])} and ${title(people[q])}`), el("b", "", v.toFixed(3)));
      item.append(button);
      $("pairs").append(item);
    }
  }
  $("map").addEventListener("mousemove", (event) => {
    const size = people.length, box = $("map").getBoundingClientRect();
    const q = Math.min(size - 1, Math.floor(((event.clientX - box.left) / box.width) * size));
    const p = Math.min(size - 1, Math.floor(((event.clientY - box.top) / box.height) * size));
    if (p < 0 || q < 0) return;
    const peek = $("peek");
    peek.textContent = "";
    peek.append(crop(best(people[p])), crop(best(people[q])), el("b", "", matrix()[p * size + q].toFixed(3)),
      el("span", "sub", p === q ? title(people[p]) : `${title(people[p])} and ${title(people[q])}`));
    peek.style.left = `${Math.min(event.clientX - box.left + 14, Math.max(0, box.width - 250))}px`;
    peek.style.top = `${event.clientY - box.top + 14}px`;
    peek.classList.add("on");
  });
  $("map").addEventListener("mouseleave", () => $("peek").classList.remove("on"));
  $("pairs").addEventListener("click", (event) => {
    const button = event.target.closest("[data-pair]");
    if (!button) return;
    const [p, q] = button.dataset.pair.split(",").map(Number);
    for (const id of [p, q]) people[id].tracks.forEach((t) => markedPeople.add(t));
    goTo(p);
    say("Both marked; m merges them.");
  });

  // How many people each threshold gives, behind the slider.
  function curve() {
    const canvas = $("curve"), width = (canvas.width = 600), height = (canvas.height = 80), g = canvas.getContext("2d");
    g.fillStyle = "#262930";
    g.beginPath();
    g.moveTo(0, height);
    for (let x = 0; x <= width; x++) {
      const t = low + ((1 - low) * x) / width;
      let merged = 0;
      while (merged < data.merges.length && data.merges[merged][2] >= t) merged++;
      g.lineTo(x, height - (height * (count - merged)) / count);
    }
    g.lineTo(width, height);
    g.fill();
  }
  const low = Math.max(-1, Math.floor(10 * (data.merges.length ? data.merges[data.merges.length - 1][2] : 0)) / 10);
  $("threshold").min = Math.round(low * 1000);
  $("threshold").addEventListener("input", () => {
    state.threshold = +$("threshold").value / 1000;
    state.moved = true;
    const start = performance.now();
    regroup();
    document.documentElement.dataset.regrouped = (performance.now() - start).toFixed(1);
  });
  $("threshold").addEventListener("pointerdown", () => past.push(JSON.stringify(state)));

  $("people").addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    const n = +card.dataset.n, link = event.target.closest("[data-go]"), button = event.target.closest(".t");
    if (link) return goTo(+link.dataset.go);
    at = n;
    if (button) toggle(markedTracks, [+button.dataset.t]);
    else toggle(markedPeople, shown[n].tracks);
    remark();
  });
  $("people").addEventListener("focusin", (event) => {
    const card = event.target.closest(".card");
    if (!card || +card.dataset.n === at) return;
    at = +card.dataset.n;
    remark();
  });
  function toggle(set, tracks) {
    const all = tracks.some((t) => set.has(t));
    tracks.forEach((t) => (all ? set.delete(t) : set.add(t)));
  }

  const KEYS = [["← → ↑ ↓  h j k l", "move"], ["Enter", "open a person, or close"], ["space", "mark a person or track"],
    ["m", "merge marked people"], ["s", "split marked tracks off"], ["x", "not a person"], ["n", "name"], ["u", "undo"],
    ["r", "redo"], ["/", "find"], ["?", "this help"]];
  for (const [key, what] of KEYS) $("keys").append(el("dt", "", key), el("dd", "", what));
  const MOVES = { ArrowLeft: -1, ArrowRight: 1, h: -1, l: 1, ArrowUp: -2, ArrowDown: 2, k: -2, j: 2 };
  const LETTERS = { m: "merge", s: "split", x: "drop", n: "name", u: "undo", r: "redo", "?": "help" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = event.target;
    if (target.tagName === "INPUT") {
      if (event.key === "Escape") { target.blur(); go(at); }
      if (target.type === "search" && event.key === "Enter") go(0);
      return;
    }
    const button = target.closest ? target.closest(".t") : null;
    if (event.key in MOVES) {
      const move = MOVES[event.key];
      if (button) sibling(button, Math.sign(move));
      else go(at + (Math.abs(move) === 2 ? Math.sign(move) * columns() : move));
    } else if (event.key === "Enter") {
      if (target.closest(".tools, .pairs, .near")) return;
      open = open === at ? -1 : at;
      remark();
      if (open >= 0) cards[at].querySelector(".t").focus();
      else cards[at].querySelector(".who").focus();
    } else if (event.key === " ") {
      if (target.closest(".tools, .pairs, .near")) return;
      if (button) toggle(markedTracks, [+button.dataset.t]);
      else if (shown[at]) toggle(markedPeople, shown[at].tracks);
      remark();
    } else if (event.key === "/") $("find").focus();
    else if (event.key === "Escape") { open = -1; markedPeople.clear(); markedTracks.clear(); remark(); }
    else if (event.key in LETTERS) actions[LETTERS[event.key]]();
    else return;
    event.preventDefault();
  });
  function sibling(button, by) {
    const all = [...button.closest(".tracks").querySelectorAll(".t")];
    all[Math.max(0, Math.min(all.length - 1, all.indexOf(button) + by))].focus();
  }

  for (const name of Object.keys(actions)) $(name).addEventListener("click", () => actions[name]());
  $("help-close").addEventListener("click", () => $("help-box").close());
  $("name-cancel").addEventListener("click", () => $("name-box").close());
  $("name-ok").addEventListener("click", named);
  $("name-text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // it would press the button that gets the focus next
    event.stopPropagation();
    named();
  });
  $("find").addEventListener("input", filter);
  addEventListener("beforeunload", (event) => { if (dirty) event.preventDefault(); });

  // The large picture of each card runs through the best crops of its tracks.
  let tick = 0;
  setInterval(() => {
    if (still.matches || document.hidden) return;
    tick++;
    for (let n = 0; n < cards.length; n++) {
      const box = cards[n].getBoundingClientRect();
      if (!box.height || box.bottom < 0 || box.top > innerHeight) continue;
      const total = shown[n].tracks.reduce((sum, t) => sum + data.tracks[t].frames, 0);
      let frame = tick % total, k = 0;
      while (frame >= data.tracks[shown[n].tracks[k]].frames) frame -= data.tracks[shown[n].tracks[k++]].frames;
      setCrop(cards[n].querySelector(".play"), shown[n].tracks[k], frame);
    }
  }, MS);

  regroup();
  curve();
  window.rtoolGallery = { state, data, people: () => people, record: () => editsRecord(data, state.edits, state.moved ? state.threshold : null) };
})();
