/* Fanfare in the browser. MIT OR Apache-2.0.

   new Fanfare("/ch/orders").onmessage = e => console.log(e.data);

   new Fanfare(url, { meta, echo, token, transports, retryMin, retryMax })   the last two in milliseconds
     meta: messages also have .id .channel .event .user (always if several channels)
   Events, as on… handlers or by addEventListener:
     open
     message  .data: a string, or an ArrayBuffer if the message is binary
     gap      .channel: something was missed, reload the page's data
     error    .code .reason: 1007, 1009: what was sent cannot be relayed
     close    .code .reason .final: a connection or attempt ended; reconnects unless final
   send(data): promises true (the open WebSocket took it) or the answer {id, listeners} to a POST, which
     this object hears too; rejects with the server's explanation.
   close(): for good. transport: "websocket" or "sse", or null. */
{
  const FINAL = [4400, 4401, 4403, 4404, 4410];
  const STABLE = 5000; // ms; a connection that lived longer resets the delay
  const parse = text => { try { return Object(JSON.parse(text)); } catch { return {}; } };

  globalThis.Fanfare = class Fanfare extends EventTarget {
    transport = null;

    constructor(url, options) {
      super();
      let { meta, echo, token, transports, retryMin, retryMax } =
        { transports: ["websocket", "sse"], retryMin: 1000, retryMax: 30000, ...options };
      let connection, timer, openedAt, everOpened, done, failures = 0, retries = 0;

      url = new URL(url, location);
      const query = url.searchParams;
      const inMeta = () => query.get("meta") === "1";
      meta ||= inMeta() || query.getAll("name").length > 1;
      if (meta) query.set("meta", 1);
      if (echo) query.set("echo", 1);
      if (token) query.set("token", token);
      const address = scheme => url.href.replace(/^(http|ws)/, scheme).replace(/#.*/, "");

      const emit = (type, fields) => this.dispatchEvent(Object.assign(new Event(type), fields));
      for (const type of ["open", "message", "gap", "error", "close"]) {
        this.addEventListener(type, e => this["on" + type]?.(e));
      }

      const connect = () => {
        const [transport] = transports;
        if (transport === "websocket") {
          connection = new WebSocket(address("ws"));
          connection.binaryType = "arraybuffer";
          connection.onclose = lost;
        } else {
          query.set("meta", 1); // it is deaf to events whose names it does not know
          connection = new EventSource(address("http"));
          connection.onerror = streamFailed;
        }
        connection.onopen = () => {
          this.transport = transport;
          everOpened = true;
          openedAt = performance.now();
          emit("open");
        };
        connection.onmessage = ({ data }) => {
          if (!inMeta() || typeof data !== "string") return emit("message", { data });
          const { id, channel, event, user, base64, data: text } = parse(data);
          if (event === "gap" && !id) return emit("gap", { channel });
          data = text ?? Uint8Array.from(atob(base64 ?? ""), c => c.charCodeAt(0)).buffer;
          emit("message", meta ? { id, channel, event, user, data } : { data });
        };
      };

      const lost = ({ code, reason, final = FINAL.includes(code) }) => {
        const old = connection ?? {};
        old.onopen = old.onmessage = old.onclose = old.onerror = connection = this.transport = null;
        old.close?.();
        if (performance.now() - openedAt > STABLE) retries = 0;
        openedAt = NaN;
        if (!everOpened && ++failures % 2 === 0) transports = [...transports.slice(1), transports[0]];
        done = final;
        if (final) removeEventListener("online", online);
        retry(Math.min(retryMax, retryMin * 2 ** retries++));
        if (code === 1007 || code === 1009) emit("error", { code, reason });
        emit("close", { code, reason, final });
      };

      const streamFailed = async ({ target }) => {
        const end = { code: 1006, reason: "" };
        if (target.readyState === EventSource.CLOSED) { // it hides why: ask
          try {
            const headers = { Accept: "text/event-stream" };
            const response = await fetch(target.url, { headers, signal: AbortSignal.timeout(9000) });
            if (response.ok) response.body.cancel();
            else {
              const { error, message } = parse(await response.text());
              if (error) Object.assign(end, { code: 4000 + response.status, reason: message }); // not a proxy's
            }
          } catch {}
        } else if (everOpened && reachable()) { // it comes back by itself, when told
          this.transport = null;
          return emit("close", { ...end, final: false });
        }
        if (connection === target) lost(end);
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

      this.close = () => done || lost({ code: 1000, reason: "", final: true });

      this.send = async data => {
        if (this.transport === "websocket" && connection.readyState === 1) {
          connection.send(data);
          return true;
        }
        const headers = typeof data === "string" ? {} : { "Content-Type": "application/octet-stream" };
        const response = await fetch(address("http"), { method: "POST", body: data, headers });
        const { ok, status } = response, answer = parse(await response.text());
        if (!ok) throw Object.assign(new Error(answer.message || "HTTP " + status), { status });
        return answer;
      };

      addEventListener("online", online);
      connect();
    }
  };
}
