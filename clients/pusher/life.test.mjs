// The life of a connection: how it opens, stays, and ends, and that nonsense costs nobody but its sender anything.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { startProxy } from '../browser/harness.mjs';
import { APP, channelAuth, Ear, emitted, listen, openWire, signed, stage, startServer, subscribe } from './harness.mjs';

const DISABLED = { id: '4712', key: 'disabled-key', secret: 'disabled-secret', enabled: false };
const SINGLE = { id: '4713', key: 'single-key', secret: 'single-secret', connections_max: 1, activity_timeout: '30s' };
const UNKNOWN = { id: '4799', key: 'unknown-key', secret: 'unknown-secret' };
const HOME = { id: '4715', key: 'home-key', secret: 'home-secret', origins: ['https://shop.example'] };
const BRIEF = { id: '4714', key: 'brief-key', secret: 'brief-secret', subscriptions_max: 2 };

let s;
before(async () => { s = await stage({ apps: [APP, DISABLED, SINGLE, HOME, BRIEF] }); });
after(() => s.stop());

const socketUrl = (path, server = s.server) => server.url.replace('http', 'ws') + path;

// Opening

test('the first frame', async (t) => {
  for (const [app, timeout] of [[APP, 120], [SINGLE, 30]]) {
    const wire = openWire(t, socketUrl(`/app/${app.key}?protocol=7&client=js&version=8.6.0&flash=false&unknown=x`));
    const { text, ...frame } = await wire.ear.next();
    const data = JSON.parse(frame.data);
    assert.deepEqual(Object.keys(frame).sort(), ['data', 'event']);
    assert.equal(frame.event, 'pusher:connection_established');
    assert.match(data.socket_id, /^\d+\.\d+$/);
    assert.equal(data.activity_timeout, timeout);
    wire.socket.close();
    await wire.closed;
  }
});

test('protocols that are spoken, and that are not', async (t) => {
  for (const [query, code] of [
    ['?protocol=5'], ['?protocol=6'], ['?protocol=7'], [''], ['?client=js&version=1.0'],
    ['?protocol=99', 4007], ['?protocol=4', 4007], ['?protocol=8', 4007], ['?protocol=x', 4007], ['?protocol=-7', 4007],
  ]) {
    const wire = openWire(t, socketUrl(`/app/${APP.key}${query}`));
    const first = await wire.ear.next();
    if (!code) {
      assert.equal(first.event, 'pusher:connection_established', query);
      continue;
    }
    assert.deepEqual([first.event, first.data.code, typeof first.data.message], ['pusher:error', code, 'string'], query);
    assert.equal((await wire.closed).code, code);
  }
});

for (const [what, app, code] of [['an unknown key', UNKNOWN, 4001], ['a disabled app', DISABLED, 4003]]) {
  test(`${what} is told so for good`, async (t) => {
    const wire = openWire(t, socketUrl(`/app/${app.key}?protocol=7`));
    const first = await wire.ear.next();
    assert.deepEqual([first.event, first.data.code, typeof first.data.message], ['pusher:error', code, 'string']);
    assert.equal((await wire.closed).code, code);
    assert.deepEqual(wire.ear.heard.map(({ event }) => event), ['pusher:error', 'close']);
    const pusher = s.client(t, { app });
    const [error] = await Promise.all([emitted(pusher.connection, 'error'), emitted(pusher.connection, 'disconnected')]);
    assert.equal(error.error.data.code, code);
    assert.deepEqual([Boolean(pusher.connection.retryTimer), Boolean(pusher.connection.runner)], [false, false]);
  });
}

test('pages of other origins are told so for good', async (t) => {
  await s.wire(t, { app: HOME, origin: 'https://shop.example' });
  // Who is no browser has none.
  await s.wire(t, { app: HOME });
  await s.wire(t, { origin: 'https://anywhere.example' });
  const wire = openWire(t, socketUrl(`/app/${HOME.key}?protocol=7`), { origin: 'https://evil.example' });
  const first = await wire.ear.next();
  assert.deepEqual([first.event, first.data.code, (await wire.closed).code], ['pusher:error', 4009, 4009]);
});

