// Each kind of channel, from the subscription to the end of it, as pusher-js and as a WebSocket by hand.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { APP, channelAuth, listen, settled, sign, stage, subscribe } from './harness.mjs';

const COUNTING = { id: '4712', key: 'counting-key', secret: 'counting-secret', subscription_counts: true };
const KINDS = [
  '', 'private-', 'presence-', 'private-encrypted-',
  'cache-', 'private-cache-', 'presence-cache-', 'private-encrypted-cache-',
];
const ANN = { member: { user_id: 'u-2', user_info: { name: 'Ann' } } };
const MEI = { member: { user_id: 'u-17', user_info: { name: 'Mei' } } };

let s;
before(async () => { s = await stage({ apps: [APP, COUNTING] }); });
after(() => s.stop());

for (const prefix of KINDS) {
  const isCache = prefix.includes('cache-');
  const name = `${prefix}kind`;
  test(`${prefix || 'public'}: subscribed, heard, left`, async (t) => {
    const [one, other] = [await s.connect(t, { visitor: ANN }), await s.connect(t, { visitor: MEI })];
    const first = await subscribe(one, name);
    if (isCache) assert.equal((await first.ear.next()).event, 'pusher:cache_miss');
    const data = { id: 42, state: 'pa"id\n', name: 'žluťoučký kůň 😀' };
    assert.equal(await (await s.rest().trigger(name, 'App\\Events\\OrderPaid', data)).text(), '{}');
    assert.deepEqual(await first.ear.next(), { event: 'App\\Events\\OrderPaid', data });
    // Who comes later: a cache channel tells the last event after it has let her in, others tell nothing.
    const second = await subscribe(other, name);
    if (isCache) assert.deepEqual(await second.ear.next(), { event: 'App\\Events\\OrderPaid', data });
    await s.rest().trigger(name, 'text', 'no JSON');
    assert.deepEqual(await second.ear.next(), { event: 'text', data: 'no JSON' });
    if (prefix.startsWith('presence-')) {
      assert.deepEqual(await first.ear.next(), { event: 'pusher:member_added', data: { id: 'u-17', info: { name: 'Mei' } } });
    }
    assert.deepEqual(await first.ear.next(), { event: 'text', data: 'no JSON' });
    // Who has left hears no more, who is there does.
    one.unsubscribe(name);
    await settled(one);
    await subscribe(one, 'marker');
    await s.rest().trigger(name, 'late', {});
    await s.rest().trigger('marker', 'end', {});
    await second.ear.until('late');
    await one.ear.until('end');
    assert.deepEqual(one.ear.heard.filter(({ event }) => event === 'late'), []);
  });
}

// What is published arrives as it was said, and is not JSON to the server.
const BYTES = {
  'an object': '{"b":1,"a":{"c":[]}}',
  'numbers that are not kept by JSON': '{"a":1.0,"b":1e2,"c":12345678901234567890}',
  'a name twice': '{"a":1,"a":2}',
  'escapes': '{"a":"\\u00e9\\/\\ud83d\\ude00"}',
  'no JSON': 'paid, "quoted" and \\ and \u0000\u001f\u007f\u2028 and 😀',
  'nothing': '',
  'white space': ' {"a" : 1}\r\n',
  'a number': '7',
  '100 KB': 'ü'.repeat(51_200),
};

for (const [at, [what, data]] of Object.entries(BYTES).entries()) {
  test(`data, byte for byte: ${what}`, async (t) => {
    const wire = await s.wire(t);
    for (const channel of ['', 'private-', 'presence-', 'cache-'].map((prefix) => `${prefix}bytes-${at}`)) {
      await wire.subscribe(channel, { channelData: channel.startsWith('presence-') ? '{"user_id":"u-2"}' : undefined });
      const body = JSON.stringify({ name: 'said', channel, data });
      assert.equal((await s.request('POST', '/apps/4711/events', { body })).text, '{}');
      const { text, ...frame } = await wire.ear.until('said');
      assert.deepEqual(frame, { event: 'said', channel, data });
    }
  });
}

test('data that is escaped in the request is the same text', async (t) => {
  const wire = await s.wire(t);
  await wire.subscribe('escaped');
  const body = '{"name":"s\\u0061id","channels":["esc\\u0061ped"],"data":"\\u0041\\/\\ud83d\\ude00\\n"}';
  assert.equal((await s.request('POST', '/apps/4711/events', { body })).text, '{}');
  assert.equal((await wire.ear.until('said')).data, 'A/😀\n');
});

