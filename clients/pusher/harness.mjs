// The real server, the real Pusher libraries, what they need of a back end, and nothing that sleeps.
//
// Whatever is waited for has PATIENCE to come. That is no timing of the server: it only turns what would hang into a
// failure that says what was heard instead.

import { createHash, createHmac } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Echo from 'laravel-echo';
import PusherRest from 'pusher';
import PusherClient from 'pusher-js';
import WebSocket from 'ws';
import { program, start } from '../browser/harness.mjs';

/** Milliseconds: longer than anything here takes on a busy machine. */
const PATIENCE = 15_000;

/** The app that most tests use, and whose signatures are worked out in the protocol's description. */
export const APP = { id: '4711', key: 'demo-key-7f3a', secret: 'demo-secret-b91c' };

/** 32 times the byte 7, for encrypted channels. */
export const MASTER_KEY = Buffer.alloc(32, 7);

// Waiting

function patient(promise, complaint) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(complaint())), PATIENCE); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** What has been heard of something, in order, and a place in it up to which a test has looked. */
export class Ear {
  heard = [];
  #looked = 0;
  #ended = false;
  #wake = () => {};

  hear(item) {
    this.heard.push(item);
    this.#wake();
  }

  /** There is nothing more to come, so nobody need wait. */
  end() {
    this.#ended = true;
    this.#wake();
  }

