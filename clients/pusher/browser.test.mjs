// pusher-js and Laravel Echo as a page has them, in a real browser.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { launchBrowser, openPage } from '../browser/harness.mjs';
import { APP, authorize, stage, startHttp } from './harness.mjs';

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

/** A page in which `echo` is connected, and `heard` gets what `hear(name)` is given, and the channel of each frame. */
async function openTab(t, visitor, { port = s.server.port, key = APP.key } = {}) {
  const page = await openPage(browser, site.url);
  t.after(() => page.close());
  await page.evaluate(({ port, key, visitor }) => {
    window.heard = [];
    window.hear = (name) => (data) => window.heard.push([name, data]);
    const headers = { 'X-Visitor': encodeURIComponent(JSON.stringify(visitor)) };
    window.echo = new Echo({
      broadcaster: 'reverb', key, wsHost: '127.0.0.1', wsPort: port, wssPort: port, forceTLS: false, enabledTransports: ['ws', 'wss'],
      auth: { headers }, userAuthentication: { endpoint: '/broadcasting/user-auth', headers },
    });
    window.states = [];
    window.pusher = echo.connector.pusher;
    const { connection } = pusher;
    connection.bind('state_change', ({ current }) => window.states.push(current));
    connection.bind('error', (error) => window.states.push(error.data?.code ?? error.error?.data?.code));
    connection.bind('message', ({ event, channel }) => hear(`frame ${event}`)(channel));
    // What pusher-js takes a close for: `retry` is at once, `backoff` after a second, `refused` never.
    connection.bind('connected', () => {
      for (const action of ['retry', 'backoff', 'refused']) connection.connection.bind(action, () => hear('action')(action));
    });
  }, { port, key, visitor });
  return page;
}

const happened = (page, name, count = 1) =>
  page.waitForFunction(([name, count]) => window.heard.filter(([one]) => one === name).length >= count, [name, count]);
const dataOf = (page, name) => page.evaluate((name) => window.heard.filter(([one]) => one === name).map(([, data]) => data), name);

/** Resolves when the server has read everything that this page has sent. */
async function settled(page) {
  const before = await page.evaluate(() => {
    pusher.send_event('pusher:ping', {});
    return window.heard.filter(([one]) => one === 'frame pusher:pong').length;
  });
  await happened(page, 'frame pusher:pong', before + 1);
}

/** Resolves when this page has been sent away: it has been told why, and will not ask again. */
async function sentAway(page, code) {
  await page.waitForFunction(() => window.states.includes('disconnected'));
  const [states, ...again] = await page.evaluate(() => [
    window.states.slice(window.states.lastIndexOf('connected') + 1),
    Boolean(pusher.connection.retryTimer), Boolean(pusher.connection.runner),
  ]);
  assert.deepEqual([[...new Set(states)], again], [[code, 'disconnected'], [false, false]]);
}

const occupied = async (name) => JSON.parse((await s.request('GET', `/apps/4711/channels/${name}`)).text).occupied;

const SUBSCRIBED = 'frame pusher_internal:subscription_succeeded';
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

