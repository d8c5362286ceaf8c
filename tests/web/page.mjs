// The page of a real mount in a real Chromium. Run by `scripts/suite web`.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { existsSync, mkdirSync, readFileSync, readdirSync, unlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { after, before, test } from "node:test";

const { COMMITFS, MODULES, TEST_EXPORT: EXPORT, TEST_MNT: MNT, TEST_STATE: STATE } = process.env;
const { chromium } = createRequire(MODULES + "/")("playwright-core");
const ROWS = 10_000;
const TOKEN = "a-token-of-the-tests", TOKEN_FILE = STATE + ".token";
const SHOWN = { Authorization: "Bearer " + TOKEN };
let daemon, port, browser, page;
const complaints = [], free = [];

const freePort = () => new Promise((done) => {
  const server = createServer().listen(0, "127.0.0.1", () => { const { port } = server.address(); server.close(() => done(port)); });
});

// Far longer than anything should take.
async function eventually(what, condition) {
  for (const end = Date.now() + 60_000; Date.now() < end;) {
    try { if (await condition()) return; } catch (error) { if (error instanceof assert.AssertionError) throw error; }
    await new Promise((done) => setTimeout(done, 50));
  }
  assert.fail("did not happen: " + what);
}

async function serve(more = ["--admin-token-file", TOKEN_FILE]) {
  daemon = spawn(COMMITFS, ["mount", "-f", "--state-dir", STATE, "--admin", "127.0.0.1:" + port, ...more, "-o", "retain=1h,reap_backoff=2ms", EXPORT, MNT], { stdio: ["ignore", "ignore", "inherit"] });
  await eventually("it serves", async () => (await fetch(`http://127.0.0.1:${port}/v1/status`, { headers: SHOWN })).ok);
}

async function stop() {
  const ended = new Promise((done) => daemon.once("exit", done));
  daemon.kill("SIGTERM");
  assert.equal(await ended, 0);
}

// A process of its own that holds a file open until it is told.
function writer(name, text) {
  const shell = spawn("sh", ["-c", `exec 3>"$1"; printf %s "$2" >&3; read -r go; exec 3>&-`, "sh", `${MNT}/${name}`, text], { stdio: ["pipe", "ignore", "inherit"] });
  const ended = new Promise((done) => shell.once("exit", done));
  return { close: () => { shell.stdin.end("go\n"); return ended; }, kill: () => { shell.kill("SIGKILL"); return ended; } };
}

const row = (table, text) => page.locator(`#${table} tbody tr`).filter({ hasText: text });
const api = async (target, options) => (await fetch(`http://127.0.0.1:${port}/v1/${target}`, { headers: SHOWN, ...options })).json();
const status = () => api("status");
const cli = (...args) => execFileSync(COMMITFS, [...args, "--state-dir", STATE], { encoding: "utf8" });

before(async () => {
  port = await freePort();
  writeFileSync(TOKEN_FILE, TOKEN, { mode: 0o600 });
  await serve();
  browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  page = await browser.newPage({ extraHTTPHeaders: SHOWN });
  page.setDefaultTimeout(60_000);
  page.on("console", (message) => { if (message.type() === "error") complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(`http://127.0.0.1:${port}/`);
  await page.locator("#link.live").waitFor();
});

after(async () => {
  await browser?.close();
  free.forEach((letGo) => letGo());
  if (daemon?.exitCode === null) await stop();
});

test("nothing but its own files may run", async () => {
  const answer = await fetch(`http://127.0.0.1:${port}/`, { headers: SHOWN });
  const policy = answer.headers.get("content-security-policy");
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe/);
  const blocked = await page.evaluate(() => new Promise((done) => {
    document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective), { once: true });
    const script = document.createElement("script");
    script.textContent = "window.injected = true";
    document.head.append(script);
  }));
  assert.match(blocked, /script-src/);
  assert.equal(await page.evaluate(() => window.injected), undefined);
  complaints.length = 0;
});

test("a draft appears, and turns into a commit", async () => {
  const before = (await status()).commits;
  const one = writer("report <b>&x.csv", "12345");
  await row("pending", "report <b>&x.csv").waitFor();
  assert.match(await row("pending", "report").textContent(), /sh \d+/);
  await eventually("its size is shown", async () => /5 B/.test(await row("pending", "report").textContent()));
  await one.close();
  await row("commits", "report <b>&x.csv").waitFor();
  await row("pending", "report").waitFor({ state: "detached" });
  await eventually("it is counted", async () => Number(await page.locator("#n-commits").textContent()) > before);
  await page.locator("#rate rect").first().waitFor({ state: "attached" });
  assert.match(await page.locator("#rate").getAttribute("aria-label"), /at most/);
});

