// One channel, two doors: what is said through either is heard through both, and what may not be heard through one is
// not heard through the other.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { program, start } from '../browser/harness.mjs';
import { APP, channelAuth, jwt, openStream, openWire, stage, startServer, subscribe, userAuth } from './harness.mjs';

const KEY = 'a key of at least thirty-two bytes';
const WORLD = { id: '4712', key: 'world-key', secret: 'world-secret' };

let s;
before(async () => { s = await stage({ apps: [APP, WORLD], settings: `key = "${KEY}"\nadmin_listen = "off"` }); });
after(() => s.stop());

const back = { Authorization: `Bearer ${KEY}` };
const ch = (name, query = '') => `/ch/${encodeURIComponent(name)}${query}`;

/** The plain door, in each of its ways. */
const plain = {
  async socket(t, path, headers = {}) {
    const wire = openWire(t, s.server.url.replace('http', 'ws') + path, { plain: true, headers });
    await Promise.race([new Promise((resolve) => wire.socket.once('open', resolve)), wire.closed]);
    return wire;
  },
  /** Not only open, but listening, where there is a form to say so: a raw listener is there when it is open. */
  async listening(t, name, query = '', headers = {}) {
    const wire = await this.socket(t, ch(name, `${query}${query ? '&' : '?'}open=1`), headers);
    if (query.includes('meta=1')) await wire.ear.until(({ text }) => JSON.parse(text).event === 'open');
    return wire;
  },
  stream: (t, name, headers) => openStream(t, s.server.url + ch(name), headers),
  async get(path, headers = {}) {
    const response = await fetch(s.server.url + path, { headers });
    return { status: response.status, body: await response.json() };
  },
  /** As the back end. */
  async post(path, body, headers = {}) {
    const response = await fetch(s.server.url + path, { method: 'POST', body, headers: { ...back, ...headers } });
    return { status: response.status, text: await response.text() };
  },
};

// From Pusher to plain

for (const [what, name, data] of [
  ['a text', 'order.updated', 'paid'],
  ['JSON', 'App\\Events\\OrderPaid', '{"id":42,"n":1.0}'],
  ['several lines', 'lines', 'one\ntwo\n\nthree'],
  ['lines that look like an event', 'no.event', 'one\nevent: two\nid: 3\n\ndata: four'],
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
    const meta = await plain.listening(t, channel, '?meta=1', headers);
    const stream = await plain.stream(t, channel, headers);
    const wire = await s.wire(t);
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
  const wire = await s.wire(t);
  const userData = '{"id":"42"}';
  wire.send({ event: 'pusher:signin', data: { auth: userAuth(APP, wire.id, userData), user_data: userData } });
  await wire.ear.until('pusher:signin_success');
  await wire.subscribe('#server-to-user-42');
  const headers = { Authorization: `Bearer ${jwt({ sub: '42' }, KEY)}` };
  const meta = await plain.listening(t, 'user/42', '?meta=1', headers);
  const anywhere = await plain.listening(t, 'orders', '?meta=1', headers);
  const stranger = await plain.listening(t, 'orders', '?meta=1', { Authorization: `Bearer ${jwt({ sub: '43' }, KEY)}` });
  await s.rest().sendToUser('42', 'mail', { n: 1 });
  for (const listener of [meta, anywhere]) {
    const heard = JSON.parse((await listener.ear.next()).text);
    assert.deepEqual([heard.event, heard.channel, heard.data], ['mail', 'user/42', '{"n":1}']);
  }
  assert.deepEqual(await wire.ear.until('mail').then(({ channel, data }) => [channel, data]), ['#server-to-user-42', '{"n":1}']);
  assert.equal((await plain.post('/user/42', 'by plain')).status, 200);
  assert.deepEqual(await wire.ear.next().then(({ event, channel, data }) => [event, channel, data]), ['message', '#server-to-user-42', 'by plain']);
  assert.equal(JSON.parse((await meta.ear.next()).text).data, 'by plain');
  await plain.post(ch('orders'), 'end');
  assert.equal(JSON.parse((await stranger.ear.next()).text).data, 'end');
});

test('who sends a user away sends her away from both doors', async (t) => {
  const headers = { Authorization: `Bearer ${jwt({ sub: 'away' }, KEY)}` };
  for (const end of [
    () => fetch(`${s.server.url}/user/away`, { method: 'DELETE', headers: back }),
    () => s.rest().terminateUserConnections('away'),
  ]) {
    const wire = await s.wire(t);
    const userData = '{"id":"away"}';
    wire.send({ event: 'pusher:signin', data: { auth: userAuth(APP, wire.id, userData), user_data: userData } });
    await wire.ear.until('pusher:signin_success');
    const meta = await plain.listening(t, 'orders', '?meta=1', headers);
    const bystander = await s.wire(t);
    assert.deepEqual(await plain.get('/user/away', back).then(({ body }) => [body.online, body.connections]), [true, 2]);
    assert.equal((await end()).status, 200);
    assert.deepEqual([(await wire.closed).code, (await meta.closed).code], [4009, 4403]);
    assert.deepEqual(await bystander.settled(), []);
  }
});

test('who listens to a presence channel through the plain door is a member', async (t) => {
  const wire = await s.wire(t);
  await wire.subscribe('presence-both', { channelData: '{"user_id":"u-2"}' });
  const headers = { Authorization: `Bearer ${jwt({ sub: 'u-17', listen: ['presence-both'] }, KEY)}` };
  const meta = await plain.listening(t, 'presence-both', '?meta=1', headers);
  const added = await wire.ear.next();
  assert.deepEqual([added.event, JSON.parse(added.data).user_id], ['pusher_internal:member_added', 'u-17']);
  const users = JSON.parse((await s.request('GET', '/apps/4711/channels/presence-both/users')).text);
  assert.deepEqual(users.users.map(({ id }) => id).sort(), ['u-17', 'u-2']);
  meta.socket.close();
  const removed = await wire.ear.next();
  assert.deepEqual([removed.event, JSON.parse(removed.data)], ['pusher_internal:member_removed', { user_id: 'u-17' }]);
});