test('what a subscription is answered', async (t) => {
  const wire = await s.wire(t);
  for (const channel of ['answered', 'private-answered', 'private-encrypted-answered', 'cache-answered']) {
    const { text, ...frame } = await wire.subscribe(channel);
    assert.deepEqual(frame, { event: 'pusher_internal:subscription_succeeded', channel, data: '{}' });
  }
  const miss = await wire.ear.next();
  assert.deepEqual([miss.event, miss.channel], ['pusher:cache_miss', 'cache-answered']);
  assert.ok([undefined, '{}'].includes(miss.data));
  // Once more: answered, and nothing is heard twice.
  assert.equal((await wire.subscribe('answered')).event, 'pusher_internal:subscription_succeeded');
  await s.rest().trigger('answered', 'once', {});
  await wire.ear.until('once');
  assert.deepEqual((await wire.settled()).map(({ event }) => event), []);
});

test('data of a request as a text is the same request', async (t) => {
  const wire = await s.wire(t);
  wire.send({ event: 'pusher:subscribe', data: JSON.stringify({ channel: 'by-text' }) });
  assert.equal((await wire.ear.next()).event, 'pusher_internal:subscription_succeeded');
  wire.send({ event: 'pusher:unsubscribe', data: JSON.stringify({ channel: 'by-text' }) });
  await wire.settled();
  assert.equal((await s.request('GET', '/apps/4711/channels/by-text')).text, '{"occupied":false}');
});

test('leaving what one is not on is no matter', async (t) => {
  const wire = await s.wire(t);
  for (const channel of ['never', 'private-never', 'presence-never', '#server-to-user-1', '']) {
    wire.send({ event: 'pusher:unsubscribe', data: { channel } });
  }
  assert.deepEqual(await wire.settled(), []);
});

test('a subscription that is taken back while it is asked for ends', async (t) => {
  const pusher = await s.connect(t);
  pusher.subscribe('private-taken-back');
  pusher.unsubscribe('private-taken-back');
  await pusher.ear.until('pusher_internal:subscription_succeeded');
  await settled(pusher);
  assert.equal((await s.request('GET', '/apps/4711/channels/private-taken-back')).text, '{"occupied":false}');
});

// Signatures

const otherwise = (wire, { secret = APP.secret, key = APP.key, socket = wire.id, channel, data } = {}) =>
  channelAuth({ key, secret }, socket, channel, data);

for (const [what, auth, channelData] of [
  ['none', () => undefined],
  ['an empty one', () => ''],
  ['half of one', () => `${APP.key}:`],
  ['another secret', (wire, channel, data) => otherwise(wire, { secret: 'another', channel, data })],
  ['another key', (wire, channel, data) => otherwise(wire, { key: 'another', channel, data })],
  ['that of another app', (wire, channel, data) => otherwise(wire, { key: COUNTING.key, secret: COUNTING.secret, channel, data })],
  ['that of another channel', (wire, channel, data) => otherwise(wire, { channel: `${channel}x`, data })],
  ['that of another socket', (wire, channel, data) => otherwise(wire, { socket: '1.1', channel, data })],
  ['upper case', (wire, channel, data) => {
    const [key, digest] = otherwise(wire, { channel, data }).split(':');
    return `${key}:${digest.toUpperCase()}`;
  }],
  ['without the last digit', (wire, channel, data) => otherwise(wire, { channel, data }).slice(0, -1)],
  ['of other channel_data', (wire, channel) => otherwise(wire, { channel, data: '{"user_id":"u-3"}' })],
  ['no channel_data, but signed', (wire, channel) => otherwise(wire, { channel, data: '{"user_id":"u-2"}' }), null],
]) {
  test(`a signature that is refused: ${what}`, async (t) => {
    const wire = await s.wire(t);
    for (const channel of ['private-x', 'presence-x', 'private-encrypted-x', 'private-cache-x', 'presence-cache-x']) {
      const data = channel.startsWith('presence-') && channelData !== null ? '{"user_id":"u-2"}' : undefined;
      wire.send({ event: 'pusher:subscribe', data: { channel, auth: auth(wire, channel, data), channel_data: data } });
      const refused = await wire.ear.next();
      assert.equal(refused.event, 'pusher:subscription_error', refused.text);
      assert.equal(refused.channel, channel);
      assert.equal(refused.data.type, 'AuthError');
      assert.equal(refused.data.status, 401);
      assert.equal(typeof refused.data.error, 'string');
      // Whoever sees an error must not be able to make a signature of it.
      for (const signed of [`${wire.id}:${channel}`, `${wire.id}:${channel}:${data}`]) {
        assert.ok(!refused.text.includes(sign(APP.secret, signed)));
      }
      assert.equal((await s.request('GET', `/apps/4711/channels/${channel}`)).text, '{"occupied":false}');
    }
    // The connection is as good as before.
    await wire.subscribe('still-here');
    await s.rest().trigger('still-here', 'still', {});
    await wire.ear.until('still');
  });
}

