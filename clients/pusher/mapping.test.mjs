// One channel, two doors: what is said through either is heard through both, and what may not be heard through one is
// not heard through the other.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { APP, channelAuth, jwt, openStream, openWire, stage, subscribe, userAuth } from './harness.mjs';

const KEY = 'a key of at least thirty-two bytes';
const WORLD = { id: '4712', key: 'world-key', secret: 'world-secret' };

let [s, keyed] = [];
before(async () => {
  [s, keyed] = await Promise.all([
    stage({ apps: [APP, WORLD] }),
    stage({ apps: [APP, WORLD], settings: `key = "${KEY}"\nadmin_listen = "off"` }),
  ]);
});
after(() => Promise.all([s.stop(), keyed.stop()]));

const back = { Authorization: `Bearer ${KEY}` };
const ch = (name, query = '') => `/ch/${encodeURIComponent(name)}${query}`;

/** The plain door of one of the two servers, listening in each of its ways. */
const plainOf = (stage) => ({
  async socket(t, path, headers = {}) {
    const wire = openWire(t, stage.server.url.replace('http', 'ws') + path, { plain: true, headers });
    await Promise.race([new Promise((resolve) => wire.socket.once('open', resolve)), wire.closed]);
    return wire;
  },
  /** Not only open, but listening. */
  async listening(t, name, query = '', headers = {}) {
    const separator = query ? '&' : '?';
    const wire = await this.socket(t, ch(name, `${query}${separator}open=1`), headers);
    // Only with `meta` there is a form for it; a raw listener is there when it is open.
    if (query.includes('meta=1')) await wire.ear.until(({ text }) => JSON.parse(text).event === 'open');
    return wire;
  },
  stream: (t, name, headers) => openStream(t, stage.server.url + ch(name), headers),
  async get(path, headers = {}) {
    const response = await fetch(stage.server.url + path, { headers });
    return { status: response.status, body: await response.json() };
  },
  async post(path, body, headers = {}) {
    const response = await fetch(stage.server.url + path, { method: 'POST', body, headers });
    return { status: response.status, text: await response.text() };
  },
});

const plain = plainOf({ get server() { return s.server; } });
const guarded = plainOf({ get server() { return keyed.server; } });

// From Pusher to plain

for (const [what, name, data] of [
  ['a text', 'order.updated', 'paid'],
  ['JSON', 'App\\Events\\OrderPaid', '{"id":42,"n":1.0}'],
  ['several lines', 'lines', 'one\ntwo\n\nthree'],
  ['nothing', 'empty', ''],
]) {
  test(`a trigger is heard by plain listeners: ${what}`, async (t) => {
    const channel = `to-plain-${name.length}`;
    const raw = await plain.listening(t, channel);
    const meta = await plain.listening(t, channel, '?meta=1');
    const stream = await plain.stream(t, channel);
    const { body: { next } } = await plain.get(ch(channel));
    const poll = plain.get(ch(channel, `?since=${next}&meta=1`));
    const body = JSON.stringify({ name, channel, data });
    assert.equal((await s.request('POST', '/apps/4711/events', { body })).text, '{}');
    assert.deepEqual(await raw.ear.next(), { text: data, isBinary: false });
    const heard = JSON.parse((await meta.ear.next()).text);
    assert.deepEqual([heard.event, heard.channel, heard.data, typeof heard.id], [name, channel, data, 'string']);
    if (data !== '') assert.deepEqual(await stream.ear.next(), { event: name, data });
    const [polled] = (await poll).body.messages;
    assert.deepEqual([polled.event, polled.data, polled.id], [name, data, heard.id]);
  });
}

test('all ways to publish reach the plain door, in one order', async (t) => {
  const meta = await plain.listening(t, 'ways', '?meta=1');
  const rest = s.rest();
  await rest.trigger('ways', 'one', '1');
  await rest.trigger(['ways', 'ways-2'], 'two', '2');
  await rest.triggerBatch([{ channel: 'ways', name: 'three', data: '3' }, { channel: 'ways', name: 'four', data: '4' }]);
  await plain.post(ch('ways', '?event=five'), '5');
  const heard = [];
  while (heard.length < 5) heard.push(JSON.parse((await meta.ear.next()).text));
  assert.deepEqual(heard.map(({ event, data }) => event + data), ['one1', 'two2', 'three3', 'four4', 'five5']);
  // And are kept for those who come back.
  const { body } = await plain.get(ch('ways', `?since=${heard[2].id}`));
  assert.deepEqual(body.messages.map(({ event }) => event), ['four', 'five']);
});

// From plain to Pusher