test('pusher-js: each kind of channel, subscribed, heard and left', async (t) => {
  const names = [
    '', 'private-', 'presence-', 'private-encrypted-', 'cache-', 'private-cache-', 'presence-cache-', 'private-encrypted-cache-',
  ].map((prefix) => `${prefix}kind`);
  const caches = names.filter((name) => name.includes('cache-'));
  const [ann, mei] = [await openTab(t, ANN), await openTab(t, MEI)];
  const enter = async (page) => {
    await page.evaluate((names) => {
      for (const name of names) {
        pusher.subscribe(name).bind_global((event, data) => hear(name)(event.startsWith('pusher:') ? [event] : [event, data]));
      }
    }, names);
    await happened(page, SUBSCRIBED, names.length);
  };
  const tell = (event, data) => Promise.all(names.map((name) => s.rest().trigger(name, event, data)));
  const paid = { id: 42, state: 'pa"id\n', name: 'žluť 😀' };
  await enter(ann);
  await tell('paid', paid);
  await happened(ann, 'frame paid', names.length);
  // Who comes later: a cache channel tells the last event, others tell nothing.
  await enter(mei);
  await happened(mei, 'frame paid', caches.length);
  await tell('text', 'no JSON');
  for (const page of [ann, mei]) await happened(page, 'frame text', names.length);
  // Who has left hears no more, who is there does.
  await ann.evaluate((names) => names.forEach((name) => pusher.unsubscribe(name)), names);
  await ann.evaluate(() => { pusher.subscribe('marker'); });
  await happened(ann, SUBSCRIBED, names.length + 1);
  await tell('late', {});
  await s.rest().trigger('marker', 'end', {});
  await Promise.all([happened(mei, 'frame late', names.length), happened(ann, 'frame end')]);
  assert.deepEqual(await dataOf(ann, 'frame late'), []);
  for (const name of names) {
    const [isCache, isPresence] = [caches.includes(name), name.startsWith('presence-')];
    assert.deepEqual(await dataOf(ann, name), [
      ['pusher:subscription_succeeded'], ...(isCache ? [['pusher:cache_miss']] : []), ['paid', paid],
      ...(isPresence ? [['pusher:member_added']] : []), ['text', 'no JSON'],
    ], name);
    assert.deepEqual(await dataOf(mei, name), [
      ['pusher:subscription_succeeded'], ...(isCache ? [['paid', paid]] : []), ['text', 'no JSON'],
      ...(isPresence ? [['pusher:member_removed']] : []), ['late', {}],
    ], name);
  }
});

test('Echo: notifications on each kind of channel; leave, leaveChannel, leaveAllChannels', async (t) => {
  const kinds = Object.entries({ channel: '', private: 'private-', encryptedPrivate: 'private-encrypted-', join: 'presence-' });
  const name = 'App.Models.User.17';
  const page = await openTab(t, MEI);
  let entered = 0;
  const enter = async (...methods) => {
    await page.evaluate(([methods, name]) => {
      for (const method of methods) echo[method](name).notification(hear(method)).subscribed(hear('ready'));
    }, [methods, name]);
    await happened(page, 'ready', entered += methods.length);
  };
  const there = async () => {
    await settled(page);
    return Promise.all(kinds.map(([, prefix]) => occupied(prefix + name)));
  };
  await enter('channel', 'private', 'encryptedPrivate', 'join');
  for (const [method, prefix] of kinds) {
    const data = { id: `n-${method}`, type: 'App\\Notifications\\Paid' };
    await s.rest().trigger(prefix + name, 'Illuminate\\Notifications\\Events\\BroadcastNotificationCreated', data);
    await happened(page, method);
    assert.deepEqual(await dataOf(page, method), [data]);
  }
  assert.deepEqual(await there(), [true, true, true, true]);
  await page.evaluate((name) => echo.leaveChannel(`private-${name}`), name);
  assert.deepEqual(await there(), [true, false, true, true]);
  await enter('private');
  await page.evaluate((name) => echo.leave(name), name);
  assert.deepEqual(await there(), [false, false, false, false]);
  await enter('channel', 'join');
  assert.deepEqual(await there(), [true, false, false, true]);
  await page.evaluate(() => echo.leaveAllChannels());
  assert.deepEqual(await there(), [false, false, false, false]);
});

for (const [who, visitor, status] of [
  ['the server', { ...ANN, secret: 'another' }, 401], ['the back end', { ...ANN, refused: true }, 403],
]) {
  test(`Echo: error, when ${who} refuses, and the page goes on`, async (t) => {
    const page = await openTab(t, visitor);
    const methods = ['private', 'encryptedPrivate', 'join'];
    await page.evaluate((methods) => {
      for (const method of methods) {
        echo[method]('refused').error(({ type, status }) => hear(method)([type, status])).subscribed(hear('let in'));
      }
    }, methods);
    for (const method of methods) {
      await happened(page, method);
      assert.deepEqual(await dataOf(page, method), [['AuthError', status]], method);
    }
    await page.evaluate(() => echo.channel('refused').subscribed(hear('ready')));
    await happened(page, 'ready');
    assert.deepEqual([await dataOf(page, 'let in'), await page.evaluate(() => window.states)], [[], ['connected']]);
  });
}

