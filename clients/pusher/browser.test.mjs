// pusher-js and Laravel Echo as a page has them, in a real browser.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { launchBrowser, openPage } from '../browser/harness.mjs';
import { APP, authorize, stage, startHttp, startServer } from './harness.mjs';

const scripts = {
  '/pusher.js': 'pusher-js/dist/web/pusher-with-encryption.min.js',
  '/echo.js': 'laravel-echo/dist/echo.js',
};
const html = `<!doctype html><script src="/pusher.js"></script>
  <script type="module">import Echo from '/echo.js'; window.Echo = Echo;</script>`;

let [browser, s, site] = [];
before(async () => {
  s = await stage();
  browser = await launchBrowser();
  site = await startHttp((request, body) => {
    if (request.method === 'POST') return authorize(request, body);
    const script = scripts[request.url];
    if (!script) return { type: 'text/html', body: html };
    return { type: 'text/javascript', body: readFileSync(fileURLToPath(new URL(`node_modules/${script}`, import.meta.url))) };
  });
});
after(async () => {
  await browser?.close();
  site?.stop();
  await s?.stop();
});

/** A page in which `echo` is connected, and `heard` gets what `hear(name)` is given. */
async function openTab(t, visitor, { port = s.server.port, key = APP.key } = {}) {
  const page = await openPage(browser, site.url);
  t.after(() => page.close());
  await page.evaluate(({ port, key, visitor }) => {
    window.heard = [];
    window.hear = (name) => (data) => window.heard.push([name, data]);
    window.echo = new Echo({
      broadcaster: 'reverb', key, wsHost: '127.0.0.1', wsPort: port, wssPort: port, forceTLS: false, enabledTransports: ['ws', 'wss'],
      auth: { headers: { 'X-Visitor': encodeURIComponent(JSON.stringify(visitor)) } },
    });
    window.states = [];
    const { connection } = echo.connector.pusher;
    connection.bind('state_change', ({ current }) => window.states.push(current));
    connection.bind('error', (error) => window.states.push(error.data?.code ?? error.error?.data?.code));
  }, { port, key, visitor });
  return page;
}

const happened = (page, name, count = 1) =>
  page.waitForFunction(([name, count]) => window.heard.filter(([one]) => one === name).length >= count, [name, count]);
const dataOf = (page, name) => page.evaluate((name) => window.heard.filter(([one]) => one === name).map(([, data]) => data), name);

const ANN = { member: { user_id: 2, user_info: { name: 'Ann' } } };
const MEI = { member: { user_id: 17, user_info: { name: 'Mei' } } };

test('two tabs: public, private, encrypted and presence channels, and whispers', async (t) => {
  const [ann, mei] = [await openTab(t, ANN), await openTab(t, MEI)];
  for (const page of [ann, mei]) {
    await page.evaluate(() => {
      echo.channel('tabs').listen('OrderPaid', hear('public')).subscribed(hear('ready'));
      echo.private('tabs').listen('.paid', hear('private')).listenForWhisper('typing', hear('whisper')).subscribed(hear('ready'));
      echo.encryptedPrivate('tabs').listen('.paid', hear('encrypted')).subscribed(hear('ready'));
    });
    await happened(page, 'ready', 3);
    await page.evaluate(() => {
      echo.join('tabs').here(hear('here')).joining(hear('joining')).leaving(hear('leaving')).listenForWhisper('waving', hear('wave'));
    });
    await happened(page, 'here');
  }
  await happened(ann, 'joining');
  assert.deepEqual([await dataOf(ann, 'here'), await dataOf(ann, 'joining')], [[[{ name: 'Ann' }]], [{ name: 'Mei' }]]);
  assert.equal((await dataOf(mei, 'here'))[0].length, 2);
  await s.rest().trigger('tabs', 'App\\Events\\OrderPaid', { id: 42, name: 'žluť 😀' });
  await s.rest().trigger('private-tabs', 'paid', { id: 42 });
  await s.rest().trigger('private-encrypted-tabs', 'paid', { id: 42, name: 'žluť 😀' });
  for (const page of [ann, mei]) {
    for (const name of ['public', 'private', 'encrypted']) await happened(page, name);
    assert.deepEqual(await dataOf(page, 'encrypted'), [{ id: 42, name: 'žluť 😀' }]);
  }
  await ann.evaluate(() => {
    echo.private('tabs').whisper('typing', { from: 'ann' });
    echo.join('tabs').whisper('waving', { from: 'ann' });
  });
  await Promise.all([happened(mei, 'whisper'), happened(mei, 'wave')]);
  assert.deepEqual([await dataOf(mei, 'whisper'), await dataOf(ann, 'whisper')], [[{ from: 'ann' }], []]);
  // To the others only.
  const socketId = await ann.evaluate(() => echo.socketId());
  await s.rest().trigger('tabs', 'App\\Events\\OrderPaid', { id: 43 }, { socket_id: socketId });
  await happened(mei, 'public', 2);
  await mei.evaluate(() => echo.leave('tabs'));
  await happened(ann, 'leaving');
  assert.deepEqual([await dataOf(ann, 'leaving'), (await dataOf(ann, 'public')).length], [[{ name: 'Mei' }], 1]);
});

test('a server that is started anew on its port: the page is back, on all its channels', async (t) => {
  const old = await startServer();
  let next;
  t.after(() => Promise.all([old.stop(), next?.stop()]));
  const page = await openTab(t, ANN, { port: old.port });
  await page.evaluate(() => {
    echo.channel('restart').listen('.said', hear('said')).subscribed(hear('ready'));
    echo.join('restart').here(hear('here'));
  });
  await Promise.all([happened(page, 'ready'), happened(page, 'here')]);
  assert.equal(await old.stop(), 0, old.log());
  next = await startServer({ settings: 'admin_listen = "off"', address: old.address });
  await Promise.all([happened(page, 'ready', 2), happened(page, 'here', 2)]);
  assert.deepEqual((await page.evaluate(() => window.states)).slice(-3), [4100, 'connecting', 'connected']);
});

test('an unknown key is asked about once', async (t) => {
  const page = await openTab(t, ANN, { key: 'unknown-key' });
  await page.waitForFunction(() => window.states.includes('disconnected'));
  assert.deepEqual((await page.evaluate(() => [window.states, Boolean(echo.connector.pusher.connection.retryTimer)])), [[4001, 'disconnected'], false]);
});