test('an app has so many connections, and tells the next', async (t) => {
  const one = await s.wire(t, { app: SINGLE });
  const two = openWire(t, socketUrl(`/app/${SINGLE.key}?protocol=7`));
  const refused = await two.ear.next();
  assert.deepEqual([refused.event, refused.data.code, (await two.closed).code], ['pusher:error', 4004, 4004]);
  assert.deepEqual(await one.settled(), []);
  one.socket.close();
  await one.closed;
});

test('a connection has so many subscriptions, and is told of the next', async (t) => {
  const wire = await s.wire(t, { app: BRIEF });
  const events = [];
  for (const name of ['a', 'b', 'c', 'b']) events.push((await wire.subscribe(name)).event);
  const good = 'pusher_internal:subscription_succeeded';
  assert.deepEqual(events, [good, good, 'pusher:subscription_error', good]);
  wire.send({ event: 'pusher:unsubscribe', data: { channel: 'a' } });
  wire.send({ event: 'pusher:unsubscribe', data: { channel: 'c' } });
  assert.equal((await wire.subscribe('c')).event, good);
});

test('apps are worlds of their own', async (t) => {
  const [one, other] = [await s.wire(t), await s.wire(t, { app: BRIEF })];
  await one.subscribe('shared-name');
  await other.subscribe('shared-name');
  await s.rest(BRIEF).trigger('shared-name', 'theirs', {});
  await s.rest().trigger('shared-name', 'ours', {});
  assert.equal((await one.ear.next()).event, 'ours');
  assert.equal((await other.ear.next()).event, 'theirs');
});

test('a prefix of the paths, and the path that says where one was', async (t) => {
  const server = await startServer({ settings: 'pusher.path = "/ws"' });
  const pusher = s.client(t, { wsPort: server.port, wsPath: '/ws' });
  // Behind the client, which would try to come back.
  t.after(() => server.stop());
  await emitted(pusher.connection, 'connected');
  const { ear } = await subscribe(pusher, 'prefixed');
  const wire = openWire(t, socketUrl(`/ws/resume/${'h'.repeat(16)}/app/${APP.key}?protocol=7`, server));
  wire.app = APP;
  wire.id = JSON.parse((await wire.ear.until('pusher:connection_established')).data).socket_id;
  assert.match((await wire.subscribe('prefixed')).event, /succeeded$/);
  const elsewhere = openWire(t, socketUrl(`/app/${APP.key}?protocol=7`, server));
  assert.equal((await elsewhere.closed).code, 4404);
  // Who publishes signs the path as if there were no prefix.
  const body = JSON.stringify({ name: 'said', channel: 'prefixed', data: 'x' });
  const query = new URLSearchParams(signed(APP, 'POST', '/apps/4711/events', { body }));
  const answer = await fetch(`${server.url}/ws/apps/4711/events?${query}`, { method: 'POST', body });
  assert.equal(await answer.text(), '{}');
  await ear.until('said');
  await wire.ear.until('said');
});

// Staying

test('ping and pong', async (t) => {
  const wire = await s.wire(t);
  for (const data of [{}, '', undefined, null, [], 'x', 7]) {
    wire.send({ event: 'pusher:ping', data });
    const { event, data: answer } = await wire.ear.next();
    assert.deepEqual([event, typeof answer === 'string' ? JSON.parse(answer) : answer], ['pusher:pong', {}]);
  }
  wire.send({ event: 'pusher:pong', data: {} });
  wire.send({ event: 'pusher:pong' });
  assert.deepEqual(await wire.settled(), []);
  const pong = new Promise((resolve) => wire.socket.once('pong', (bytes) => resolve(bytes.toString())));
  wire.socket.ping('by protocol');
  assert.equal(await pong, 'by protocol');
  // pusher-js, when it has heard nothing for a while.
  const pusher = s.client(t, { activityTimeout: 50 });
  await pusher.ear.until('pusher:pong');
  assert.equal(pusher.connection.state, 'connected');
});

// Ending