for (const [what, query, body, headers, expected] of [
  ['a text with an event', '?event=order.paid', 'order 7 paid', {}, { event: 'order.paid', data: 'order 7 paid' }],
  ['a text without', '', 'order 7 paid', {}, { event: 'message', data: 'order 7 paid' }],
  ['JSON', '?event=paid', '{"id":1.0}', {}, { event: 'paid', data: '{"id":1.0}' }],
  ['quotes and lines', '?event=paid', 'a "b"\n\\c\u0000😀', {}, { event: 'paid', data: 'a "b"\n\\c\u0000😀' }],
  ['nothing', '', '', {}, { event: 'message', data: '' }],
  ['binary', '?event=jpeg', Buffer.from([0, 255, 1]), { 'Content-Type': 'application/octet-stream' },
    { event: 'jpeg', data: 'data:application/octet-stream;base64,AP8B' }],
  ['what is no text', '', Buffer.from([0xff, 0xfe]), {}, { event: 'message', data: 'data:application/octet-stream;base64,//4=' }],
]) {
  test(`a POST is heard by Pusher's subscribers: ${what}`, async (t) => {
    const wire = await s.wire(t);
    await wire.subscribe('from-plain');
    assert.equal((await plain.post(ch('from-plain', query), body, headers)).status, 200);
    const { text, ...frame } = await wire.ear.next();
    assert.deepEqual(frame, { ...expected, channel: 'from-plain' });
  });
}

test('pusher-js parses what is JSON, and takes the rest as it is', async (t) => {
  const { ear } = await subscribe(await s.connect(t), 'parsed');
  for (const [body, data] of [['{"a":1}', { a: 1 }], ['paid', 'paid']]) {
    await plain.post(ch('parsed', '?event=said'), body);
    assert.deepEqual(await ear.next(), { event: 'said', data });
  }
});

test('an announcement reaches everybody who is connected, without a channel', async (t) => {
  const [wire, pusher] = [await s.wire(t), await s.connect(t)];
  const other = await s.wire(t, { app: WORLD });
  const heard = new Promise((resolve) => pusher.bind('restart', resolve));
  assert.equal((await plain.post('/ch/*?event=restart', 'at 22:00')).status, 200);
  const { text, ...frame } = await wire.ear.until('restart');
  assert.deepEqual(frame, { event: 'restart', data: 'at 22:00' });
  assert.equal(await heard, 'at 22:00');
  assert.deepEqual(await other.settled(), []);
});

test('what plain clients say is heard too', async (t) => {
  const wire = await s.wire(t);
  await wire.subscribe('talk/room');
  const talker = await plain.listening(t, 'talk/room');
  talker.send('hello');
  const { text, ...frame } = await wire.ear.next();
  assert.deepEqual(frame, { event: 'message', channel: 'talk/room', data: 'hello' });
});

test('what clients of Pusher say is heard by plain listeners who may', async (t) => {
  const headers = { Authorization: `Bearer ${jwt({ sub: '7', listen: ['private-said', 'presence-said'] }, KEY)}` };
  for (const [channel, channelData] of [['private-said'], ['presence-said', '{"user_id":"u-2"}']]) {
    const meta = await guarded.listening(t, channel, '?meta=1', headers);
    const stream = await guarded.stream(t, channel, headers);
    const wire = await keyed.wire(t);
    await wire.subscribe(channel, { channelData });
    wire.send({ event: 'client-typing', channel, data: { a: 1 } });
    const heard = JSON.parse((await meta.ear.next()).text);
    assert.deepEqual([heard.event, heard.channel, JSON.parse(heard.data)], ['client-typing', channel, { a: 1 }]);
    const event = await stream.ear.next();
    assert.deepEqual([event.event, JSON.parse(event.data)], ['client-typing', { a: 1 }]);
    wire.send({ event: 'client-typing', channel, data: 'text' });
    assert.equal((await stream.ear.next()).event, 'client-typing');
  }
});

// People

test('a user is one person behind both doors', async (t) => {
  const wire = await keyed.wire(t);
  const userData = '{"id":"42"}';
  wire.send({ event: 'pusher:signin', data: { auth: userAuth(APP, wire.id, userData), user_data: userData } });
  await wire.ear.until('pusher:signin_success');
  await wire.subscribe('#server-to-user-42');
  const headers = { Authorization: `Bearer ${jwt({ sub: '42' }, KEY)}` };
  const meta = await guarded.listening(t, 'user/42', '?meta=1', headers);
  const anywhere = await guarded.listening(t, 'orders', '?meta=1', headers);
  const stranger = await guarded.listening(t, 'orders', '?meta=1', { Authorization: `Bearer ${jwt({ sub: '43' }, KEY)}` });
  await keyed.rest().sendToUser('42', 'mail', { n: 1 });
  for (const listener of [meta, anywhere]) {
    const heard = JSON.parse((await listener.ear.next()).text);
    assert.deepEqual([heard.event, heard.channel, heard.data], ['mail', 'user/42', '{"n":1}']);
  }
  assert.deepEqual(await wire.ear.until('mail').then(({ channel, data }) => [channel, data]), ['#server-to-user-42', '{"n":1}']);
  assert.equal((await guarded.post('/user/42', 'by plain', back)).status, 200);
  assert.deepEqual(await wire.ear.next().then(({ event, channel, data }) => [event, channel, data]), ['message', '#server-to-user-42', 'by plain']);
  assert.equal(JSON.parse((await meta.ear.next()).text).data, 'by plain');
  await guarded.post(ch('orders'), 'end', back);
  assert.equal(JSON.parse((await stranger.ear.next()).text).data, 'end');
});

