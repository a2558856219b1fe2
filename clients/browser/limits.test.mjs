// What a page sees of the limits. They are tiny and per hour, so that counting decides and not the clock.

import test from 'node:test';
import assert from 'node:assert/strict';
import { launchBrowser, openPage, startFanfare } from './harness.mjs';

/** A page of a server with these limits, which count the browser although it is on this machine. */
async function startPage(t, limits) {
  const fanfare = await startFanfare({ FANFARE_LIMITS_COUNT_LOOPBACK: 'true', ...limits });
  t.after(() => fanfare.stop());
  const browser = await launchBrowser();
  t.after(() => browser.close());
  return { fanfare, page: await openPage(browser, `http://${fanfare.address}/`) };
}

/** Opens WebSockets one after the other until one ends; how many were open, and its end. */
const openUntilOneEnds = () => (async () => {
  const open = [];
  for (;;) {
    const socket = new WebSocket(`ws://${location.host}/ch/a?echo=1`);
    const end = await new Promise((resolve) => {
      socket.onopen = () => socket.send('x');
      socket.onmessage = () => resolve(null);
      socket.onclose = ({ code, reason, wasClean }) => resolve({ code, reason, wasClean });
    });
    if (end) return { open: open.length, ...end };
    open.push(socket);
  }
})();

test('too many connections of an address end with a code and a reason', async (t) => {
  const { page } = await startPage(t, { FANFARE_LIMITS_CONNECTIONS_PER_ADDRESS: '12', FANFARE_CHANNELS_TALK: 'a' });
  const end = await page.evaluate(openUntilOneEnds);
  assert.equal(end.code, 1013);
  assert.match(end.reason, /limits\.connections_per_address/);
  assert.equal(end.wasClean, true);
  // The page itself has some.
  assert.ok(end.open < 12, `${end.open}`);
});

test('of a handshake that is answered 429 a page sees nothing but 1006', async (t) => {
  const { fanfare, page } = await startPage(t, {
    FANFARE_LIMITS_CONNECTS_PER_ADDRESS: '1/h burst 12', FANFARE_CHANNELS_TALK: 'a',
  });
  const end = await page.evaluate(openUntilOneEnds);
  assert.deepEqual([end.code, end.reason, end.wasClean], [1006, '', false]);
  assert.ok(end.open < 12, `${end.open}`);
  // Whoever can look sees why. This is another connection from the same address.
  const answer = await fetch(`http://${fanfare.address}/ch/a`);
  assert.equal(answer.status, 429);
  assert.ok(Number(answer.headers.get('retry-after')) >= 1);
  assert.match((await answer.json()).message, /limits\.connects_per_address/);
});

test('messages that come too fast are told, and end the connection when they go on', async (t) => {
  const { page } = await startPage(t, {
    FANFARE_LIMITS_MESSAGES_PER_CONNECTION: '1/h burst 3', FANFARE_CHANNELS_TALK: 'a',
  });
  const told = await page.evaluate(async () => {
    const fanfare = new Fanfare('/ch/a', { transports: ['websocket'] });
    await new Promise((resolve) => { fanfare.onopen = resolve; });
    const error = new Promise((resolve) => { fanfare.onerror = ({ code, reason }) => resolve({ code, reason }); });
    for (let count = 0; count < 4; count += 1) await fanfare.send('x');
    const first = await error;
    // It is still there.
    const message = new Promise((resolve) => { fanfare.onmessage = ({ data }) => resolve(data); });
    await fetch('/ch/a', { method: 'POST', body: 'still here' });
    return { ...first, heard: await message };
  });
  assert.equal(told.code, 1008);
  assert.match(told.reason, /limits\.messages_per_connection/);
  assert.equal(told.heard, 'still here');
});

test('who goes on gets 1008 and the reason', async (t) => {
  const { page } = await startPage(t, {
    FANFARE_LIMITS_MESSAGES_PER_CONNECTION: '1/h burst 3', FANFARE_LIMITS_MESSAGES_EXCESS_MAX: '0s',
    FANFARE_CHANNELS_TALK: 'a',
  });
  const end = await page.evaluate(async () => {
    const socket = new WebSocket(`ws://${location.host}/ch/a`);
    socket.onopen = () => { for (let count = 0; count < 4; count += 1) socket.send('x'); };
    const { code, reason } = await new Promise((resolve) => { socket.onclose = resolve; });
    return { code, reason };
  });
  assert.equal(end.code, 1008);
  assert.match(end.reason, /limits\.messages_per_connection/);
});