test('all tabs of a user, and nobody else: signin, sendToUser, terminate_connections', async (t) => {
  const tabs = [];
  for (const id of ['42', '42', '43']) {
    const page = await openTab(t, { user: { id, user_info: { name: 'Mei' } } });
    await page.evaluate(() => {
      pusher.user.bind_global((event, data) => hear('mail')([event, data]));
      echo.connector.signin();
    });
    await happened(page, SUBSCRIBED);
    assert.deepEqual(await dataOf(page, SUBSCRIBED), [`#server-to-user-${id}`]);
    assert.deepEqual(await page.evaluate(() => pusher.user.user_data), { id, user_info: { name: 'Mei' } });
    tabs.push(page);
  }
  const [one, two, other] = tabs;
  await s.rest().sendToUser('42', 'mail', { subject: 'for "you"' });
  await s.rest().sendToUser('43', 'mail', 'žluť 😀');
  for (const page of tabs) await happened(page, 'mail');
  for (const page of [one, two]) assert.deepEqual(await dataOf(page, 'mail'), [['mail', { subject: 'for "you"' }]]);
  await s.rest().terminateUserConnections('42');
  await Promise.all([one, two].map((page) => sentAway(page, 4009)));
  await s.rest().sendToUser('43', 'still', {});
  await happened(other, 'mail', 2);
  assert.deepEqual(await dataOf(other, 'mail'), [['mail', 'žluť 😀'], ['still', {}]]);
});

const KEY = 'a key that is long enough for a test';
// Who starts anew on its port cannot choose another for its operator, and the next one may be taken.
const settings = `key = "${KEY}"\nadmin_listen = "off"`;

for (const [what, code, action, end] of [
  ['a server that is started anew on its port', 4100, 'backoff', async ({ server, stop }) => {
    assert.equal(await stop(), 0, server.log());
    return stage({ settings, address: server.address });
  }],
  ['a channel that is deleted', 4200, 'retry', async (old) => {
    const answer = await fetch(`${old.server.url}/ch/again`, { method: 'DELETE', headers: { Authorization: `Bearer ${KEY}` } });
    assert.equal(answer.status, 200);
    return old;
  }],
]) {
  test(`${what}: the page is back after ${code}, on all its channels`, async (t) => {
    const old = await stage({ settings });
    let next;
    t.after(() => Promise.all([old.stop(), next?.stop()]));
    const page = await openTab(t, ANN, { port: old.server.port });
    await page.evaluate(() => {
      echo.channel('again').listen('.said', hear('said')).subscribed(hear('ready'));
      echo.join('again').here(hear('here'));
    });
    await Promise.all([happened(page, 'ready'), happened(page, 'here')]);
    const before = await page.evaluate(() => echo.socketId());
    next = await end(old);
    await Promise.all([happened(page, 'ready', 2), happened(page, 'here', 2)]);
    assert.deepEqual((await page.evaluate(() => window.states)).slice(-3), [code, 'connecting', 'connected']);
    assert.deepEqual(await dataOf(page, 'action'), [action]);
    assert.notEqual(await page.evaluate(() => echo.socketId()), before);
    await next.rest().trigger('again', 'said', { id: 42 });
    await happened(page, 'said');
    assert.deepEqual(await dataOf(page, 'said'), [{ id: 42 }]);
  });
}

for (const [what, code, visitor, more] of [
  ['an unknown key', 4001, ANN, { key: 'unknown-key' }],
  ['a sign-in that is refused', 4009, { user: { id: '42' }, secret: 'another' }],
]) {
  test(`${what} ends it for good, with ${code}`, async (t) => {
    const page = await openTab(t, visitor, more);
    if (visitor.user) await page.evaluate(() => echo.connector.signin());
    await sentAway(page, code);
  });
}
