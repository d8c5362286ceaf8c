// What folders hold: one level at a time, the largest first, as bars.

const folders = {
  path: "", hex: "", shown: null, asked: 0, next: null, counting: false,
  rows: new Rows("folders", "No folders in it.", [
    { name: "Folder", of: (row) => folders.into(row) },
    { name: "Share", style: "w-l", of: (row) => folders.bar(row) },
    { name: "Size", style: "n w-s", of: (row) => bytes(row.rbytes) },
    { name: "Files", style: "n w-s", of: (row) => row.rfiles },
    { name: "Folders", style: "n w-s", of: (row) => row.rsubdirs },
  ]),

  // Where bytes are no text the exact ones are sent.
  place: (row) => row.path_hex ? "path_hex=" + row.path_hex : "path=" + encodeURIComponent(row.path),
  name: (row) => shown(row.path.split("/").pop()),

  into(row) {
    const made = element("button", "into", this.name(row));
    made.type = "button";
    made.dataset.key = "into" + row.path;
    made.title = shown(row.path);
    made.addEventListener("click", () => this.go(row, true));
    return made;
  },

  bar(row) {
    const made = element("meter");
    made.max = Math.max(1, this.shown.rbytes);
    made.value = Math.min(row.rbytes, made.max);
    const share = (100 * row.rbytes / made.max).toFixed(1) + " %";
    made.title = share;
    made.setAttribute("aria-label", `${this.name(row)}: ${share} of ${this.name(this.shown) || "the mount"}`);
    return made;
  },

  // To a folder; whoever came by keyboard finds the way back under the fingers.
  go(row, focus) {
    this.path = row.path;
    this.hex = row.path_hex || "";
    this.rows.box.scrollTop = 0;
    this.load(focus).catch((error) => say(error.message));
  },

  async page(cursor, limit = 200) {
    return ask(`v1/folders?${this.place({ path: this.path, path_hex: this.hex })}&limit=${limit}${cursor && "&cursor=" + encodeURIComponent(cursor)}`);
  },

  async load(focus) {
    const number = ++this.asked;
    // As many as are there already, so that nobody's place is lost.
    const seen = this.shown?.path === this.path ? this.rows.rows.length : 0;
    let found;
    try {
      found = await this.page("");
    } catch (error) {
      if (number !== this.asked) return;
      // It went away while it was looked at: the one above is still there.
      if (!this.path) { $("folder-sum").textContent = error.message; return; }
      this.path = this.path.split("/").slice(0, -1).join("/");
      this.hex = "";
      return this.load(focus);
    }
    const items = found.items;
    let next = found.next;
    while (next && items.length < seen && number === this.asked) {
      const page = await this.page(next, 1000);
      items.push(...page.items);
      next = page.next;
    }
    if (number !== this.asked) return;
    this.shown = found;
    this.next = next;
    this.set(items);
    // Rows that did not change are not painted again, and their end may be in sight.
    this.rows.draw();
    this.tell(focus);
    // Counting has no events.
    if (found.uncounted) setTimeout(() => look.soon("folders"), 1000);
    else if (this.counting) { this.counting = false; say(`${this.name(found) || "The mount"}: counted.`); }
    // Changes are added up a moment after their event.
    if (found.counting.unfolded) setTimeout(() => look.soon("folders"), 500);
  },

  set(items) {
    const sum = this.shown.rbytes;
    this.rows.set(items.map((row) => ({ ...row, id: row.path_hex || row.path, told: [row.rbytes, row.rfiles, row.rsubdirs, sum] })));
  },

  tell(focus) {
    const found = this.shown;
    let at = "";
    const crumb = (text, row, current) => {
      const made = element("button", "", text);
      made.type = "button";
      if (current) made.setAttribute("aria-current", "page");
      made.addEventListener("click", () => this.go(row, true));
      return made;
    };
    const parts = found.path ? found.path.split("/") : [];
    const crumbs = [crumb("mount", { path: "" }, !parts.length)];
    for (const [depth, part] of parts.entries()) {
      at = at ? at + "/" + part : part;
      const last = depth === parts.length - 1;
      crumbs.push("/", crumb(shown(part), last ? found : { path: at }, last));
    }
    $("crumbs").replaceChildren(...crumbs);
    if (focus) $("crumbs").lastChild.focus();
    const when = new Date(found.as_of * 1000).toLocaleTimeString();
    const waiting = found.uncounted ? `, ${found.uncounted} folders still to be counted` : "";
    $("folder-sum").textContent = `${bytes(found.rbytes)} in ${found.rfiles} files and ${found.rsubdirs} folders, ${bytes(found.bytes)} of it here, as of ${when}${waiting}`;
  },

  async more() {
    const number = this.asked, cursor = this.next;
    this.next = null;
    const page = await this.page(cursor, 1000);
    if (number !== this.asked) return;
    this.next = page.next;
    this.set(this.rows.rows.concat(page.items));
  },

  async refresh() {
    const body = this.hex ? { path_hex: this.hex } : { path: this.path };
    await ask("v1/folders/refresh", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    this.counting = true;
    await this.load();
  },
};

folders.rows.onEnd = () => { if (folders.next) folders.more().catch((error) => console.info(error.message)); };
$("refresh").addEventListener("click", () => folders.refresh().catch((error) => say(error.message)));