test('a server that goes closes with 4100, and pusher-js is back in a second', async (t) => {
  const [old, next] = [await startServer(), await startServer()];
  const network = await startProxy(old.address);
  const pusher = s.client(t, { wsPort: Number(network.address.split(':')[1]) });
  // Behind the client, which would try to come back.
  t.after(() => Promise.all([network.stop(), old.stop(), next.stop()]));
  await emitted(pusher.connection, 'connected');
  const { ear } = await subscribe(pusher, 'drained');
  // What pusher-js takes the close for: `retry` is at once, `backoff` after a second, `refused` never.
  const actions = [];
  const errors = [];
  for (const action of ['retry', 'backoff', 'refused']) pusher.connection.connection.bind(action, () => actions.push(action));
  pusher.connection.bind('error', (error) => errors.push(error.data?.code ?? error.error?.data?.code));
  const wire = openWire(t, socketUrl(`/app/${APP.key}?protocol=7`, old));
  await wire.ear.until('pusher:connection_established');
  network.target = next.address;
  const again = emitted(pusher.connection, 'connected');
  const stopped = old.stop();
  assert.equal((await wire.closed).code, 4100);
  assert.equal(await stopped, 0, old.log());
  await again;
  assert.deepEqual([actions, [...new Set(errors)]], [['backoff'], [4100]]);
  // It is subscribed again by itself.
  await ear.until('pusher:subscription_succeeded');
});

test('after 4200 pusher-js is back at once', async (t) => {
  const key = 'a key that is long enough for a test';
  const server = await startServer({ settings: `key = "${key}"` });
  const pusher = s.client(t, { wsPort: server.port });
  t.after(() => server.stop());
  await emitted(pusher.connection, 'connected');
  const { ear } = await subscribe(pusher, 'deleted');
  const actions = [];
  for (const action of ['retry', 'backoff', 'refused']) pusher.connection.connection.bind(action, () => actions.push(action));
  const again = emitted(pusher.connection, 'connected');
  const headers = { Authorization: `Bearer ${key}` };
  assert.equal((await fetch(`${server.url}/ch/deleted`, { method: 'DELETE', headers })).status, 200);
  await again;
  assert.deepEqual(actions, ['retry']);
  await ear.until('pusher:subscription_succeeded');
});

test('who comes back on a path with a hint of her own hears what she missed', async (t) => {
  const network = await startProxy(s.server.address);
  t.after(() => network.stop());
  const wsPort = Number(network.address.split(':')[1]);
  const hinted = s.client(t, { wsPort, wsPath: '/resume/0123456789abcdef' });
  const other = s.client(t, { wsPort });
  const ears = [];
  for (const pusher of [hinted, other]) {
    for (const name of ['missed', 'private-missed']) await subscribe(pusher, name);
    const ear = new Ear();
    pusher.bind_global((event, data) => { if (/^(said|end)/.test(event)) ear.hear({ event, data }); });
    ears.push(ear);
  }
  await s.rest().trigger('missed', 'said-1', {});
  for (const ear of ears) await ear.until('said-1');
  const back = [hinted, other].map((pusher) => {
    pusher.ear.rest();
    return emitted(pusher.connection, 'connected');
  });
  network.cut();
  await s.rest().trigger('missed', 'said-2', {});
  await s.rest().trigger('private-missed', 'said-3', {});
  await s.rest().trigger('missed', 'said-4', {});
  network.mend();
  await Promise.all(back);
  for (const pusher of [hinted, other]) {
    const again = new Set();
    while (again.size < 2) again.add((await pusher.ear.until('pusher_internal:subscription_succeeded')).channel);
  }
  await s.rest().trigger('missed', 'end', {});
  for (const ear of ears) await ear.until('end');
  // What was on its way when the network broke may come twice; nothing else does, and each channel has its order.
  const missed = ears[0].heard.map(({ event }) => event).filter((event, at, all) => event !== 'said-1' || all.indexOf(event) === at);
  assert.deepEqual([...missed].sort(), ['end', 'said-1', 'said-2', 'said-3', 'said-4']);
  assert.deepEqual(missed.filter((event) => event !== 'said-3'), ['said-1', 'said-2', 'said-4', 'end']);
  assert.deepEqual(ears[1].heard.map(({ event }) => event), ['said-1', 'end']);
});

// Nonsense

const deep = (depth) => `${'['.repeat(depth)}${']'.repeat(depth)}`;
const subscribeWith = (data) => JSON.stringify({ event: 'pusher:subscribe', data });
const long = 'x'.repeat(200_000);

