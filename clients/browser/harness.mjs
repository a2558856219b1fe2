// A real server, a real browser, and nothing that sleeps.
//
// The server's program is FANFARE_BIN, else the one that `cargo build` leaves behind.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { connect, createServer } from 'node:net';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
export const repository = root;

/** Starts a program and waits for the line on its standard output that `pattern` matches. */
export async function start(program, args, env, pattern) {
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (bytes) => { errors = (errors + bytes).slice(-4000); });
  const ended = once(child, 'exit');
  const found = new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      const match = line.match(pattern);
      if (match) resolve(match[1]);
    });
    ended.then(([code]) => reject(new Error(`${program} ended with ${code}: ${errors}`)));
    child.on('error', reject);
  });
  const address = await found;
  return {
    address,
    log: () => errors,
    /** Ends it by its pid; resolves with the exit status. */
    async stop() {
      child.kill('SIGTERM');
      const [code] = await ended;
      return code;
    },
  };
}

/** The server's program. */
export const program = process.env.FANFARE_BIN ?? `${root}/target/debug/fanfare`;

/** Starts the server, on a free port if no address is given. */
export function startFanfare(env = {}, address = '127.0.0.1:0') {
  return start(program, ['--listen', address], env, /^listening on http:\/\/(.*)$/);
}

/** Starts a browser in which ws://localhost:8080 is the server at `address`, with more arguments. */
export async function launchBrowser(address, more = []) {
  // Only here, since it takes a second to load and most tests of other clients need no browser.
  const { chromium } = await import('playwright-core');
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
      ...(address ? [`--host-resolver-rules=MAP localhost:8080 ${address}`] : []), ...more,
    ],
  });
}

/** A page that remembers its console; `said(text)` resolves when that has been logged. */
export async function openPage(browser, url) {
  const page = await browser.newPage();
  const lines = [];
  const waiting = [];
  page.on('console', (message) => {
    lines.push(message.text());
    for (const wait of waiting) wait();
  });
  page.on('pageerror', (error) => lines.push(`error: ${error.message}`));
  page.lines = lines;
  page.said = (text) => new Promise((resolve) => {
    const look = () => { if (lines.includes(text)) resolve(); };
    waiting.push(look);
    look();
  });
  await page.goto(url);
  return page;
}

// The try-it page

/** A part of it. */
export const at = (page, id) => page.getByTestId(id);

/** Has it listen to a channel. */
export async function listenOn(page, channel, transport) {
  await at(page, 'listen-channel').fill(channel);
  await at(page, 'listen-transport').selectOption(transport);
  await at(page, 'listen-add').click();
  await page.waitForSelector(`[data-testid=listen-list] :text("${channel}")`);
}

/** Has it speak. */
export async function speakOn(page, channel, message, event = '') {
  await at(page, 'speak-channel').fill(channel);
  await at(page, 'speak-event').fill(event);
  await at(page, 'speak-message').fill(message);
  await at(page, 'speak-send').click();
}

/** Lines of its console that no page should have. */
export const problems = (page) => page.lines.filter((line) => /error|Content Security Policy|Mixed Content/i.test(line));

/**
 * Stands between browsers and the server at `target`, and does what networks do. `cut()` ends every
 * connection and lets no other in until `mend()`. Requests whose head matches `blocked` are answered 403.
 */
export async function startProxy(target) {
  const sockets = new Set();
  let isCut = false;
  const listener = createServer((near) => {
    if (isCut) return near.destroy();
    const [host, port] = proxy.target.split(':');
    const far = connect(Number(port), host);
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.on('error', () => {});
      one.on('close', () => { sockets.delete(one); other.destroy(); });
    }
    far.pipe(near);
    near.on('data', (bytes) => {
      const text = bytes.toString('latin1');
      if (!proxy.blocked || !/^(GET|POST) /.test(text) || !proxy.blocked.test(text)) return far.write(bytes);
      near.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
    });
  }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const cut = () => {
    isCut = true;
    for (const socket of sockets) socket.destroy();
  };
  const proxy = {
    target,
    blocked: null,
    address: `127.0.0.1:${listener.address().port}`,
    cut,
    mend() { isCut = false; },
    stop() { cut(); listener.close(); },
  };
  return proxy;
}

/** A free port of this machine. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}
