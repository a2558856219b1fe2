/* Fanfare in the browser. MIT OR Apache-2.0.

   new Fanfare("/ch/orders").onmessage = e => console.log(e.data);

   new Fanfare(url, { meta, echo, token, shared, transports, retryMin, retryMax })   the last two in milliseconds
     meta: messages also have .id .channel .event .user (always if several channels)
     echo: also hear what this object said itself
     token: a JWT, or a function that returns or promises one: it is asked before each connection and
       before the token runs out
     shared: one connection for all tabs of this origin with the same url and options, which hear each
       other; each its own if the browser cannot, this file is of another origin, or url has last= or since=
     transports: in the order to try, of "websocket", "sse", "poll"
   Events, as on… handlers or by addEventListener:
     open
     message  .data: a string, or an ArrayBuffer if the message is binary
     gap      .channel or .channels: something was missed, reload the page's data
     error    .code .reason: 1007, 1009: what was sent cannot be relayed; 1008: it came too fast and was dropped
     close    .code .reason .final: a connection or attempt ended; comes back to where it was unless final
   send(data): promises true (the open WebSocket took it) or the answer {id, listeners} to a POST; rejects
     with the server's explanation.
   close(): for good. transport: what is open, or null. */
{
  const FINAL = [4400, 4401, 4403, 4404, 4410];
  const STABLE = 5000; // ms; a connection that lived longer resets the delay
  const ANSWER = 15000; // ms until the first word of a connection: some proxies keep it to themselves
  const POLL = 25; // s
  const RETURN = 300000; // ms until a poll makes way for what has worked before
  const DENIED = 60000; // ms in which one more token is asked for after a refused one
  const script = globalThis.document?.currentScript?.src;

  const parse = text => { try { return Object(JSON.parse(text)); } catch { return {}; } };
  const claims = jwt => { // not verified: that is the server's part
    try { return parse(atob(jwt.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))); } catch { return {}; }
  };
  const randomId = () => // crypto.randomUUID needs https
    Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
  const isBehind = (id, seen) => { // numbers of two epochs say nothing about each other
    const [a, b] = [id, seen].map(id => /^(.+)-(\d+)$/.exec(id));
    return a?.[1] === b?.[1] && a && BigInt(a[2]) <= BigInt(b[2]);
  };

  globalThis.Fanfare = class Fanfare extends EventTarget {
    transport = null;

    constructor(url, options) {
      super();
      options = { transports: ["websocket", "sse", "poll"], retryMin: 1000, retryMax: 30000, ...options };
      url = new URL(url, location);
      url.hash = "";
      options.meta ||= url.searchParams.get("meta") === "1" || url.searchParams.getAll("name").length > 1;
      const emit = (type, fields) => this.dispatchEvent(Object.assign(new Event(type), fields));
      for (const type of ["open", "message", "gap", "error", "close"]) {
        this.addEventListener(type, e => this["on" + type]?.(e));
      }
      const start = () => alone(this, emit, url, options);
      if (!options.shared || !share(this, emit, url, options, start)) start();
    }
  };

  /* Its own connection. Inside it is always the meta form, for the ids, and the server is told who listens:
     so what was said here is not heard here after coming back either. */
  const alone = (self, emit, url, { meta, echo, token, transports, retryMin, retryMax }) => {
    const query = url.searchParams;
    const asks = typeof token === "function";
    let connection, timer, renewal, openedAt, deniedAt, done;
    let at = 0, best = transports.length; // places in transports: of now, and of the first that ever opened
    let failures = 0, retries = 0;
    let jwt = asks ? null : token;
    let seen = query.get("since");
    query.delete("since");
    if (echo) query.set("echo", 1); // and no session, which would never hear what it posts
    else if (!query.has("session")) query.set("session", randomId());

    const address = (scheme, more) => {
      const to = new URL(url);
      for (const [name, value] of Object.entries({ ...more, token: jwt })) if (value) to.searchParams.set(name, value);
      return to.href.replace(/^(http|ws)/, scheme);
    };
    const listening = (scheme, more) => address(scheme, { meta: 1, open: 1, since: seen, ...more });
    const request = async (wait, signal) => {
      const headers = { Accept: "application/json" };
      const response = await fetch(listening("http", { wait: String(wait) }), { headers, signal, cache: "no-store" });
      const answer = parse(await response.text());
      // What has no such form is a proxy's, and says nothing about this channel.
      if (!response.ok && answer.error) return { refusal: { code: 4000 + response.status, reason: answer.message } };
      return response.ok && answer.next ? answer : {};
    };

    const connect = async () => {
      const mine = connection = {};
      if (asks) {
        try {
          await renew();
        } catch (error) {
          if (connection === mine) lost({ code: 1006, reason: String(error?.message ?? error) });
        }
        if (connection !== mine) return;
      }
      if (transports[at] === "poll") return poll();
      timer = setTimeout(failed, ANSWER);
      try {
        if (transports[at] === "websocket") {
          connection = new WebSocket(listening("ws"));
          connection.onclose = end => (self.transport || end.code !== 1006 ? lost(end) : failed());
        } else {
          connection = new EventSource(listening("http"));
          connection.onopen = ({ target }) => { target.answered = true; };
          connection.onerror = streamFailed;
        }
        connection.onmessage = ({ data }) => take(parse(data));
      } catch { // the page's own policy
        failed();
      }
    };

    const take = ({ id, channel, channels, event, user, data, base64, message }) => {
      const mine = connection;
      if (!self.transport) {
        clearTimeout(timer);
        self.transport = transports[at];
        best = Math.min(best, at);
        failures = 0;
        openedAt = performance.now();
        emit("open");
        if (connection !== mine) return;
      }
      if (base64 !== undefined) data = Uint8Array.from(atob(base64), c => c.charCodeAt(0)).buffer;
      if (data !== undefined) {
        if (isBehind(id, seen)) return;
        seen = id;
        emit("message", meta ? { id, channel, event, user, data } : { data });
      } else { // the server's own word: a publisher's event of the same name has data
        seen = id ?? seen;
        if (event === "gap") emit("gap", { channel, channels });
        if (event === "error") emit("error", { code: 1008, reason: message });
        if (event === "open") emit("live"); // what was missed is behind us
      }
    };

    const poll = async () => {
      const mine = connection = new AbortController();
      mine.close = () => mine.abort();
      for (let wait = 0; connection === mine; wait = POLL) {
        const began = performance.now();
        timer = setTimeout(mine.close, wait * 1000 + ANSWER);
        const answer = await request(wait, mine.signal).catch(() => ({}));
        if (connection !== mine) return;
        clearTimeout(timer);
        const { next, gap, channel, channels, messages = [], refusal } = answer;
        if (!next) {
          if (!self.transport && ++failures % 2 === 0) at = (at + 1) % transports.length;
          return lost(refusal ?? { code: 1006, reason: "" });
        }
        for (const frame of [...(gap ? [{ event: "gap", channel, channels }] : []), ...messages, { event: "open", id: next }]) {
          take(frame);
          if (connection !== mine) return;
        }
        if (at > best && performance.now() - openedAt > RETURN) return lost({ code: 1006, reason: "", soon: true });
        // A server that is going away does not wait.
        if (wait && !messages.length && performance.now() - began < retryMin) {
          await new Promise(go => { timer = setTimeout(go, retryMin); });
        }
      }
    };

    /* An attempt without an answer. Whether it is the way or the server, only a request can tell: a server
       that is being started anew is no reason for another way. */
    const failed = async () => {
      const mine = connection;
      const end = { code: 1006, reason: "" };
      silence();
      const again = ++failures % 2 === 0;
      if (again || transports[at] === "sse") { // an event stream hides why it was refused
        const { next, refusal } = await request(0, AbortSignal.timeout(ANSWER)).catch(() => ({}));
        if (connection !== mine) return;
        if (next && again) at = (at + 1) % transports.length;
        Object.assign(end, refusal);
      }
      lost(end);
    };

    const streamFailed = ({ target }) => {
      if (target.readyState === EventSource.CLOSED || !target.answered) return failed();
      // It comes back by itself, when told, unless a fresh token or a better way is wanted.
      const end = { code: 1006, reason: "", final: false };
      if (asks || at > best || !reachable()) return lost({ ...end, soon: claims(jwt).exp * 1000 <= Date.now() + 1000 });
      if (self.transport) {
        self.transport = null;
        emit("close", end);
      }
    };

    const silence = () => {
      clearTimeout(timer);
      clearTimeout(renewal);
      const old = connection ?? {};
      old.onopen = old.onmessage = old.onclose = old.onerror = null;
      old.close?.();
    };

    const lost = ({ code, reason, final = FINAL.includes(code), soon }) => {
      const now = performance.now();
      silence();
      if (self.transport) {
        at = best;
        if (now - openedAt > STABLE) retries = 0;
      }
      connection = self.transport = null;
      if (code === 4401 && asks && !(now - deniedAt < DENIED)) {
        deniedAt = now;
        final = false;
        soon = true;
      }
      done = final;
      if (final) removeEventListener("online", online);
      retry(soon ? 0 : Math.min(retryMax, retryMin * 2 ** retries++));
      if (code === 4416) {
        seen = null;
        emit("gap", {});
      }
      if (code === 1007 || code === 1009) emit("error", { code, reason });
      if (done === final) emit("close", { code, reason, final });
    };

    const renew = async () => {
      try {
        jwt = await token();
      } finally {
        const left = claims(jwt).exp * 1000 - Date.now();
        clearTimeout(renewal);
        if (left > 0 && !done) renewal = setTimeout(refresh, Math.max(1000, Math.min(left * 0.8, left - 10000, 2 ** 31 - 1)));
      }
    };
    const refresh = async () => {
      const mine = connection;
      if (!mine) return;
      await renew().catch(() => {}); // tried again; and who comes too late is told 4401, and asks
      if (connection === mine && jwt && self.transport === "websocket") mine.send(JSON.stringify({ token: jwt }));
    };

    const reachable = () => navigator.onLine || /^(localhost$|127\.|\[::1)/.test(url.hostname); // needs no network
    const retry = delay => {
      clearTimeout(timer);
      if (!done && reachable()) timer = setTimeout(connect, delay * (1 + Math.random()) / 2);
    };
    const online = () => {
      retries = 0;
      if (!connection) retry(retryMin / 4);
    };

    self.close = () => done || lost({ code: 1000, reason: "", final: true });

    self.send = async data => {
      const isText = typeof data === "string";
      // As a frame, a text of this form would be taken for a fresh token.
      const isToken = isText && jwt && Object.keys(parse(data)).join() === "token";
      if (self.transport === "websocket" && connection.readyState === 1 && !isToken) {
        connection.send(data);
        return true;
      }
      const headers = isText ? {} : { "Content-Type": "application/octet-stream" };
      const response = await fetch(address("http"), { method: "POST", body: data, headers });
      const { ok, status } = response, answer = parse(await response.text());
      if (!ok) throw Object.assign(new Error(answer.message || "HTTP " + status), { status });
      return answer;
    };

    addEventListener("online", online);
    connect();
  };

  /* The tab's side of a shared connection. The tab holds a lock as long as it lives, and the worker waits for
     it: nothing else tells reliably that a tab is gone. False if this cannot be. */
  const share = (self, emit, url, { meta, echo, token, transports, retryMin, retryMax }, start) => {
    if (!globalThis.SharedWorker || !navigator.locks || !script || /[?&](last|since)=/.test(url.search)) return false;
    const asks = typeof token === "function";
    const options = { echo, token: asks || token, transports, retryMin, retryMax };
    const lock = "fanfare " + randomId();
    const sent = new Map();
    let port, release, welcome, isIn, done, count = 0;
    const answered = new Promise(go => { welcome = go; });

    const leave = () => {
      done = true;
      self.transport = null;
      release?.();
      port.close();
      for (const [, reject] of sent.values()) reject(new Error("closed"));
    };
    const goAlone = () => {
      if (isIn || done) return;
      leave();
      start();
      welcome();
    };

    try {
      const worker = new SharedWorker(script, JSON.stringify(["fanfare", 1, url, { ...options, meta }]));
      worker.onerror = goAlone;
      port = worker.port;
    } catch {
      return false;
    }
    port.onmessage = async ({ data: { ask, number, answer, error, type, fields, transport } }) => {
      if (done) return;
      if (ask) {
        const reply = await (async () => token())().then(token => ({ token }), error => ({ error: String(error?.message ?? error) }));
        return port.postMessage({ reply });
      }
      if (number) {
        const [resolve, reject] = sent.get(number);
        sent.delete(number);
        return error ? reject(Object.assign(new Error(error.message), error)) : resolve(answer);
      }
      isIn = true;
      welcome();
      if (fields?.final) leave();
      else self.transport = transport;
      if (type) emit(type, type === "message" && !meta ? { data: fields.data } : fields);
    };
    navigator.locks.request(lock, () => new Promise(go => {
      release = go;
      if (done) go();
      else port.postMessage({ join: lock });
    })).catch(goAlone);

    self.close = () => {
      if (done) return;
      leave();
      emit("close", { code: 1000, reason: "", final: true });
    };
    const send = self.send = async data => {
      if (data instanceof Blob) data = await data.arrayBuffer();
      await answered;
      if (self.send !== send) return self.send(data);
      return new Promise((resolve, reject) => {
        sent.set(++count, [resolve, reject]);
        port.postMessage({ number: count, data });
      });
    };
    return true;
  };

  /* The worker's side. It hears its own words, since the other tabs shall; the tab that said something is
     known by what comes back. */
  const serve = (url, options) => {
    const ports = new Set();
    let shared, asked, said = [];
    const ask = () => [...ports].at(-1)?.postMessage({ ask: true });
    const key = data => (typeof data === "string" ? data.toWellFormed?.() ?? data
      : "\0" + new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength));

    const begin = () => {
      const token = options.token === true ? () => new Promise((...settle) => { asked = settle; ask(); }) : options.token;
      const mine = shared = new Fanfare(url, { ...options, meta: true, echo: true, token });
      for (const type of ["open", "message", "gap", "error", "close"]) {
        mine.addEventListener(type, event => {
          const { isTrusted, ...fields } = event;
          let speaker;
          if (type === "message" && said.length && !options.echo) {
            const own = said.findIndex(({ text }) => text === key(fields.data));
            if (own >= 0) [{ port: speaker }] = said.splice(own, 1);
          }
          if (type === "gap") said = [];
          if (type === "close") for (const one of said) one.isOld = true;
          for (const port of ports) if (port !== speaker) port.postMessage({ type, fields, transport: mine.transport });
          if (fields.final) {
            ports.clear();
            shared = null;
          }
        });
      }
      // What was said before and has not come back by now never arrived.
      mine.addEventListener("live", () => { said = said.filter(one => !one.isOld); });
    };

    globalThis.onconnect = ({ ports: [port] }) => {
      port.onmessage = async ({ data: { join, reply, number, data } }) => {
        if (join) {
          ports.add(port);
          if (!shared) begin();
          port.postMessage({ type: shared.transport && "open", transport: shared.transport });
          await navigator.locks.request(join, () => {});
          ports.delete(port);
          if (!ports.size) shared?.close();
          else if (asked) ask();
        } else if (reply) {
          const [resolve, reject] = asked ?? [];
          asked = null;
          reply.error ? reject?.(new Error(reply.error)) : resolve?.(reply.token);
        } else {
          const one = { text: key(data), port };
          said.push(one);
          try {
            port.postMessage({ number, answer: await shared.send(data) });
          } catch ({ message, status }) {
            said = said.filter(other => other !== one);
            port.postMessage({ number, error: { message, status } });
          }
        }
      };
    };
  };

  // Only in a worker of our own, not in one of the page's that uses this file.
  if (globalThis.SharedWorkerGlobalScope && name.startsWith('["fanfare",1,')) serve(...JSON.parse(name).slice(2));
}