/** What is sent, each by a connection of its own; a function is given the connection. */
const NONSENSE = {
  'nothing': '',
  'no JSON': 'hello',
  'half of JSON': '{"event":"pusher:subscribe","data":{"chan',
  'JSON and more': '{"event":"pusher:unknown"} {"event":"pusher:unknown"}',
  'a list': '[]',
  'a list of events': '[{"event":"pusher:ping","data":{}}]',
  'a number': '7',
  'a number beyond numbers': '1e999',
  'a text': '"pusher:ping"',
  'null': 'null',
  'true': 'true',
  'no event': '{}',
  'no event, but data': '{"data":{"channel":"a"}}',
  'an event that is a number': '{"event":7,"data":{}}',
  'an event that is null': '{"event":null}',
  'an event that is an object': '{"event":{"event":"pusher:ping"}}',
  'an empty event': '{"event":""}',
  'an unknown event': '{"event":"pusher:unknown","data":{}}',
  'an event of the server': '{"event":"pusher_internal:member_added","channel":"presence-a","data":"{}"}',
  'an event of an application': '{"event":"order.paid","channel":"a","data":{}}',
  'an event twice': '{"event":"pusher:subscribe","event":"pusher:unknown","data":{}}',
  'a huge event': JSON.stringify({ event: `client-${'e'.repeat(5000)}`, channel: 'private-a', data: {} }),
  'subscribe without data': '{"event":"pusher:subscribe"}',
  'subscribe with null': '{"event":"pusher:subscribe","data":null}',
  'subscribe with a text': '{"event":"pusher:subscribe","data":"orders"}',
  'subscribe with a text of half JSON': '{"event":"pusher:subscribe","data":"{\\"channel\\":"}',
  'subscribe with a text of a text': JSON.stringify({ event: 'pusher:subscribe', data: JSON.stringify(JSON.stringify({ channel: 'a' })) }),
  'subscribe with a list': subscribeWith(['orders']),
  'subscribe with a number': subscribeWith(7),
  'subscribe without a channel': subscribeWith({ auth: '' }),
  'a channel that is a number': subscribeWith({ channel: 7 }),
  'a channel that is null': subscribeWith({ channel: null }),
  'a channel that is a list': subscribeWith({ channel: ['orders'] }),
  'a channel that is an object': subscribeWith({ channel: { name: 'orders' } }),
  'an empty channel': subscribeWith({ channel: '' }),
  'a huge channel': subscribeWith({ channel: 'c'.repeat(50_000) }),
  'a channel of half a character': '{"event":"pusher:subscribe","data":{"channel":"\\ud83d"}}',
  'an auth that is a number': subscribeWith({ channel: 'private-a', auth: 7 }),
  'an auth that is null': subscribeWith({ channel: 'private-a', auth: null }),
  'an auth that is a list': subscribeWith({ channel: 'private-a', auth: ['a:b'] }),
  'an auth that is huge': subscribeWith({ channel: 'private-a', auth: `${APP.key}:${'0'.repeat(50_000)}` }),
  'an auth of other bytes': subscribeWith({ channel: 'private-a', auth: `${APP.key}:žž\u0000` }),
  'a channel_data that is an object': (wire) => subscribeWith({
    channel: 'presence-a', auth: channelAuth(APP, wire.id, 'presence-a', '[object Object]'), channel_data: { user_id: 1 },
  }),
  'a channel_data that is a number': (wire) => subscribeWith({
    channel: 'presence-a', auth: channelAuth(APP, wire.id, 'presence-a', '7'), channel_data: 7,
  }),
  'a channel_data that is too deep': (wire) => subscribeWith({
    channel: 'presence-a', auth: channelAuth(APP, wire.id, 'presence-a', deep(10_000)), channel_data: deep(10_000),
  }),
  'unsubscribe with a list': '{"event":"pusher:unsubscribe","data":[]}',
  'unsubscribe from a number': '{"event":"pusher:unsubscribe","data":{"channel":7}}',
  'sign-in without data': '{"event":"pusher:signin"}',
  'sign-in with null': '{"event":"pusher:signin","data":null}',
  'sign-in with numbers': '{"event":"pusher:signin","data":{"auth":1,"user_data":2}}',
  'sign-in with an object': '{"event":"pusher:signin","data":{"auth":"a:b","user_data":{"id":"1"}}}',
  'a client event without a channel': '{"event":"client-a","data":{}}',
  'a client event on a number': '{"event":"client-a","channel":7,"data":{}}',
  'a client event on null': '{"event":"client-a","channel":null,"data":{}}',
  'a client event on an unknown channel': '{"event":"client-a","channel":"private-unknown","data":{}}',
  'deep lists': `{"event":"pusher:subscribe","data":${deep(20_000)}}`,
  'deep objects': `${'{"data":'.repeat(10_000)}1${'}'.repeat(10_000)}`,
  'deep text': subscribeWith(deep(10_000)),
  '200 KB of data': JSON.stringify({ event: 'client-a', channel: 'private-a', data: long }),
  '200 KB of no JSON': long,
  'a byte order mark': '\ufeff{"event":"pusher:ping","data":{}}',
  'a binary frame': Buffer.from('{"event":"pusher:ping","data":{}}'),
  'bytes': Buffer.from([0, 255, 128, 1]),
};

