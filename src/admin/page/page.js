"use strict";
// What a mount does, live: the same API as for everybody else, kept fresh by /v1/events.

const ROW = 32; // Height of a row, as the style sheet has it: only those in sight are in the document.
const SECONDS = 120;
const $ = (id) => document.getElementById(id);

const bytes = (n) => {
  let unit = 0;
  while (n >= 1024 && unit < 4) { n /= 1024; unit += 1; }
  return (unit ? n.toFixed(1) : n) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][unit];
};
const span = (s) => s < 100 ? Math.floor(s) + " s" : s < 6000 ? Math.floor(s / 60) + " min" : s < 172800 ? Math.floor(s / 3600) + " h" : Math.floor(s / 86400) + " d";
// Control characters are shown, not obeyed.
const shown = (text) => String(text ?? "").replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
// Times are the daemon's, as /v1/status says them: this clock may be another. Ages go by one that never jumps.
let ahead = 0;
const now = () => Date.now() / 1000 - ahead;
const elapsed = () => performance.now() / 1000;

async function ask(target, options) {
  const answer = await fetch(target, { cache: "no-store", ...options });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail || answer.statusText);
  return body;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// A table of any number of rows.
class Rows {
  constructor(id, empty, columns) {
    this.box = $(id); this.empty = empty; this.columns = columns;
    this.rows = []; this.drawn = ""; this.waiting = false; this.onEnd = null; this.told = null; this.ages = [];
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    addEventListener("resize", () => this.draw(true));
  }
  // Rows that say the same stay as they are: a click goes to what it was meant for.
  set(rows) {
    const told = rows.map((row) => [row.id, row.bytes, row.path, row.kept, row.attempts, row.told]).join("\n");
    if (told === this.told) return;
    this.told = told;
    this.rows = rows;
    this.draw(true);
  }
  tick() { for (const [cell, row] of this.ages) cell.textContent = age.of(row); }
  drop(id) {
    const left = this.rows.filter((row) => row.id !== id);
    if (left.length !== this.rows.length) this.set(left);
  }
  draw(again) {
    if (again) this.drawn = "";
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); });
  }
  paint() {
    this.box.dataset.count = this.rows.length;
    if (!this.rows.length) {
      this.box.replaceChildren(element("p", "none", this.empty));
      this.drawn = "none";
      this.onEnd?.();
      return;
    }
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 5);
    const last = Math.min(this.rows.length, first + Math.ceil(this.box.clientHeight / ROW) + 15);
    if (this.onEnd && last === this.rows.length) this.onEnd();
    const key = first + ":" + last;
    if (key === this.drawn) return;
    this.drawn = key;
    // Whoever is on a button stays on it.
    const focused = this.box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    this.ages = [];
    const table = element("table");
    table.setAttribute("aria-rowcount", this.rows.length + 1);
    const head = table.createTHead().insertRow();
    for (const column of this.columns) {
      const cell = element("th", column.style, column.name);
      cell.scope = "col";
      head.append(cell);
    }
    const body = table.createTBody();
    const space = (rows) => {
      const row = element("tr", "space"), cell = element("td");
      cell.colSpan = this.columns.length;
      cell.style.height = rows * ROW + "px";
      row.append(cell);
      row.setAttribute("aria-hidden", "true");
      if (rows) body.append(row);
    };
    space(first);
    for (let at = first; at < last; at += 1) {
      const row = element("tr");
      row.setAttribute("aria-rowindex", at + 2);
      row.dataset.id = this.rows[at].id;
      for (const column of this.columns) {
        const cell = element("td", column.style), value = column.of(this.rows[at]);
        if (value instanceof Node) cell.append(value); else { cell.textContent = value; cell.title = value; }
        if (column === age) this.ages.push([cell, this.rows[at]]);
        row.append(cell);
      }
      body.append(row);
    }
    space(this.rows.length - last);
    const top = this.box.scrollTop;
    this.box.replaceChildren(table);
    this.box.scrollTop = top;
    if (focused) this.box.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }
}

const path = { name: "Path", of: (row) => shown(row.path) };
const id = { name: "Draft", style: "n w-s", of: (row) => row.id };
const size = { name: "Size", style: "n w-s", of: (row) => bytes(row.bytes) };
const writer = { name: "Process", style: "w-m", of: (row) => shown(row.command) + " " + row.pid };
const age = { name: "Age", style: "n w-s", of: (row) => span(Math.max(0, elapsed() - row.since)) };

const pending = new Rows("pending", "Nothing is being written.", [id, path, writer, size, age]);
const commits = new Rows("commits", "Nothing found.", [
  id, path, { name: "Kind", style: "w-s", of: (row) => row.kind }, size, age,
  { name: "Took", style: "n w-s", of: (row) => (row.duration_ms ?? 0).toFixed(1) + " ms" },
]);
const quarantine = new Rows("quarantine", "Nothing in quarantine.", [
  id, path, { name: "Why", style: "w-l", of: (row) => shown(row.reason) }, size, age,
  { name: "Decide", style: "w-l", of: decisions },
]);