test('pusher-js is told of a refusal, and goes on', async (t) => {
  const pusher = await s.connect(t, { visitor: { secret: 'another', ...ANN } });
  for (const name of ['private-refused', 'presence-refused', 'private-encrypted-refused']) {
    const ear = listen(pusher.subscribe(name));
    const { event, data } = await ear.next();
    assert.equal(event, 'pusher:subscription_error');
    assert.deepEqual([data.type, data.status], ['AuthError', 401]);
  }
  await subscribe(pusher, 'goes-on');
  assert.equal(pusher.connection.state, 'connected');
});

test('channel_data counts as it was signed, also on private channels', async (t) => {
  const wire = await s.wire(t);
  for (const [channel, channelData] of [
    ['private-signed', '{"user_id":"u-17","user_info":{"name":"Mei","role":"editor"}}'],
    ['presence-signed', '{ "user_id" : "u\\/17", "user_info":{"name":"\\u017elu\\u0165", "n":1.0} }'],
    ['presence-cache-signed', '{"user_info":{"b":1,"a":2},"user_id":"u-17"}'],
  ]) {
    assert.equal((await wire.subscribe(channel, { channelData })).event, 'pusher_internal:subscription_succeeded');
  }
});

// Names

test('names that are refused, and that are not', async (t) => {
  const wire = await s.wire(t);
  for (const name of [
    '', 'x'.repeat(201), 'a b', 'a\nb', 'a\u0000', 'žlutý', 'a#b', '#', '#other', '#server-to-user-', 'a%20', 'a"b', '😀',
  ]) {
    wire.send({ event: 'pusher:subscribe', data: { channel: name, auth: channelAuth(APP, wire.id, name) } });
    const refused = await wire.ear.next();
    assert.match(refused.event, /^pusher:(subscription_error|error)$/, `${name}: ${refused.text}`);
  }
  for (const name of ['x'.repeat(200), `private-${'x'.repeat(192)}`, 'A-z_0=@,.;9', '-', 'App.Models.User.1']) {
    assert.equal((await wire.subscribe(name)).event, 'pusher_internal:subscription_succeeded', name);
  }
});

// Cache

test('a cache channel keeps the last event of the back end, also when nobody is there', async (t) => {
  await s.rest().trigger('cache-kept', 'first', { n: 1 });
  await s.rest().triggerBatch([{ channel: 'cache-kept', name: 'second', data: { n: 2 } }]);
  const pusher = await s.connect(t);
  const { ear } = await subscribe(pusher, 'cache-kept');
  assert.deepEqual(await ear.next(), { event: 'second', data: { n: 2 } });
  // When everybody has left it is still there.
  pusher.unsubscribe('cache-kept');
  await settled(pusher);
  assert.equal((await s.request('GET', '/apps/4711/channels/cache-kept')).text, '{"occupied":false}');
  assert.deepEqual(await (await subscribe(pusher, 'cache-kept')).ear.next(), { event: 'second', data: { n: 2 } });
  // Each app has its own.
  const counting = await s.connect(t, { app: COUNTING });
  assert.equal((await (await subscribe(counting, 'cache-kept')).ear.until((item) => !item.event.includes('count'))).event, 'pusher:cache_miss');
});

test('what clients say is not kept', async (t) => {
  const [one, other] = [await s.connect(t), await s.connect(t)];
  const said = await subscribe(one, 'private-cache-said');
  const { channel, ear } = await subscribe(other, 'private-cache-said');
  await ear.until('pusher:cache_miss');
  channel.trigger('client-typing', { a: 1 });
  await said.ear.until('client-typing');
  const late = await subscribe(await s.connect(t), 'private-cache-said');
  assert.equal((await late.ear.next()).event, 'pusher:cache_miss');
});

// Counts

test('subscription_count where it is switched on, but not of presence channels', async (t) => {
  const [one, other] = [await s.connect(t, { app: COUNTING, visitor: ANN }), await s.connect(t, { app: COUNTING, visitor: MEI })];
  for (const name of ['counted', 'private-counted', 'private-encrypted-counted', 'cache-counted']) {
    const { channel, ear } = await subscribe(one, name);
    const become = (count) => ear.until(({ event, data }) => event === 'pusher:subscription_count' && data.subscription_count === count);
    await become(1);
    await subscribe(other, name);
    await become(2);
    assert.equal(channel.subscriptionCount, 2);
    other.unsubscribe(name);
    await become(1);
  }
  const { ear } = await subscribe(one, 'presence-counted');
  await subscribe(other, 'presence-counted');
  await s.rest(COUNTING).trigger('presence-counted', 'end', {});
  await ear.until('end');
  assert.deepEqual(ear.heard.filter(({ event }) => event.includes('count')), []);
});

test('no subscription_count where it is not', async (t) => {
  const [one, other] = [await s.wire(t), await s.wire(t)];
  await one.subscribe('uncounted');
  await other.subscribe('uncounted');
  assert.deepEqual(await one.settled(), []);
});