test("a killed writer's draft is discarded, or published, after a question", async () => {
  for (const name of ["lost", "saved"]) {
    const one = writer(name, "content of the killed");
    await row("pending", name).waitFor();
    await one.kill();
    await row("quarantine", name).waitFor();
  }
  assert.match(await row("quarantine", "lost").textContent(), /signal 9/);
  const dialog = page.locator("#confirm");
  await row("quarantine", "lost").getByRole("button", { name: "discard" }).click();
  assert.match(await dialog.textContent(), /lost/);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "hidden" });
  assert.equal((await status()).quarantined, 2, "cancelled is cancelled");
  await row("quarantine", "lost").getByRole("button", { name: "discard" }).click();
  await page.locator("#confirm-yes").click();
  await row("quarantine", "lost").waitFor({ state: "detached" });
  // By keyboard alone.
  await row("quarantine", "saved").getByRole("button", { name: "publish" }).focus();
  await page.keyboard.press("Enter");
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.equal((await status()).quarantined, 1);
  await row("quarantine", "saved").getByRole("button", { name: "publish" }).focus();
  await page.keyboard.press("Enter");
  await dialog.waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await row("quarantine", "saved").waitFor({ state: "detached" });
  assert.equal(readFileSync(MNT + "/saved", "utf8"), "content of the killed");
  await eventually("it says so", async () => /published/.test(await page.locator("#said").textContent()));
});

// A file that is unlinked and then cannot be removed: a dead letter.
async function stuck(name) {
  await writer(name, "1234567").close();
  unlinkSync(`${MNT}/${name}`);
  let letter;
  await eventually("its row", async () => (letter = (await api("outbox?path=/" + name)).items[0]));
  const [instance] = readdirSync(EXPORT + "/.commitfs/trash");
  const file = `${EXPORT}/.commitfs/trash/${instance}/${letter.stage}`;
  execFileSync("chattr", ["+i", file]);
  free.push(() => { if (existsSync(file)) execFileSync("chattr", ["-i", file]); });
  await api(`trash/${letter.id}/purge`, { method: "POST" });
  return { file, id: letter.id, letGo: free.at(-1) };
}

test("dead letters are tried again, or dropped, after a question", async () => {
  await page.locator("#dead").getByText("No dead letters").waitFor();
  const [one, two, three] = [await stuck("stuck-1"), await stuck("stuck-2"), await stuck("stuck-3")];
  for (const name of ["stuck-1", "stuck-2", "stuck-3"]) await row("dead", name).waitFor();
  assert.match(await row("dead", "stuck-1").textContent(), /not permitted.*8 attempts.*7 B/);
  await eventually("they are counted", async () => await page.locator("#n-dead").textContent() === "3");
  const dialog = page.locator("#confirm");
  await row("dead", "stuck-1").getByRole("button", { name: "drop" }).click();
  assert.match(await dialog.textContent(), /stuck-1/);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "hidden" });
  assert.equal((await status()).outbox_dead, 3, "cancelled is cancelled");
  await row("dead", "stuck-1").getByRole("button", { name: "drop" }).click();
  await page.locator("#confirm-yes").click();
  await row("dead", "stuck-1").waitFor({ state: "detached" });
  assert.equal((await api("outbox?state=dropped")).items[0].id, one.id);
  assert.ok(existsSync(one.file), "what is dropped stays where it is");
  // By keyboard alone.
  two.letGo();
  await row("dead", "stuck-2").getByRole("button", { name: "retry" }).focus();
  await page.keyboard.press("Enter");
  await dialog.waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await row("dead", "stuck-2").waitFor({ state: "detached" });
  await eventually("it is removed", () => !existsSync(two.file));
  // Decided about elsewhere.
  three.letGo();
  cli("outbox", "retry", String(three.id));
  await row("dead", "stuck-3").waitFor({ state: "detached" });
  await eventually("none is counted", async () => await page.locator("#n-dead").textContent() === "0");
});