// Names of the protocol

test('nobody publishes events of the protocol', async (t) => {
  const wire = await s.wire(t);
  await wire.subscribe('protected');
  for (const name of ['pusher:error', 'pusher:', 'pusher_internal:member_added', 'pusher_internal:subscription_succeeded']) {
    assert.equal((await plain.post(ch('protected', `?event=${name}`), '{}')).status, 400, name);
    assert.equal((await plain.post('/ch', `${JSON.stringify({ channel: 'protected', event: name, data: '{}' })}\n`,
      { 'Content-Type': 'application/x-ndjson' })).status, 400, name);
    assert.equal((await plain.post(`/ch/*?event=${name}`, '{}')).status, 400, name);
  }
  assert.deepEqual(await wire.settled(), []);
});

// Privacy

const SECRETS = ['private-secret', 'presence-secret', 'private-encrypted-secret', 'private-cache-secret', 'presence-cache-secret', '#server-to-user-7'];

for (const name of SECRETS) {
  test(`what is private is private behind the plain door: ${name}`, async (t) => {
    for (const [door, stage] of [[plain, s], [guarded, keyed]]) {
      const stranger = { Authorization: `Bearer ${jwt({ sub: '8', listen: ['orders', 'private-secre'] }, KEY)}` };
      for (const headers of door === guarded ? [{}, stranger] : [{}]) {
        const expected = headers.Authorization ? [403, 4403] : [401, 4401];
        assert.equal((await door.get(ch(name), headers)).status, expected[0]);
        assert.equal((await door.get(`/ch?name=orders&name=${encodeURIComponent(name)}`, headers)).status, expected[0]);
        assert.equal((await door.stream(t, name, headers)).status, expected[0]);
        for (const path of [ch(name), ch(name, '?meta=1'), ch(name, '?last=1&meta=1'), `/ch?name=orders&name=${encodeURIComponent(name)}`]) {
          const socket = await door.socket(t, path, headers);
          assert.equal((await socket.closed).code, expected[1], path);
          assert.deepEqual(socket.ear.heard, []);
        }
      }
      // Who is on another channel hears nothing of it.
      const bystander = await door.listening(t, 'orders', '?meta=1');
      const body = JSON.stringify({ name: 'said', channel: name, data: 'secret' });
      assert.equal((await stage.request('POST', '/apps/4711/events', { body })).status, 200);
      await door.post(ch('orders'), 'end', back);
      assert.equal(JSON.parse((await bystander.ear.next()).text).data, 'end');
    }
    // Nor does who has no key say something there.
    assert.ok([401, 403].includes((await guarded.post(ch(name), 'x')).status));
  });
}

test('a token opens them', async (t) => {
  const headers = { Authorization: `Bearer ${jwt({ sub: '7', listen: ['private-*', 'presence-secret'] }, KEY)}` };
  for (const name of ['private-secret', 'presence-secret']) {
    const meta = await guarded.listening(t, name, '?meta=1', headers);
    await keyed.rest().trigger(name, 'said', 'secret');
    assert.equal(JSON.parse((await meta.ear.next()).text).data, 'secret');
  }
  const meta = await guarded.listening(t, 'user/7', '?meta=1', headers);
  await keyed.rest().sendToUser('7', 'said', 'secret');
  assert.equal(JSON.parse((await meta.ear.next()).text).data, 'secret');
});

test('what is private behind the plain door takes a signature', async (t) => {
  const wire = await keyed.wire(t);
  for (const [name, auth] of [
    ['private/orders', ''], ['private/orders', undefined], ['private/orders', channelAuth(APP, wire.id, 'orders')],
    ['user/42', ''], ['user/42', undefined],
  ]) {
    wire.send({ event: 'pusher:subscribe', data: { channel: name, auth } });
    const refused = await wire.ear.next();
    assert.equal(refused.event, 'pusher:subscription_error', `${name} ${refused.text}`);
  }
  await guarded.post(ch('private/orders'), 'secret', back);
  await guarded.post('/user/42', 'secret', back);
  assert.deepEqual(await wire.settled(), []);
  const good = await wire.subscribe('private/orders', { auth: channelAuth(APP, wire.id, 'private/orders') });
  assert.equal(good.event, 'pusher_internal:subscription_succeeded');
  await guarded.post(ch('private/orders'), 'secret', back);
  assert.equal((await wire.ear.next()).data, 'secret');
});

test('only the first app shares its channels', async (t) => {
  const wire = await s.wire(t, { app: WORLD });
  await wire.subscribe('worlds');
  const raw = await plain.listening(t, 'worlds');
  await s.rest(WORLD).trigger('worlds', 'theirs', 'theirs');
  await plain.post(ch('worlds'), 'ours');
  assert.equal((await raw.ear.next()).text, 'ours');
  assert.deepEqual((await wire.settled()).map(({ data }) => data), ['theirs']);
});