const dead = new Rows("dead", "No dead letters.", [
  { name: "Row", style: "n w-s", of: (row) => row.id }, path,
  { name: "Why", style: "w-l", of: (row) => `${shown(row.reason)}, ${row.attempts} attempts` }, size, age,
  { name: "Decide", style: "w-l", of: verdicts },
]);

// Why nothing can be changed from here, as /v1/status says it; every button says so too. Where the mount is read-only,
// contents can be had, and rows be dropped, which changes no file.
let refused = null, looks = false;
function refuse(why, everything) {
  if (why === refused && everything === looks) return;
  refused = why;
  looks = everything;
  $("refused").textContent = why ? "Only looking: " + shown(why) + "." : "";
  lock($("refresh"));
  for (const rows of [quarantine, dead]) rows.draw(true);
}
function lock(made, changes = true) {
  const locked = refused && (changes || looks);
  made.disabled = Boolean(locked);
  made.title = locked ? shown(refused) : "";
}

// A button that asks before it acts.
function button(verb, what, row, text, danger) {
  const made = element("button", danger ? "danger" : "", verb);
  made.type = "button";
  made.dataset.key = verb + row.id;
  made.setAttribute("aria-label", `${verb} ${what} ${row.id}, ${shown(row.path)}`);
  made.addEventListener("click", () => decide(row, verb, what, text));
  lock(made, verb !== "drop");
  return made;
}

function verdicts(row) {
  const span = element("span");
  span.append(button("retry", "row", row, "its removal is tried again, as often as at first."), " ");
  span.append(button("drop", "row", row, "nobody tries to remove it any more; it stays in the trash folder.", true));
  return span;
}

function decisions(row) {
  const span = element("span");
  if (row.kept && row.path) {
    span.append(button("publish", "draft", row, "becomes the version of its name, over one that is there now."), " ");
  }
  span.append(button("discard", "draft", row, "is given up for good.", true), " ");
  if (row.kept && !looks) {
    const link = element("a", "", "save");
    link.href = `v1/quarantine/${row.id}/content`;
    link.download = row.path.split("/").pop() || "draft-" + row.id;
    span.append(link);
  }
  return span;
}

// What there is to decide about, where it is told, and what it is called when it is done.
const DONE = { publish: "published", discard: "discarded", retry: "tried again", drop: "dropped" };

async function decide(row, verb, what, text) {
  const dialog = $("confirm"), name = `${what[0].toUpperCase()}${what.slice(1)} ${row.id}`;
  $("confirm-title").textContent = `${verb[0].toUpperCase()}${verb.slice(1)} ${what} ${row.id}?`;
  $("confirm-text").textContent = `${shown(row.path) || "(unknown path)"}, ${bytes(row.bytes)}: ${text}`;
  $("confirm-yes").textContent = verb;
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue !== "yes") return;
  try {
    await ask(`v1/${what === "draft" ? "quarantine" : "outbox"}/${row.id}/${verb}`, { method: "POST" });
    say(`${name}: ${DONE[verb]}.`);
  } catch (error) {
    say(`${name}: ${error.message}`);
  }
  look.soon(what === "draft" ? "quarantine" : "dead", "status");
}

let saying;
function say(text) {
  $("said").textContent = text;
  clearTimeout(saying);
  saying = setTimeout(() => { $("said").textContent = ""; }, 8000);
}

const dated = (row) => ({ ...row, since: elapsed() - row.age_seconds });

async function all(target, more = "") {
  const rows = [];
  for (let cursor = ""; cursor !== null;) {
    const page = await ask(`${target}?limit=1000${more}${cursor && "&cursor=" + encodeURIComponent(cursor)}`);
    rows.push(...page.items.map(dated));
    cursor = page.next;
  }
  return rows;
}

// What to ask for again, at most so often, one question of a kind at a time.
const look = {
  due: new Set(), running: false, every: 500,
  soon(...what) {
    what.forEach((one) => this.due.add(one));
    if (!this.running) { this.running = true; setTimeout(() => this.run(), 50); }
  },
  async run() {
    const what = [...this.due], began = performance.now();
    this.due.clear();
    for (const one of what) {
      try { await this[one](); } catch (error) { console.info(one, error.message); }
    }
    // A page that takes long to fill is filled less often.
    const pause = Math.max(this.every, 3 * (performance.now() - began));
    setTimeout(() => { this.running = false; if (this.due.size) this.soon(); }, pause);
  },
  async status() {
    const s = await ask("v1/status");
    ahead = Date.now() / 1000 - s.now;
    refuse(s.changes_refused ?? null, s.only_looks);
    $("mount").textContent = shown(s.mountpoint);
    document.title = "commitfs " + shown(s.mountpoint);
    $("n-pending").textContent = s.pending;
    $("n-bytes").textContent = bytes(s.pending_bytes);
    $("n-commits").textContent = s.commits;
    $("n-quarantined").textContent = s.quarantined;
    $("n-dead").textContent = s.outbox_dead;
    $("n-outbox").textContent = s.outbox;
    // What another admin decides about the outbox has no event.
    if (s.outbox_dead !== dead.rows.length) this.soon("dead");
    $("n-journal").textContent = shown(s.journal);
    $("n-uptime").textContent = span(s.uptime_seconds);
  },
  async pending() { pending.set(await all("v1/pending")); },
  async quarantine() { quarantine.set(await all("v1/quarantine")); },
  async dead() { dead.set(await all("v1/outbox", "&state=dead")); },
  async folders() { await folders.load(); },
  async commits() { await search(false); },
};

