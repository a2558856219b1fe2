// permessage-deflate with a real browser as the other side: what it agrees to, what it compresses
// and what it makes of ours.

import test from 'node:test';
import assert from 'node:assert/strict';
import { launchBrowser, openPage, startFanfare } from './harness.mjs';

const agreed = 'permessage-deflate; server_no_context_takeover; client_no_context_takeover';

/** Each message goes from one WebSocket of a page to another, and by POST to both. */
async function exchange(page) {
  return page.evaluate(async () => {
    const open = (path) => new Promise((resolve, reject) => {
      const socket = new WebSocket(`ws://${location.host}${path}`);
      socket.binaryType = 'arraybuffer';
      const said = [];
      const waiting = [];
      socket.onmessage = ({ data }) => (waiting.length ? waiting.shift()(data) : said.push(data));
      socket.onclose = ({ code, reason }) => reject(new Error(`${code} ${reason}`));
      socket.hear = () => (said.length ? said.shift() : new Promise((resolve) => waiting.push(resolve)));
      socket.onopen = () => resolve(socket);
    });
    const same = (a, b) => {
      if (typeof a === 'string' || typeof b === 'string') return a === b;
      const [x, y] = [new Uint8Array(a), new Uint8Array(b)];
      return x.length === y.length && x.every((byte, place) => byte === y[place]);
    };
    const noise = (length) => {
      const bytes = new Uint8Array(length);
      for (let at = 0; at < length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
      return bytes.buffer;
    };
    const table = (rows) => JSON.stringify(Array.from({ length: rows }, (_, id) => (
      { id, state: ['open', 'paid', 'sent'][id % 3], name: `žluťoučký kůň ${id * 7919 % 1000} 😀` })));
    const messages = [
      '', 'x', 'short', 'a'.repeat(511), 'a'.repeat(512), table(10), table(100), table(700),
      'x'.repeat(16384), new ArrayBuffer(0), new ArrayBuffer(5000), noise(10), noise(5000), noise(65536),
    ];
    const [one, two] = [await open('/ch/talk/deflate'), await open('/ch/talk/deflate')];
    const wrong = [];
    for (const [at, message] of messages.entries()) {
      one.send(message);
      if (!same(message, await two.hear())) wrong.push(`${at} by frame`);
      const headers = { 'Content-Type': typeof message === 'string' ? 'text/plain' : 'application/octet-stream' };
      await fetch('/ch/talk/deflate', { method: 'POST', body: message, headers });
      for (const socket of [one, two]) {
        if (!same(message, await socket.hear())) wrong.push(`${at} by POST`);
      }
    }
    return { extensions: one.extensions, wrong, count: messages.length };
  });
}

async function metric(fanfare, name) {
  const text = await (await fetch(`http://${fanfare.address}/metrics`)).text();
  return Number(text.match(new RegExp(`^${name} (\\d+)$`, 'm'))[1]);
}

for (const enabled of [true, false]) {
  test(`a browser hears what was said, compression ${enabled ? 'on' : 'off'}`, async (t) => {
    const fanfare = await startFanfare({ FANFARE_COMPRESSION_ENABLED: String(enabled) });
    t.after(() => fanfare.stop());
    const browser = await launchBrowser();
    t.after(() => browser.close());
    const page = await openPage(browser, `http://${fanfare.address}/`);
    const { extensions, wrong, count } = await exchange(page);
    assert.deepEqual(wrong, []);
    assert.equal(extensions, enabled ? agreed : '');
    // Of the messages it said, the browser compressed all; of ours, those that are worth it.
    const [received, sent] = [await metric(fanfare, 'fanfare_inflate_messages_total'), await metric(fanfare, 'fanfare_deflate_frames_total')];
    assert.ok(enabled ? received > 0 && received <= count : received === 0, `${received} inflated`);
    assert.ok(enabled ? sent > 0 && sent < 2 * count : sent === 0, `${sent} deflated`);
    const before = await metric(fanfare, 'fanfare_deflate_input_bytes_total');
    const after = await metric(fanfare, 'fanfare_deflate_output_bytes_total');
    assert.ok(after * 3 < before || !enabled, `${before} bytes became ${after}`);
  });
}