test("folders are gone down into, live, and counted again", async () => {
  mkdirSync(MNT + "/sizes/large/deep", { recursive: true });
  mkdirSync(MNT + "/sizes/small");
  await writer("sizes/large/deep/f", "x".repeat(3000)).close();
  await writer("sizes/small/f", "x".repeat(1000)).close();
  const into = (name) => row("folders", name).getByRole("button", { name }).click();
  const sum = page.locator("#folder-sum");
  await row("folders", "sizes").waitFor();
  await eventually("its sum", async () => /3\.9 KiB/.test(await row("folders", "sizes").textContent()));
  await into("sizes");
  await eventually("both, the largest first", async () => (await page.locator("#folders tbody tr").allTextContents()).map((text) => text.slice(0, 5)).join() === "large,small");
  assert.equal(await row("folders", "large").locator("meter").getAttribute("aria-label"), "large: 75.0 % of sizes");
  assert.match(await sum.textContent(), /3\.9 KiB in 2 files and 3 folders, 0 B of it here, as of \d/);
  // Live.
  await writer("sizes/small/g", "x".repeat(9000)).close();
  await eventually("small has become the largest", async () => /^small/.test(await page.locator("#folders tbody tr").first().textContent()));
  // From outside, which only counting finds; by keyboard.
  writeFileSync(EXPORT + "/sizes/large/outside", "x".repeat(20_000));
  await page.getByRole("button", { name: "Count again" }).focus();
  await page.keyboard.press("Enter");
  await eventually("it was found", async () => /^large.*22\.5 KiB/.test(await page.locator("#folders tbody tr").first().textContent()));
  await into("large");
  await row("folders", "deep").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-current")), "page", "the way back is under the fingers");
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await row("folders", "small").waitFor();
  await into("large");
  await row("folders", "deep").waitFor();
  // It goes away while it is looked at.
  cli("rm", "-r", "sizes/large");
  await row("folders", "small").waitFor();
  await page.locator("#crumbs").getByRole("button", { name: "mount" }).click();
  await row("folders", "sizes").waitFor();
});

test("published versions are found by a part of their path", async () => {
  await writer("needle", "x").close();
  await row("commits", "needle").waitFor();
  await page.getByLabel("Path contains").fill("eedl");
  await eventually("only the needle is left", async () => await page.locator("#commits tbody tr").count() === 1);
  await page.getByLabel("Path contains").fill("");
  await row("commits", "report").waitFor();
});

test("names and commands are shown, and nothing else is done with them", async () => {
  const evil = `<img src=x onerror="window.injected = 1">`;
  // A file name, and the name that a process gives itself.
  const shell = spawn("sh", ["-c", `printf '<u>u</u>' >/proc/$$/comm; exec 3>"$1"; read -r go; exec 3>&-`, "sh", `${MNT}/${evil}\n\u202etxt`], { stdio: ["pipe", "ignore", "inherit"] });
  const ended = new Promise((done) => shell.once("exit", done));
  await row("pending", evil).waitFor();
  assert.match(await row("pending", evil).textContent(), /\\u000a\\u202etxt.*<u>u<\/u> \d/);
  shell.stdin.end("go\n");
  await ended;
  await row("commits", evil).waitFor();
  // Bytes that are no text: shown as far as they are, gone down into by what they are.
  const bytes = (...parts) => Buffer.concat(parts.map((part) => Buffer.from(part)));
  const folder = bytes(MNT, "/odd<b>", [0xff, 0xfe, 10]);
  mkdirSync(folder);
  writeFileSync(bytes(folder, "/inner", [0xff]), "12345");
  await row("commits", "odd<b>").waitFor();
  await row("folders", "odd<b>").getByRole("button", { name: "odd<b>" }).click();
  await eventually("its sum", async () => /^5 B in 1 files/.test(await page.locator("#folder-sum").textContent()));
  await page.locator("#crumbs").getByRole("button", { name: "mount" }).click();
  assert.equal(await page.evaluate(() => window.injected), undefined);
  assert.equal(await page.locator("main img, main u, main b").count(), 0);
});

test("a browser with another clock shows the same", async () => {
  for (const off of [-3_600_000, 3_600_000]) {
    const other = await browser.newPage({ extraHTTPHeaders: SHOWN });
    await other.addInitScript(`{ const real = Date.now; Date.now = () => real() + ${off}; }`);
    await other.goto(`http://127.0.0.1:${port}/`);
    await other.locator("#link.live").waitFor();
    const name = `at-another-time${off}`;
    await writer(name, "x").close();
    const there = other.locator("#commits tbody tr").filter({ hasText: name });
    await there.waitFor();
    assert.match(await there.locator("td").nth(4).textContent(), /^\d+ s$/);
    await eventually("the last seconds are charted", async () => await other.locator("#rate rect").count() > 0);
    await other.close();
  }
});

test("a restart of the daemon is survived", async () => {
  await stop();
  await eventually("it says that there is no connection", async () => /no connection/.test(await page.locator("#link").textContent()));
  await serve();
  await page.locator("#link.live").waitFor();
  const one = writer("after-the-restart", "x");
  await row("pending", "after-the-restart").waitFor();
  await one.close();
  await row("commits", "after-the-restart").waitFor();
});

