// The try-it page. MIT OR Apache-2.0.
// Names and messages come from anyone, so they only ever become text: no innerHTML here.
"use strict";
{
  const LOG_ENTRIES_MAX = 200;
  const TEXT_SHOWN_MAX = 4000; // characters of one message; all of it is in data-text
  const BINARY_SHOWN_MAX = 64; // bytes
  const CHANNELS_MAX = 20;
  const STREAMS_MAX = 4; // a browser has six HTTP/1.1 connections to a server, and a POST needs one
  const ANSWER_MS_MAX = 10_000;
  const TRANSPORT_NAMES = { websocket: "WebSocket", sse: "SSE", poll: "Long poll" };

  // The look, before anything is drawn.

  const THEME = "fanfare-theme";
  const root = document.documentElement;
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const stored = change => { try { return change(localStorage); } catch { return null; } };
  const effectiveTheme = () => root.dataset.theme ?? (systemDark.matches ? "dark" : "light");

  function showTheme() {
    root.dataset.shows = effectiveTheme();
    const toggle = document.getElementById("theme-toggle");
    if (!toggle) return;
    toggle.title = `Use the ${effectiveTheme() === "dark" ? "light" : "dark"} theme`;
    toggle.setAttribute("aria-label", toggle.title);
  }

  function toggleTheme() {
    root.dataset.theme = effectiveTheme() === "dark" ? "light" : "dark";
    stored(storage => storage.setItem(THEME, root.dataset.theme));
    showTheme();
  }

  const wished = stored(storage => storage.getItem(THEME));
  if (wished === "dark" || wished === "light") root.dataset.theme = wished;
  systemDark.addEventListener("change", showTheme);
  showTheme();

  // Small things

  const $ = id => document.getElementById(id);

  function element(tag, { data = {}, ...properties } = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    Object.assign(made.dataset, data);
    made.append(...children);
    return made;
  }

  const plural = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
  const tint = name => `t${[...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 6007, 7) % 6}`;
  // Half of a surrogate pair has no UTF-8 form.
  const wellFormed = text => text.toWellFormed?.() ?? text;
  const nameIn = input => wellFormed(input.value.trim());
  const isOpenToTalk = name => name === "main" || name.startsWith("talk/");

  /** The URL of a channel, without origin. `.` and `..` would be resolved away in a path. */
  function channelPath(name) {
    const parts = name.split("/");
    return parts.some(part => part === "." || part === "..")
      ? `/ch?name=${encodeURIComponent(name)}`
      : `/ch/${parts.map(encodeURIComponent).join("/")}`;
  }

  function speakPath(name, event) {
    const path = channelPath(name);
    return event ? `${path}${path.includes("?") ? "&" : "?"}event=${encodeURIComponent(event)}` : path;
  }

  // Listening

  const rows = new Map(); // by channel name

  function listen(name, transport) {
    const row = rows.get(name) ?? addRow(name);
    if (!row) return;
    if (transport !== "websocket") {
      const streams = [...rows.values()].filter(other => other !== row && other.wanted && other.transport !== "websocket");
      if (streams.length >= STREAMS_MAX) {
        if (!row.fanfare) removeRow(row);
        return note(`At most ${STREAMS_MAX} SSE streams and long polls here: a browser opens six HTTP/1.1 connections to a server, and a POST needs one.`);
      }
    }
    note("");
    if (row.wanted && row.transport === transport) return row.element.querySelector("button").focus();
    disconnect(row);
    row.transport = transport;
    row.wanted = true;
    show(row, "connecting");
    const transports = transport === "websocket" ? ["websocket", "sse", "poll"] : [transport];
    const fanfare = row.fanfare = new Fanfare(channelPath(name), { meta: true, transports });
    fanfare.onopen = () => show(row, "open");
    fanfare.onmessage = enqueue;
    fanfare.ongap = () => enqueue({ note: `Something was missed on ${name}: it is no longer kept.` });
    fanfare.onerror = ({ reason, code }) => enqueue({ note: `${name}: ${reason || "what was sent could not be relayed"} (${code})` });
    fanfare.onclose = closed => {
      if (fanfare !== row.fanfare) return;
      const reason = closed.reason ? `${closed.reason} (${closed.code})` : "";
      if (closed.final) row.wanted = false;
      show(row, closed.final ? "refused" : "connecting", reason || (closed.final ? `closed (${closed.code})` : ""));
      if (reason && performance.now() - row.spokeAt < 3000) result("error", `${closed.reason}.`, ` The server closed the connection (${closed.code}).`);
    };
  }

  function disconnect(row) {
    const { fanfare } = row;
    row.wanted = false;
    row.fanfare = null;
    fanfare?.close();
    show(row, "closed");
  }

  function addRow(name) {
    if (rows.size >= CHANNELS_MAX) return note(`At most ${CHANNELS_MAX} channels here. Remove one first.`);
    const row = { name, transport: null, wanted: false, fanfare: null, spokeAt: -Infinity };
    const label = element("button", {
      type: "button", className: "channel-name", title: `Speak on ${name}`, textContent: name, dir: "auto",
      onclick: () => { $("speak-channel").value = name; refresh(); $("speak-message").focus(); },
    });
    row.state = element("span", { className: "channel-state" });
    row.toggle = element("button", {
      type: "button", className: "text-button", data: { testid: "listen-toggle" },
      onclick: () => (row.wanted ? disconnect(row) : listen(name, row.transport)),
    });
    const remove = element("button", {
      type: "button", className: "text-button remove", textContent: "×", title: "Remove", data: { testid: "listen-remove" },
      onclick: () => {
        const next = row.element.nextElementSibling ?? row.element.previousElementSibling;
        removeRow(row);
        (next?.querySelector(".remove") ?? $("listen-channel")).focus();
      },
    });
    remove.setAttribute("aria-label", `Remove ${name}`);
    row.reason = element("p", { className: "channel-reason" });
    row.element = element("li", { className: tint(name), data: { testid: "listen-row", channel: name } },
      element("span", { className: "dot" }), label, row.state, row.toggle, remove, row.reason);
    rows.set(name, row);
    $("listen-list").append(row.element);
    return row;
  }

  function removeRow(row) {
    disconnect(row);
    rows.delete(row.name);
    row.element.remove();
    note("");
    showState();
  }

  function show(row, state, reason = "") {
    const transport = row.fanfare?.transport ?? row.transport;
    const states = { open: "open", connecting: "connecting…", closed: "disconnected", refused: "closed by the server" };
    row.element.dataset.state = state;
    row.element.dataset.transport = transport ?? "";
    row.state.textContent = state === "open" || state === "connecting"
      ? `${TRANSPORT_NAMES[transport]}, ${states[state]}` : states[state];
    row.reason.textContent = reason;
    row.toggle.textContent = row.wanted ? "Disconnect" : "Connect";
    row.toggle.setAttribute("aria-label", `${row.toggle.textContent} ${row.name}`);
    showState();
  }

  function showState() {
    const wanted = [...rows.values()].filter(row => row.wanted);
    const open = wanted.filter(row => row.element.dataset.state === "open");
    const state = !wanted.length ? "closed" : open.length === wanted.length ? "open" : "connecting";
    const text = {
      closed: "Not listening",
      open: `Listening to ${plural(open.length, "channel")}`,
      connecting: wanted.length === 1 ? "Connecting…" : `${open.length} of ${wanted.length} connected`,
    }[state];
    const shown = $("state").querySelector(".state-text");
    if (shown.textContent !== text) shown.textContent = text;
    $("state").dataset.state = state;
  }

  function note(text) {
    $("listen-note").textContent = text;
  }

  // The log. Drawn in batches, so that a busy channel does not freeze the page.

  let waiting = [];
  let drawing = false;
  let heard = 0;

  function enqueue(message) {
    if (!message.note) heard++;
    message.at = new Date();
    waiting.push(message);
    if (waiting.length > LOG_ENTRIES_MAX) waiting.shift();
    if (!drawing) setTimeout(draw, 30);
    drawing = true;
  }

  function draw() {
    const log = $("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(...waiting.map(entry));
    waiting = [];
    drawing = false;
    while (log.children.length > LOG_ENTRIES_MAX) log.firstChild.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
    showCount();
  }

  function showCount() {
    const shown = $("log").getElementsByClassName("log-entry").length;
    $("log-count").textContent = heard > shown ? `${plural(heard, "message")}, the newest ${shown} shown` : heard ? plural(heard, "message") : "";
    $("log-empty").hidden = $("log").children.length > 0;
  }

  function clearLog() {
    $("log").replaceChildren();
    waiting = [];
    heard = 0;
    showCount();
  }

  function entry({ note, at, id, channel, event, user, data }) {
    if (note) return element("li", { className: "log-note", textContent: note });
    const binary = data instanceof ArrayBuffer;
    const text = binary ? hex(data) : String(data);
    const cut = text.length > TEXT_SHOWN_MAX
      ? `${text.slice(0, TEXT_SHOWN_MAX)}… (${plural(text.length - TEXT_SHOWN_MAX, "more character")})` : text;
    const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
    const meta = element("span", { className: "log-meta" },
      element("time", { textContent: time, dateTime: at.toISOString() }),
      element("bdi", { className: `log-channel ${tint(channel ?? "")}`, textContent: channel ?? "" }));
    if (event) meta.append(element("bdi", { className: "log-event", textContent: event }));
    if (user) meta.append(element("bdi", { textContent: `from ${user}` }));
    if (binary) meta.append(element("span", { textContent: `binary, ${plural(data.byteLength, "byte")}` }));
    meta.append(element("span", { className: "log-id", textContent: id ?? "" }));
    const facts = { testid: "log-entry", channel: channel ?? "", text, event: event ?? "", id: id ?? "" };
    return element("li", { className: "log-entry", data: facts }, meta,
      element("span", { className: binary ? "log-text binary" : "log-text", dir: "auto", textContent: cut }));
  }

  function hex(buffer) {
    const shown = new Uint8Array(buffer, 0, Math.min(buffer.byteLength, BINARY_SHOWN_MAX));
    const digits = Array.from(shown, byte => byte.toString(16).padStart(2, "0")).join(" ");
    return buffer.byteLength > BINARY_SHOWN_MAX ? `${digits} …` : digits;
  }

  // Speaking

  let attempts = 0;

  function result(state, strong = "", rest = "", facts = {}) {
    const shown = $("speak-result");
    for (const key of Object.keys(shown.dataset)) if (key !== "testid") delete shown.dataset[key];
    Object.assign(shown.dataset, { state, ...facts });
    shown.replaceChildren(...(strong ? [element("b", { textContent: strong }), rest] : []));
  }

  function speak() {
    const name = nameIn($("speak-channel"));
    if (!name) {
      result("error", "Name a channel.");
      return $("speak-channel").focus();
    }
    const message = wellFormed($("speak-message").value);
    return $("speak-via").value === "websocket" ? speakAsClient(name, message) : speakAsServer(name, message);
  }

  async function speakAsClient(name, message) {
    const row = rows.get(name);
    if (row?.fanfare?.transport !== "websocket") {
      return result("error", "No open WebSocket on this channel.", ` Connect to ${name} through WebSocket under “Listen” first.`);
    }
    row.spokeAt = performance.now();
    result("ok", "Sent.", " A WebSocket gets no answer, and the sender does not hear itself; all others do.");
    await row.fanfare.send(message);
  }

  async function speakAsServer(name, message) {
    const attempt = ++attempts;
    const key = $("speak-key").value;
    if (/[^\x21-\x7e]/.test(key)) return result("error", "A key has no spaces and no letters beyond ASCII.");
    const headers = { "Content-Type": "text/plain" };
    if (key) headers.Authorization = `Bearer ${key}`;
    const began = performance.now();
    let response, answer;
    try {
      response = await fetch(speakPath(name, wellFormed($("speak-event").value.trim())), {
        method: "POST", body: message, headers, signal: AbortSignal.timeout(ANSWER_MS_MAX),
      });
      answer = await response.text();
    } catch {
      if (attempt === attempts) result("error", "The server did not answer.");
      return;
    }
    if (attempt !== attempts) return;
    try { answer = Object(JSON.parse(answer)); } catch { answer = {}; }
    if (response.ok) {
      const { id = "", listeners = 0 } = answer;
      const ms = Math.max(1, Math.round(performance.now() - began));
      result("ok", listeners ? `On its way to ${plural(listeners, "listener")}.` : "Accepted; nobody is listening.",
        ` Id ${id}, answered in ${ms} ms.`, { id, listeners });
      return;
    }
    result("error", answer.message || "The server refused this.", ` (${response.status} ${answer.error ?? response.statusText})`,
      { status: response.status });
    if (response.status === 401) {
      $("speak-key-box").open = true;
      $("speak-key").focus();
    }
  }

  // Lines to copy

  const origin = location.origin;
  const shellQuoted = text => `'${text.replaceAll("'", "'\\''")}'`;
  const shellWord = text => (/^[\w%+=:,./-]+$/.test(text) ? text : shellQuoted(text));
  // JSON is JavaScript; the escape keeps a message from ending the script element it is pasted into.
  const jsQuoted = text => JSON.stringify(text).replace(/<(?=[/!s])/gi, "\\u003c");
  const phpQuoted = text => `'${text.replace(/[\\']/g, "\\$&")}'`;

  function snippets(name, event, message, keyed) {
    const url = origin + channelPath(name);
    const speakUrl = origin + speakPath(name, event);
    const ws = url.replace(/^http/, "ws");
    const say = isOpenToTalk(name)
      ? `ws.onopen = () => ws.send(${jsQuoted(message)});`
      : `// clients only listen here; your server speaks${keyed ? ", the key stays there" : ", or during development"}:\n`
        + `fetch(${jsQuoted(speakUrl)}, { method: "POST", body: ${jsQuoted(message)} });`;
    return {
      // curl reads a file when -d begins with @.
      "curl": `curl ${message.startsWith("@") ? "--data-raw" : "-d"} ${shellQuoted(message)} ${keyed ? '-H "Authorization: Bearer $FANFARE_KEY" ' : ""}${shellWord(speakUrl)}`,
      "curl-listen": `curl -N -H 'Accept: text/event-stream' ${shellWord(url)}`,
      "js": `const ws = new WebSocket(${jsQuoted(ws)});\nws.onmessage = e => console.log(e.data);\n${say}`,
      "js-sse": `const es = new EventSource(${jsQuoted(url)});\n`
        + (event ? `es.addEventListener(${jsQuoted(event)}, e => console.log(e.data));` : "es.onmessage = e => console.log(e.data);"),
      "js-helper": `<script src="${origin}/fanfare.js"></script>\n<script>\n`
        + `  new Fanfare(${jsQuoted(url)}).onmessage = e => console.log(e.data);\n</script>`,
      "php": `file_get_contents(${phpQuoted(speakUrl)}, false, stream_context_create(['http' => [\n`
        + `    'method' => 'POST', 'content' => ${phpQuoted(message)}, 'timeout' => 1,\n    'header' => `
        + (keyed ? `"Content-Type: text/plain\\r\\nAuthorization: Bearer " . getenv('FANFARE_KEY')` : "'Content-Type: text/plain'") + "]]));",
      "php-function": `function fanfare(string $channel, string $message): ?array {
    $ctx = stream_context_create(['http' => ['method' => 'POST', 'content' => $message, 'timeout' => 1,
        'ignore_errors' => true, 'header' => "Content-Type: text/plain\\r\\nAuthorization: Bearer " . getenv('FANFARE_KEY')]]);
    $r = @file_get_contents(${phpQuoted(`${origin}/ch/`)} . rawurlencode($channel), false, $ctx);
    return $r === false ? null : json_decode($r, true);
}

fanfare(${phpQuoted(name)}, ${phpQuoted(message)});`,
    };
  }

  const SHELL_STRINGS = /('[^']*'(?:\\''[^']*')*|"[^"]*")/;
  const CODE_STRINGS = /('(?:\\[^]|[^'\\])*'|"(?:\\[^]|[^"\\])*"|\/\/ .*)/;

  /** Strings and comments in colour. The text stays what it is. */
  function coloured(text, strings) {
    return text.split(strings).map((part, index) =>
      index % 2 ? element("span", { className: part.startsWith("//") ? "comment" : "string", textContent: part }) : part);
  }

  /** What follows the fields of "Speak". */
  function refresh() {
    const name = nameIn($("speak-channel")) || "main";
    const asClient = $("speak-via").value === "websocket";
    const lines = snippets(name, wellFormed($("speak-event").value.trim()), wellFormed($("speak-message").value), $("speak-key-box").open);
    for (const [which, text] of Object.entries(lines)) {
      const code = document.querySelector(`[data-testid="snippet-${which}"]`);
      if (code.textContent !== text) code.replaceChildren(...coloured(text, which.startsWith("curl") ? SHELL_STRINGS : CODE_STRINGS));
    }
    $("speak-event").disabled = asClient; // a frame carries no event name
    $("via-note").textContent = !asClient ? "Allowed on every channel. This page hears it too."
      : isOpenToTalk(name) ? "This channel is open to talk. You will not hear yourself: look at your second window."
        : "Clients may only listen here; main and talk/… are open to talk. The server will say so and close.";
  }

  async function copy(code, button, what) {
    const text = code.textContent;
    let copied = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no permission, or a page from plain http
      const area = element("textarea", { value: text, className: "visually-hidden" });
      document.body.append(area);
      area.select();
      copied = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = copied ? "Copied" : "Failed";
    $("copy-status").textContent = copied ? `Copied: ${what}` : "Copying failed; select the text instead.";
    clearTimeout(button.timer);
    button.timer = setTimeout(() => { button.textContent = "Copy"; }, 1600);
  }

  function addCopyButtons() {
    for (const figure of document.querySelectorAll("figure")) {
      const code = figure.querySelector("code");
      const tab = $(figure.parentElement.getAttribute("aria-labelledby")).textContent;
      const what = `${tab}, ${figure.querySelector("figcaption").textContent}`;
      const button = element("button", {
        type: "button", className: "text-button copy", textContent: "Copy", data: { testid: `${code.dataset.testid}-copy` },
        onclick: () => copy(code, button, what),
      });
      button.setAttribute("aria-label", `Copy ${what}`);
      figure.querySelector("figcaption").after(button);
      figure.querySelector("pre").setAttribute("aria-label", what);
    }
  }

  function choose(tab) {
    for (const other of tab.parentElement.children) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
      $(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
  }

  function onTabKey(event) {
    const tabs = [...event.currentTarget.children];
    const at = tabs.indexOf(event.target);
    const to = {
      ArrowRight: (at + 1) % tabs.length, ArrowLeft: (at + tabs.length - 1) % tabs.length, Home: 0, End: tabs.length - 1,
    }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    choose(tabs[to]);
    tabs[to].focus();
  }

  document.addEventListener("DOMContentLoaded", () => {
    showTheme();
    $("theme-toggle").onclick = toggleTheme;
    $("listen-form").onsubmit = event => {
      event.preventDefault();
      const name = nameIn($("listen-channel"));
      if (name) return void listen(name, $("listen-transport").value);
      note("Name a channel.");
      $("listen-channel").focus();
    };
    $("speak-form").onsubmit = event => {
      event.preventDefault();
      speak();
    };
    $("speak-message").onkeydown = event => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
      event.preventDefault();
      speak();
    };
    $("speak-form").oninput = refresh;
    $("speak-key-box").ontoggle = refresh;
    $("log-clear").onclick = clearLog;
    const tabs = document.querySelector("[role=tablist]");
    tabs.onclick = event => event.target.closest("[role=tab]") && choose(event.target);
    tabs.onkeydown = onTabKey;
    addCopyButtons();
    refresh();
    listen("main", "websocket");
  });
}