test('a POST is what a cache channel keeps', async (t) => {
  await plain.post(ch('cache-posted', '?event=price'), '1.09');
  const wire = await s.wire(t);
  await wire.subscribe('cache-posted');
  assert.deepEqual(await wire.ear.next().then(({ event, data }) => [event, data]), ['price', '1.09']);
});

test('a channel that is deleted sends its subscribers to ask again', async (t) => {
  const [wire, bystander] = [await s.wire(t), await s.wire(t)];
  await wire.subscribe('deleted');
  assert.equal((await fetch(s.server.url + ch('deleted'), { method: 'DELETE', headers: back })).status, 200);
  assert.equal((await wire.closed).code, 4200);
  assert.deepEqual(await bystander.settled(), []);
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
    const stranger = { Authorization: `Bearer ${jwt({ sub: '8', listen: ['orders', 'private-secre'], speak: ['*'] }, KEY)}` };
    for (const [headers, status, code] of [[{}, 401, 4401], [stranger, 403, 4403]]) {
      const both = `/ch?name=orders&name=${encodeURIComponent(name)}`;
      assert.equal((await plain.get(ch(name), headers)).status, status);
      assert.equal((await plain.get(both, headers)).status, status);
      assert.equal((await plain.stream(t, name, headers)).status, status);
      for (const path of [ch(name), ch(name, '?meta=1'), ch(name, '?last=1&meta=1'), both]) {
        const socket = await plain.socket(t, path, headers);
        assert.equal((await socket.closed).code, code, path);
        assert.deepEqual(socket.ear.heard.map(({ event }) => event), ['close']);
      }
      // Nor does she say something there.
      const said = await fetch(s.server.url + ch(name), { method: 'POST', body: 'x', headers });
      assert.ok([401, 403].includes(said.status), `${said.status}`);
    }
    // Who is on another channel hears nothing of it.
    const bystander = await plain.listening(t, 'orders', '?meta=1');
    const body = JSON.stringify({ name: 'said', channel: name, data: 'secret' });
    assert.equal((await s.request('POST', '/apps/4711/events', { body })).status, 200);
    await plain.post(ch('orders'), 'end');
    assert.equal(JSON.parse((await bystander.ear.next()).text).data, 'end');
  });
}

test('a token opens them', async (t) => {
  const headers = { Authorization: `Bearer ${jwt({ sub: '7', listen: ['private-*', 'presence-secret'] }, KEY)}` };
  for (const name of ['private-secret', 'presence-secret']) {
    const meta = await plain.listening(t, name, '?meta=1', headers);
    await s.rest().trigger(name, 'said', 'secret');
    assert.equal(JSON.parse((await meta.ear.next()).text).data, 'secret');
  }
  const meta = await plain.listening(t, 'user/7', '?meta=1', headers);
  await s.rest().sendToUser('7', 'said', 'secret');
  assert.equal(JSON.parse((await meta.ear.next()).text).data, 'secret');
});

test('what is private behind the plain door takes a signature', async (t) => {
  const wire = await s.wire(t);
  for (const [name, auth] of [
    ['private/orders', ''], ['private/orders', undefined], ['private/orders', channelAuth(APP, wire.id, 'orders')],
    ['user/42', ''], ['user/42', undefined],
  ]) {
    wire.send({ event: 'pusher:subscribe', data: { channel: name, auth } });
    const refused = await wire.ear.next();
    assert.equal(refused.event, 'pusher:subscription_error', `${name} ${refused.text}`);
  }
  await plain.post(ch('private/orders'), 'secret');
  await plain.post('/user/42', 'secret');
  assert.deepEqual(await wire.settled(), []);
  const good = await wire.subscribe('private/orders', { auth: channelAuth(APP, wire.id, 'private/orders') });
  assert.equal(good.event, 'pusher_internal:subscription_succeeded');
  await plain.post(ch('private/orders'), 'secret');
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

test('a server with an app and without a key has no other back end', async (t) => {
  const closed = await startServer();
  t.after(() => closed.stop());
  for (const path of ['/ch/orders', '/ch/private-x', '/ch/*', '/user/7']) {
    const { status } = await fetch(closed.url + path, { method: 'POST', body: 'x' });
    assert.ok([401, 403].includes(status), `${path} ${status}`);
  }
  const { status } = await fetch(`${closed.url}/ch/private-x`);
  assert.ok([401, 403].includes(status), `${status}`);
});

test('a server that nobody has configured has an app to try, and everybody is its back end', async (t) => {
  const open = await start(program, ['--listen', '127.0.0.1:0'], {}, /^listening on http:\/\/(.*)$/);
  t.after(() => open.stop());
  const wire = openWire(t, `ws://${open.address}/app/app-key?protocol=7`);
  await wire.ear.until('pusher:connection_established');
  wire.send({ event: 'pusher:subscribe', data: { channel: 'orders' } });
  await wire.ear.until('pusher_internal:subscription_succeeded');
  const { status } = await fetch(`http://${open.address}/ch/orders?event=paid`, { method: 'POST', body: 'order 7' });
  assert.equal(status, 200);
  assert.equal((await wire.ear.next()).data, 'order 7');
});