test("ten thousand rows", async () => {
  await stop();
  execFileSync("python3", ["-c", `
import sqlite3
db = sqlite3.connect("${STATE}/journal.sqlite")
first = db.execute("SELECT max(id) FROM drafts").fetchone()[0] + 1000
event = db.execute("SELECT max(id) FROM events").fetchone()[0]
def begin(n, state, path, at, reason):
    db.execute("INSERT INTO drafts (id, state, path, stage, ino, kind, uid, gid, pid, command, bytes, begun_at, changed_at, event, reason, kept)"
               " VALUES (?, ?, ?, 's', 1, 'new', 0, 0, 1, 'cp', 7, 0, 0, ?, ?, 0)", (n, state, path, at, reason))
for n in range(${ROWS}):
    begin(first + n, "quarantined", b"many/%d" % n, event, "many")
# More commits than one page of a search looks at, all newer than those of the tests before.
first += ${ROWS}
for n in range(${3 * ROWS}):
    begin(first + n, "open", b"newer/%d" % n, event + 1 + n, None)
    db.execute("INSERT INTO commits (id, path, ino, size, mtime, uid, at, duration_us, kind) VALUES (?, ?, 1, 7, 0, 0, 0, 0, 'new')", (first + n, b"newer/%d" % n))
db.execute("UPDATE drafts SET state = 'committed' WHERE id >= ?", (first,))
db.execute("INSERT INTO events (id, at, kind, commits) SELECT ?, at, 'begun', commits FROM events WHERE id = ?", (event + ${3 * ROWS}, event))
db.commit()
`]);
  await serve();
  await page.locator(`#quarantine[data-count="${ROWS}"]`).waitFor();
  assert.ok(await page.locator("#quarantine tr").count() < 200, "only those in sight are in the document");
  await page.locator("#quarantine").evaluate((box) => { box.scrollTop = box.scrollHeight; });
  await row("quarantine", `many/${ROWS - 1}`).waitFor();
  await page.locator("#quarantine").focus();
  await page.keyboard.press("Home");
  await row("quarantine", "many/0").first().waitFor();
  const one = writer("still-live", "x");
  await row("pending", "still-live").waitFor();
  await one.close();
});

test("what is found far back is found, and what is not is said so", async () => {
  const contains = page.getByLabel("Path contains");
  await contains.fill("eedl");
  await row("commits", "needle").waitFor();
  await contains.fill("no such thing");
  await page.locator("#commits").getByText("Nothing found").waitFor();
  await contains.fill("");
  await row("commits", "still-live").waitFor();
});

test("ten thousand folders", async () => {
  for (let n = 0; n < ROWS; n += 1) mkdirSync(`${EXPORT}/many-folders/n${n}`, { recursive: true });
  await page.getByRole("button", { name: "Count again" }).click();
  await row("folders", "many-folders").getByRole("button", { name: "many-folders" }).click();
  await eventually("all are counted", async () => new RegExp(`and ${ROWS} folders`).test(await page.locator("#folder-sum").textContent()));
  assert.ok(await page.locator("#folders tr").count() < 200, "only those in sight are in the document");
  await eventually("the last one comes into sight", async () => {
    await page.locator("#folders").evaluate((box) => { box.scrollTop = box.scrollHeight; });
    return await page.locator(`#folders[data-count="${ROWS}"]`).count() === 1 && await row("folders", "n9999").count() === 1;
  });
  const one = writer("live-all-the-same", "x");
  await row("pending", "live-all-the-same").waitFor();
  await one.close();
  await row("commits", "live-all-the-same").waitFor();
});

test("light and dark", async () => {
  const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.emulateMedia({ colorScheme: "light" });
  const light = await back();
  await page.emulateMedia({ colorScheme: "dark" });
  assert.notEqual(await back(), light);
});

test("on a narrow screen nothing is cut off", async () => {
  const narrow = await browser.newPage({ extraHTTPHeaders: SHOWN, viewport: { width: 390, height: 800 } });
  await narrow.goto(`http://127.0.0.1:${port}/`);
  const path = narrow.locator("#commits tbody tr td").nth(1);
  await path.waitFor();
  assert.ok((await path.boundingBox()).width > 100, "the path has room, in a box that scrolls");
  assert.ok(await narrow.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "the page itself does not");
  await narrow.close();
});

test("without a token it only looks, and says why", async () => {
  assert.equal(await page.locator("#refused").textContent(), "");
  await stop();
  await serve([]);
  const other = await browser.newPage();
  await other.goto(`http://127.0.0.1:${port}/`);
  await other.locator("#refused").getByText("admin_token_file").waitFor();
  const there = other.locator("#quarantine tbody tr").filter({ hasText: "many/0" }).first();
  const discard = there.getByRole("button", { name: "discard" });
  await discard.waitFor();
  for (const button of [discard, other.getByRole("button", { name: "Count again" })]) {
    assert.ok(await button.isDisabled());
    assert.match(await button.getAttribute("title"), /admin_token_file/);
  }
  assert.equal(await there.getByText("save").count(), 0, "contents are not shown either");
  await other.close();
});

test("the browser has had nothing to complain about", () => {
  const network = /Failed to load resource|ERR_CONNECTION|ERR_INCOMPLETE_CHUNKED/;
  assert.deepEqual(complaints.filter((text) => !network.test(text)), []);
});