// Published versions, newest first, more of them when the end comes into sight.
let next = null, asked = 0;
async function search(more) {
  const number = more ? asked : ++asked, contains = $("contains").value;
  const cursor = more ? "&cursor=" + encodeURIComponent(next) : "";
  if (more) next = null;
  const page = await ask(`v1/commits?limit=200&contains=${encodeURIComponent(contains)}${cursor}`);
  if (number !== asked) return;
  next = page.next;
  // A page may be empty and not the last: each is bounded work, whatever is looked for.
  commits.empty = next ? "Searching…" : "Nothing found.";
  commits.set(more ? commits.rows.concat(page.items.map(dated)) : page.items.map(dated));
  commits.draw();
}
commits.onEnd = () => { if (next) search(true).catch((error) => console.info(error.message)); };
let typing;
$("contains").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => { commits.box.scrollTop = 0; search(false).catch((error) => say(error.message)); }, 150);
});
$("search").addEventListener("submit", (event) => event.preventDefault());

// Commits of the last two minutes, second by second.
const counts = new Map();
function count(at, ms) {
  const second = Math.floor(at), entry = counts.get(second) || { n: 0, worst: 0 };
  entry.n += 1;
  entry.worst = Math.max(entry.worst, ms || 0);
  counts.set(second, entry);
}
function chart() {
  const end = Math.floor(now());
  for (const second of counts.keys()) if (second < end - SECONDS) counts.delete(second);
  for (const [name, key, digits] of [["rate", "n", 0], ["latency", "worst", 1]]) {
    const values = Array.from({ length: SECONDS }, (_, at) => counts.get(end - SECONDS + 1 + at)?.[key] || 0);
    const most = Math.max(...values, 1), bars = [];
    values.forEach((value, at) => {
      if (!value) return;
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect"), height = Math.max(1, value / most * 38);
      for (const [attribute, number] of [["x", at], ["width", 0.8], ["height", height], ["y", 40 - height]]) bar.setAttribute(attribute, number);
      bars.push(bar);
    });
    $(name).replaceChildren(...bars);
    const top = Math.max(...values).toFixed(digits), last = values[SECONDS - 2].toFixed(digits);
    $("c-" + name).textContent = `${last} now, ${top} at most`;
    $(name).setAttribute("aria-label", `${$(name).parentNode.firstChild.firstChild.textContent.trim()}: ${last} now, ${top} at most`);
  }
}

const EVERYTHING = ["status", "pending", "quarantine", "dead", "commits", "folders"];
let source, last = "";
function connect() {
  source = new EventSource("v1/events" + (last && "?after=" + last));
  const state = (text, live) => { $("link").textContent = text; $("link").classList.toggle("live", live); };
  const on = (kind, does) => source.addEventListener(kind, (event) => { last = event.lastEventId || last; does(event.data && JSON.parse(event.data)); });
  source.onopen = () => { state("live", true); look.soon(...EVERYTHING); };
  source.onerror = () => {
    state("no connection, trying again", false);
    // After an answer that is no stream (a proxy whose daemon is away) a browser gives up by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  };
  on("begun", () => look.soon("pending", "status"));
  for (const kind of ["retargeted", "sealed", "reopened", "postponed"]) on(kind, () => look.soon("pending"));
  on("committed", (e) => { count(e.at, e.duration_ms); pending.drop(e.draft); quarantine.drop(e.draft); look.soon("status", "commits", "folders"); });
  on("quarantined", (e) => { pending.drop(e.draft); look.soon("quarantine", "status"); });
  on("discarded", (e) => { pending.drop(e.draft); quarantine.drop(e.draft); look.soon("status"); });
  on("dead", () => look.soon("dead", "status"));
  for (const kind of ["unlinked", "removed", "restored"]) on(kind, () => look.soon("status", "folders"));
  on("resync", () => look.soon(...EVERYTHING));
}

addEventListener("DOMContentLoaded", async () => {
  try {
    await look.status();
    const recent = await ask("v1/commits?limit=1000");
    recent.items.forEach((row) => count(row.at, row.duration_ms));
  } catch (error) { console.info(error.message); }
  let ticks = 0;
  connect();
  chart();
  setInterval(() => {
    if (document.hidden) return;
    chart();
    // Sizes and ages have no events.
    if (pending.rows.length) look.soon("pending", "status");
    else if (++ticks % 5 === 0) look.soon("status");
    for (const rows of [pending, quarantine, dead, commits]) rows.tick();
  }, 1000);
});
