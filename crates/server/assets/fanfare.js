/* Fanfare in the browser. MIT OR Apache-2.0.

   new Fanfare("/ch/orders").onmessage = e => console.log(e.data);

   new Fanfare(url, { meta, echo, token, transports, retryMin, retryMax })
     url: relative or absolute, http(s) or ws(s). retryMin, retryMax: milliseconds.
     meta: messages also carry .id .channel .event .user; several channels ("/ch?name=a&name=b") imply it.
   Events, as on… handlers or by addEventListener:
     open
     message  .data: a string, or an ArrayBuffer if the message is binary
     gap      .channel: something was missed, reload the page's data
     error    .code .reason: 1007 or 1009, what was sent cannot be relayed; it reconnects
     close    .code .reason .final: a connection or an attempt ended; it reconnects unless final
   send(data): a promise of true if the open WebSocket took it, else of the answer {id, listeners} to a POST,
     rejected with the server's explanation. After a POST this object hears the message too.
   close(): ends it for good. transport: "websocket" or "sse", null while not connected. */
{
  const FINAL = [4400, 4401, 4403, 4404, 4410];
  const STABLE = 5000; // ms; a connection that lived longer resets the delay

  const parse = text => {
    try { return Object(JSON.parse(text)); } catch { return {}; }
  };

  globalThis.Fanfare = class extends EventTarget {
    transport = null;
    #options; #url; #meta; #transports; #connection; #timer; #openedAt;
    #done = false;
    #retries = 0;
    #failures = 0; // until something has opened; from then on the transport stays
    #everOpened = false;

    constructor(url, options = {}) {
      super();
      this.#options = { retryMin: 1000, retryMax: 30000, transports: ["websocket", "sse"], ...options };
      this.#transports = [...this.#options.transports];
      this.#url = new URL(url, globalThis.location?.href);
      const query = this.#url.searchParams;
      this.#meta = options.meta || query.get("meta") === "1" || query.getAll("name").length > 1;
      if (this.#meta) query.set("meta", 1);
      if (options.echo) query.set("echo", 1);
      if (options.token) query.set("token", options.token);
      for (const type of ["open", "message", "gap", "error", "close"]) {
        this.addEventListener(type, e => this["on" + type]?.(e));
      }
      addEventListener("online", this.#online);
      this.#connect();
    }

    async send(data) {
      if (this.#connection?.readyState === 1 && this.transport === "websocket") {
        this.#connection.send(data);
        return true;
      }
      const headers = typeof data === "string" ? {} : { "Content-Type": "application/octet-stream" };
      const response = await fetch(this.#address("http"), { method: "POST", body: data, headers });
      const answer = parse(await response.text());
      if (response.ok) return answer;
      const { status } = response;
      throw Object.assign(new Error(answer.message || "HTTP " + status), { status, error: answer.error });
    }

    close() {
      if (!this.#done) this.#lost(1000, "", true);
    }

    #address(scheme) {
      const url = new URL(this.#url);
      url.protocol = url.protocol.replace(/http|ws/, scheme);
      url.hash = "";
      return url;
    }

    #connect() {
      if (this.#transports[0] === "websocket") {
        const ws = this.#connection = new WebSocket(this.#address("ws"));
        ws.binaryType = "arraybuffer";
        ws.onopen = () => this.#open("websocket");
        ws.onmessage = e => this.#receive(e.data, this.#meta);
        ws.onclose = e => this.#lost(e.code, e.reason);
      } else {
        // Always in meta form: an EventSource is deaf to events whose names it was not told.
        const url = this.#address("http");
        url.searchParams.set("meta", 1);
        const es = this.#connection = new EventSource(url);
        es.onopen = () => this.#open("sse");
        es.onmessage = e => this.#receive(e.data, true);
        es.addEventListener("gap", e => this.#emit("gap", parse(e.data)));
        es.onerror = () => this.#streamFailed(es, url);
      }
    }

    async #streamFailed(es, url) {
      if (!es.readyState && this.#everOpened && this.#mayTry()) {
        this.transport = null; // the browser reconnects by itself, when the server told it to
        return this.#emit("close", { code: 1006, reason: "", final: false });
      }
      let code = 1006, reason = "";
      if (es.readyState === 2) { // refused, and EventSource hides why: ask
        const ask = new AbortController();
        const timer = setTimeout(() => ask.abort(), 9000);
        try {
          const response = await fetch(url, { headers: { Accept: "text/event-stream" }, signal: ask.signal });
          const answer = response.ok ? {} : parse(await response.text());
          if (answer.error) { // ours, not a proxy's
            code = 4000 + response.status;
            reason = answer.message;
          }
        } catch {}
        clearTimeout(timer);
        ask.abort();
      }
      if (this.#connection === es) this.#lost(code, reason);
    }

    #open(transport) {
      this.transport = transport;
      this.#everOpened = true;
      this.#openedAt = performance.now();
      this.#emit("open");
    }

    #receive(data, meta) {
      if (!meta || typeof data !== "string") return this.#emit("message", { data });
      const { base64, ...fields } = parse(data);
      if (fields.event === "gap" && !fields.id) return this.#emit("gap", fields);
      if (base64 !== undefined) fields.data = Uint8Array.from(atob(base64), c => c.charCodeAt(0)).buffer;
      this.#emit("message", this.#meta ? fields : { data: fields.data });
    }

    #lost(code, reason, final = FINAL.includes(code)) {
      const old = this.#connection;
      old.onopen = old.onmessage = old.onclose = old.onerror = this.#connection = this.transport = null;
      old.close();
      if (performance.now() - this.#openedAt > STABLE) this.#retries = 0;
      this.#openedAt = NaN;
      clearTimeout(this.#timer);
      if (final) {
        this.#done = true;
        removeEventListener("online", this.#online);
      } else {
        if (!this.#everOpened && ++this.#failures % 2 === 0) this.#transports.push(this.#transports.shift());
        const { retryMin, retryMax } = this.#options;
        if (this.#mayTry()) this.#retryIn(Math.min(retryMax, retryMin * 2 ** this.#retries++));
      }
      if (code === 1007 || code === 1009) this.#emit("error", { code, reason });
      this.#emit("close", { code, reason, final });
    }

    #retryIn(delay) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#connect(), delay * (1 + Math.random()) / 2);
    }

    #mayTry() { // a server on this machine needs no network
      return navigator.onLine || /^(localhost|127\.|\[::1)/.test(this.#url.hostname);
    }

    #online = () => {
      this.#retries = 0;
      if (!this.#connection) this.#retryIn(this.#options.retryMin / 4);
    };

    #emit(type, fields) {
      this.dispatchEvent(Object.assign(new Event(type), fields));
    }
  };
}