/** Frames that no library sends: how they are sent, and the code that they end with. */
const BROKEN = {
  'a text that is not UTF-8': [(wire) => wire.send(Buffer.from('{"event":"\xff"}', 'latin1'), { binary: false }), 1007],
  'a frame without a mask': [(wire) => wire.send('{"event":"pusher:ping"}', { mask: false }), 1002],
  'compressed without having agreed': [(wire) => wire.socket._socket.write(Buffer.from([0xc1, 0x80, 1, 2, 3, 4])), 1002],
  'a continuation of nothing': [(wire) => wire.socket._socket.write(Buffer.from([0x80, 0x80, 1, 2, 3, 4])), 1002],
  'an unknown opcode': [(wire) => wire.socket._socket.write(Buffer.from([0x83, 0x80, 1, 2, 3, 4])), 1002],
  'a ping that is too long': [(wire) => wire.socket._socket.write(Buffer.from([0x89, 0xfe, 0, 126, 1, 2, 3, 4])), 1002],
};

/** Somebody who does everything right, and must not notice anything. */
async function bystander(t) {
  const wire = await s.wire(t);
  await wire.subscribe('presence-a', { channelData: '{"user_id":"bystander"}' });
  await wire.subscribe('private-a');
  await wire.subscribe('a');
  return async () => {
    await s.rest().trigger('private-a', 'still', {});
    assert.equal((await wire.ear.next()).event, 'still');
    assert.deepEqual(await wire.settled(), []);
  };
}

for (const [what, sent] of Object.entries(NONSENSE)) {
  test(`nonsense is told to its sender, and to nobody else: ${what}`, async (t) => {
    const notices = await bystander(t);
    const wire = await s.wire(t);
    const bytes = typeof sent === 'function' ? sent(wire) : sent;
    wire.send(bytes);
    wire.send({ event: 'pusher:ping', data: {} });
    const first = await wire.ear.next();
    assert.match(first.event, /^(close|pusher:(subscription_)?error)$/, first.text);
    // Which may repeat the name of the channel, and is not more than that.
    if (first.event !== 'close') assert.ok(first.text.length < bytes.length + 1000, `an error of ${first.text.length} bytes`);
    // A code that pusher-js would take for the end is not for a slip.
    if (first.event === 'close') assert.ok([1003, 1007, 1009, 4009].includes(first.code), `${first.code}`);
    await notices();
  });
}

for (const [what, [send, code]] of Object.entries(BROKEN)) {
  test(`broken frames end with their code, and nobody else is touched: ${what}`, async (t) => {
    const notices = await bystander(t);
    const wire = await s.wire(t);
    send(wire);
    assert.equal((await wire.closed).code, code);
    await notices();
  });
}

test('the same nonsense a hundred times over one connection', async (t) => {
  const notices = await bystander(t);
  const wire = await s.wire(t);
  for (let count = 0; count < 100; count += 1) wire.send('{"event":"pusher:subscribe","data":7}');
  wire.send({ event: 'pusher:ping', data: {} });
  await wire.ear.until(({ event }) => event === 'pusher:pong' || event === 'close');
  assert.ok(wire.ear.heard.some(({ event }) => /error$/.test(event)));
  await notices();
});

test('pusher-js goes on after an error', async (t) => {
  const pusher = await s.connect(t);
  const errors = listen(pusher.connection);
  pusher.connection.send('no JSON');
  await errors.until('error');
  await subscribe(pusher, 'goes-on');
  assert.equal(pusher.connection.state, 'connected');
});