  /** The next one that fits: a name of an event, or a function. What stands before it has then been looked at too. */
  until(wanted = () => true) {
    const fits = typeof wanted === 'string' ? (item) => item.event === wanted : wanted;
    const complaint = () => `waited for ${wanted}, heard ${JSON.stringify(this.heard).slice(0, 2000)}`;
    const look = async () => {
      for (;;) {
        while (this.#looked < this.heard.length) {
          const item = this.heard[this.#looked++];
          if (fits(item)) return item;
        }
        if (this.#ended) throw new Error(complaint());
        await new Promise((resolve) => { this.#wake = resolve; });
      }
    };
    return patient(look(), complaint);
  }

  next() {
    return this.until();
  }

  /** All that has been heard and not been looked at; now it has. */
  rest() {
    const rest = this.heard.slice(this.#looked);
    this.#looked = this.heard.length;
    return rest;
  }
}

/** Everything that one of pusher-js's objects emits. */
export function listen(source) {
  const ear = new Ear();
  source.bind_global((event, data) => ear.hear({ event, data }));
  return ear;
}

/** Resolves with the first that is emitted under this name. */
export function emitted(source, event) {
  return patient(new Promise((resolve) => {
    const heard = (data) => {
      source.unbind(event, heard);
      resolve(data);
    };
    source.bind(event, heard);
  }), () => `waited for ${event}`);
}

/** Resolves when the server has read everything that this pusher-js has sent; its `ear` has then looked so far. */
export async function settled(pusher) {
  pusher.send_event('pusher:ping', {});
  await pusher.ear.until('pusher:pong');
}

/** Subscribes pusher-js to a channel; resolves with the channel and all that it emits. */
export async function subscribe(pusher, name) {
  const channel = pusher.subscribe(name);
  const ear = listen(channel);
  await ear.until('pusher:subscription_succeeded');
  return { channel, ear };
}

// Signatures

export const sign = (secret, text) => createHmac('sha256', secret).update(text).digest('hex');

/** The token that lets a socket into a channel. */
export const channelAuth = (app, socket, channel, channelData) =>
  `${app.key}:${sign(app.secret, [socket, channel, ...(channelData === undefined ? [] : [channelData])].join(':'))}`;

/** The token that says who a socket is. */
export const userAuth = (app, socket, userData) => `${app.key}:${sign(app.secret, `${socket}::user::${userData}`)}`;

export const md5 = (bytes) => createHash('md5').update(bytes).digest('hex');

/** What is signed of a request. */
export const textToSign = (method, path, params) => {
  const pairs = Object.entries(params).map(([key, value]) => [key.toLowerCase(), value]);
  pairs.sort(([a], [b]) => (a < b ? -1 : 1));
  return [method, path, pairs.map((pair) => pair.join('=')).join('&')].join('\n');
};

/** The parameters of a signed request, of which `more` are others than they should be, or null for none. */
export function signed(app, method, path, { params = {}, body, time = Math.floor(Date.now() / 1000), ...more } = {}) {
  const all = { ...params, auth_key: app.key, auth_timestamp: String(time), auth_version: '1.0' };
  if (body !== undefined) all.body_md5 = md5(body);
  Object.assign(all, more);
  for (const [key, value] of Object.entries(all)) if (value === null) delete all[key];
  return { ...all, auth_signature: sign(app.secret, textToSign(method, path, all)) };
}

/** A token of the plain door. */
export function jwt(claims, key) {
  const text = [{ alg: 'HS256', typ: 'JWT' }, { exp: Math.floor(Date.now() / 1000) + 600, ...claims }]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  return `${text}.${createHmac('sha256', key).update(text).digest('base64url')}`;
}

// The server and what is around it

// Texts and numbers are written in TOML as in JSON.
const pair = ([key, value]) => `${key} = ${toml(value)}`;
const toml = (value) => {
  if (Array.isArray(value)) return `[${value.map(toml).join(', ')}]`;
  return typeof value === 'object' ? `{ ${Object.entries(value).map(pair).join(', ')} }` : JSON.stringify(value);
};

/** Starts the server with these apps and further lines of its configuration. */
export async function startServer({ apps = [APP], settings = '', env = {}, address = '127.0.0.1:0' } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'fanfare-'));
  const file = join(folder, 'fanfare.toml');
  const tables = apps.map((app) => ['[[apps]]', ...Object.entries(app).map(pair)]);
  writeFileSync(file, `${settings}\n${tables.flat().join('\n')}\n`);
  // The server looks at its file as long as it runs.
  const tidy = () => rmSync(folder, { recursive: true, force: true });
  const server = await start(program, ['--listen', address, '--config', file], env, /^listening on http:\/\/(.*)$/).catch((error) => {
    tidy();
    throw error;
  });
  const [host, port] = server.address.split(':');
  const stop = () => server.stop().finally(tidy);
  return { ...server, stop, host, port: Number(port), url: `http://${server.address}` };
}

/** A listening HTTP server of a test. `answer(request, body)` gives `{ status, type, body }`. */
export async function startHttp(answer) {
  const server = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const { status = 200, type = 'application/json', body = '' } = await answer(request, Buffer.concat(parts).toString());
    response.writeHead(status, { 'Content-Type': type }).end(body);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    stop() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/**
 * What the application's own endpoints answer. Who asks is not looked up but said, in the header `X-Visitor`, as
 * percent-encoded JSON: `member` (channel_data), `user` (user_data), `refused`, `secret` (to sign with another one).
 */
export function authorize(request, body, app = APP) {
  const form = new URLSearchParams(body);
  const visitor = JSON.parse(decodeURIComponent(request.headers['x-visitor'] ?? '{}'));
  if (visitor.refused) return { status: 403, body: '{"message":"no"}' };
  const rest = restOf(app, visitor.secret);
  const [socket, channel] = [form.get('socket_id'), form.get('channel_name')];
  if (channel === null) return { body: JSON.stringify(rest.authenticateUser(socket, visitor.user)) };
  const member = channel.startsWith('presence-') ? visitor.member : undefined;
  return { body: JSON.stringify(rest.authorizeChannel(socket, channel, member)) };
}

const restOf = (app, secret = app.secret, server = {}) => new PusherRest({
  appId: app.id, key: app.key, secret, host: server.host, port: server.port,
  encryptionMasterKeyBase64: MASTER_KEY.toString('base64'), timeout: PATIENCE,
});

/** Ends a pusher-js with the test. */
function endWith(t, pusher) {
  const sockets = [];
  pusher.connection.bind('connected', () => sockets.push(pusher.connection.connection.transport.socket));
  t.after(() => {
    pusher.disconnect();
    // It closes what is closed already when it is refused, and then its WebSocket would wait half a minute for an answer.
    for (const socket of sockets) clearTimeout(socket._closeTimer);
  });
}

/** Everything that the tests of one file share. */
export async function stage(options = {}) {
  const server = await startServer(options);
  const apps = options.apps ?? [APP];
  const backEnd = await startHttp((request, body) => {
    const app = apps.find(({ key }) => request.url.startsWith(`/${key}/`));
    return authorize(request, body, app);
  });

  /** The options of pusher-js and Echo for somebody. */
  const clientOptions = ({ app = APP, visitor = {}, ...more } = {}) => {
    const headers = { 'X-Visitor': encodeURIComponent(JSON.stringify(visitor)) };
    const endpoint = (name) => `${backEnd.url}/${app.key}/${name}`;
    return {
      cluster: '', wsHost: server.host, wsPort: server.port, wssPort: server.port, forceTLS: false,
      enabledTransports: ['ws', 'wss'], authEndpoint: endpoint('auth'), auth: { headers },
      userAuthentication: { endpoint: endpoint('user-auth'), headers },
      ...more,
    };
  };

  return {
    server,

    /** The back end's library. */
    rest: (app = APP, secret = app.secret) => restOf(app, secret, server),

    /** pusher-js, connecting; `ear` hears each frame, its `data` parsed. It ends with the test. */
    client(t, who = {}) {
      const pusher = new PusherClient((who.app ?? APP).key, clientOptions(who));
      endWith(t, pusher);
      pusher.ear = new Ear();
      pusher.connection.bind('message', (frame) => pusher.ear.hear(frame));
      return pusher;
    },

    /** The same, connected. */
    async connect(t, who) {
      const pusher = this.client(t, who);
      await emitted(pusher.connection, 'connected');
      return pusher;
    },

    /** Laravel Echo, connected. */
    async echo(t, { broadcaster = 'reverb', ...who } = {}) {
      const { cluster, ...more } = clientOptions(who);
      const echo = new Echo({
        broadcaster, key: (who.app ?? APP).key, Pusher: PusherClient, ...(broadcaster === 'reverb' ? {} : { cluster }), ...more,
      });
      endWith(t, echo.connector.pusher);
      await emitted(echo.connector.pusher.connection, 'connected');
      return echo;
    },

    /** A WebSocket that speaks the protocol by hand, after the server's first frame. */
    async wire(t, { app = APP, ...more } = {}) {
      const wire = openWire(t, `${server.url.replace('http', 'ws')}/app/${app.key}?protocol=7`, more);
      wire.app = app;
      wire.id = JSON.parse((await wire.ear.until('pusher:connection_established')).data).socket_id;
      return wire;
    },

    /** A request of the HTTP API, signed unless told otherwise. */
    request(method, path, { app = APP, body, headers = {}, query, ...more } = {}) {
      query ??= new URLSearchParams(signed(app, method, path, { body, ...more })).toString();
      const target = `${server.url}${encodeURI(path).replaceAll('#', '%23')}?${query}`;
      return answerOf(fetch(target, { method, body, headers: { 'Content-Type': 'application/json', ...headers } }));
    },

    async stop() {
      backEnd.stop();
      return server.stop();
    },
  };
}

async function answerOf(promise) {
  const response = await promise;
  return { status: response.status, type: response.headers.get('content-type'), headers: response.headers, text: await response.text() };
}

// Protocols by hand

/** A WebSocket. `ear` hears its frames, parsed if they are Pusher's, and its end, which `closed` is too. */
export function openWire(t, url, { plain = false, ...options } = {}) {
  const socket = new WebSocket(url, { perMessageDeflate: false, ...options });
  const ear = new Ear();
  const ended = new Promise((resolve) => {
    socket.on('close', (code, reason) => {
      ear.hear({ event: 'close', code });
      ear.end();
      resolve({ code, reason: reason.toString() });
    });
  });
  const wire = {
    socket,
    ear,
    get closed() {
      return patient(ended, () => `never closed, heard ${JSON.stringify(ear.heard).slice(0, 2000)}`);
    },

    /** Sends an event, a text, or bytes. */
    send(event, more = {}) {
      if (typeof event === 'string' || Buffer.isBuffer(event)) return socket.send(event, more);
      return socket.send(JSON.stringify(event));
    },

    /** Asks for a channel, with a good signature unless another is given, and waits for the answer. */
    async subscribe(channel, { auth, channelData } = {}) {
      const secret = /^(private|presence)-/.test(channel);
      auth ??= secret ? channelAuth(wire.app, wire.id, channel, channelData) : '';
      wire.send({ event: 'pusher:subscribe', data: { channel, auth, channel_data: channelData } });
      return ear.until((frame) => frame.channel === channel && /subscription_(succeeded|error)/.test(frame.event));
    },

    /** All frames that came before the server has read everything that was sent so far. */
    async settled() {
      const before = ear.rest();
      wire.send({ event: 'pusher:ping', data: {} });
      const from = ear.heard.length;
      await ear.until('pusher:pong');
      return [...before, ...ear.heard.slice(from, ear.heard.findIndex((frame, at) => at >= from && frame.event === 'pusher:pong'))];
    },
  };
  socket.on('error', (error) => ear.hear({ event: 'error', error: error.message }));
  socket.on('message', (bytes, isBinary) => {
    const text = bytes.toString();
    ear.hear(plain ? { text, isBinary } : { ...JSON.parse(text), text });
  });
  t.after(() => socket.terminate());
  return wire;
}

/** An event stream of the plain door, read as EventSource does. Resolves when it is open. */
export async function openStream(t, url, headers = {}) {
  const stop = new AbortController();
  t.after(() => stop.abort());
  const response = await fetch(url, { headers: { Accept: 'text/event-stream', ...headers }, signal: stop.signal });
  const ear = new Ear();
  if (response.status !== 200) return { status: response.status, ear };
  (async () => {
    let [waiting, event, data] = ['', '', []];
    for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
      const lines = (waiting + part).split('\n');
      waiting = lines.pop();
      for (const line of lines) {
        const [, field, value] = line.match(/^([^:]*):? ?(.*)$/s);
        if (line === '') {
          if (data.length) ear.hear({ event: event || 'message', data: data.join('\n') });
          [event, data] = ['', []];
        } else if (field === 'event') event = value;
        else if (field === 'data') data.push(value);
      }
    }
  })().catch(() => {});
  return { status: 200, ear };
}
