// What clients say to each other: who may, who hears it, in which words, and how often.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { APP, stage } from './harness.mjs';

const OFF = { id: '4712', key: 'off-key', secret: 'off-secret', client_events: 'off' };
const ANY = { id: '4713', key: 'any-key', secret: 'any-secret', client_events: 'any' };
const RARE = { id: '4714', key: 'rare-key', secret: 'rare-secret', client_events_per_connection: '1/h burst 3' };
const TINY = { id: '4715', key: 'tiny-key', secret: 'tiny-secret', data_bytes_max: 100 };

let s;
before(async () => { s = await stage({ apps: [APP, OFF, ANY, RARE, TINY] }); });
after(() => s.stop());

/** Connections that are subscribed to a channel, on presence channels as users 1, 2, … */
async function inside(t, channel, count, app = APP) {
  const wires = [];
  for (let id = 1; id <= count; id += 1) {
    const wire = await s.wire(t, { app });
    await wire.subscribe(channel, { channelData: channel.startsWith('presence-') ? JSON.stringify({ user_id: id }) : undefined });
    wires.push(wire);
  }
  for (const wire of wires) await wire.settled();
  return wires;
}

const frameOf = ({ text, ...frame }) => frame;

for (const [what, data, wire] of [
  ['an object', { a: 1, b: [true, null] }],
  ['a text', 'typing "now" 😀'],
  ['a text of JSON', '{"a":1}'],
  ['a number', 7],
  ['a list', [1, 2]],
  ['null', null],
  ['numbers that JSON does not keep', undefined, '{"a":1.0,"b":12345678901234567890,"a":1e2}'],
]) {
  test(`passed on as it was said: ${what}`, async (t) => {
    const [one, two, three] = await inside(t, 'private-said', 3);
    const raw = wire ?? JSON.stringify(data);
    one.send(`{"event":"client-typing","channel":"private-said","data":${raw}}`);
    for (const other of [two, three]) {
      const frame = await other.ear.next();
      assert.deepEqual([frame.event, frame.channel, 'user_id' in frame], ['client-typing', 'private-said', false]);
      if (wire) assert.ok(frame.text.includes(raw), frame.text);
      else assert.deepEqual(frame.data, data);
    }
    // Never back to who said it.
    assert.deepEqual(await one.settled(), []);
  });
}

test('without data', async (t) => {
  const [one, two] = await inside(t, 'private-silent', 2);
  one.send('{"event":"client-typing","channel":"private-silent"}');
  assert.equal((await two.ear.next()).event, 'client-typing');
});

test('in order, and in the order of the back end', async (t) => {
  const [one, two] = await inside(t, 'private-order', 2);
  for (let at = 0; at < 5; at += 1) one.send({ event: `client-${at}`, channel: 'private-order', data: {} });
  await one.settled();
  await s.rest().trigger('private-order', 'said', {});
  for (let at = 0; at < 5; at += 1) assert.equal((await two.ear.next()).event, `client-${at}`);
  assert.equal((await two.ear.next()).event, 'said');
  assert.deepEqual((await one.settled()).map(({ event }) => event), ['said']);
});

test('on presence channels the server says who speaks, whatever the sender says', async (t) => {
  const [one, two] = await inside(t, 'presence-who', 2);
  for (const claim of [{}, { user_id: '2' }, { user_id: 7 }, { user_id: null }]) {
    one.send({ event: 'client-typing', channel: 'presence-who', data: { a: 1 }, ...claim });
    const frame = frameOf(await two.ear.next());
    assert.deepEqual(frame, { event: 'client-typing', channel: 'presence-who', data: { a: 1 }, user_id: '1' });
  }
  one.send('{"user_id":"2","event":"client-typing","channel":"presence-who","data":{},"user_id":"3"}');
  assert.equal((await two.ear.next()).user_id, '1');
  // On a private channel nobody is said to speak.
  const [three, four] = await inside(t, 'private-who', 2);
  three.send({ event: 'client-typing', channel: 'private-who', data: {}, user_id: '2' });
  assert.equal('user_id' in await four.ear.next(), false);
});

test('pusher-js gives the user with the event', async (t) => {
  const visitors = [{ member: { user_id: 'u-2' } }, { member: { user_id: 'u-17' } }];
  const pushers = await Promise.all(visitors.map((visitor) => s.connect(t, { visitor })));
  const channels = [];
  for (const pusher of pushers) {
    channels.push(pusher.subscribe('presence-metadata'));
    await pusher.ear.until('pusher_internal:subscription_succeeded');
  }
  const heard = new Promise((resolve) => channels[0].bind('client-hi', (data, metadata) => resolve([data, metadata])));
  channels[1].trigger('client-hi', { a: 1 });
  assert.deepEqual(await heard, [{ a: 1 }, { user_id: 'u-17' }]);
});

// Refusals: an error with the channel, and the connection stays.

for (const [what, app, channel, event, more] of [
  ['a public channel', APP, 'public', 'client-x'],
  ['a cache channel', APP, 'cache-public', 'client-x'],
  ['an encrypted channel', APP, 'private-encrypted-x', 'client-x'],
  ['an encrypted cache channel', APP, 'private-encrypted-cache-x', 'client-x'],
  ['an app that has none', OFF, 'private-x', 'client-x'],
  ['an app that has none, presence', OFF, 'presence-x', 'client-x'],
  ['too much data', TINY, 'private-x', 'client-x', { data: 'x'.repeat(101) }],
  ['a name with a line break', APP, 'private-x', 'client-x\ndata: more'],
  ['a name of more than 200 characters', APP, 'private-x', `client-${'x'.repeat(194)}`],
]) {
  test(`refused: ${what}`, async (t) => {
    const [one, two] = await inside(t, channel, 2, app);
    one.send({ event, channel, data: {}, ...more });
    const refused = await one.ear.next();
    assert.deepEqual([refused.event, refused.channel, typeof refused.data.message], ['pusher:error', channel, 'string'], refused.text);
    assert.ok([null, 4301].includes(refused.data.code), refused.text);
    await s.rest(app).trigger(channel, 'end', 'x');
    assert.equal((await one.ear.next()).event, 'end');
    assert.equal((await two.ear.next()).event, 'end');
  });
}

test('refused: who is not subscribed', async (t) => {
  const [inside1] = await inside(t, 'private-outside', 1);
  const [member] = await inside(t, 'presence-outside', 1);
  const outside = await s.wire(t);
  for (const channel of ['private-outside', 'presence-outside', 'private-nobody-there']) {
    outside.send({ event: 'client-x', channel, data: {} });
    const refused = await outside.ear.next();
    assert.deepEqual([refused.event, refused.channel], ['pusher:error', channel]);
  }
  // Nor who has left.
  await outside.subscribe('private-outside');
  outside.send({ event: 'pusher:unsubscribe', data: { channel: 'private-outside' } });
  outside.send({ event: 'client-x', channel: 'private-outside', data: {} });
  assert.equal((await outside.ear.next()).event, 'pusher:error');
  assert.deepEqual([await inside1.settled(), await member.settled()], [[], []]);
});

test('an app may allow them on public channels', async (t) => {
  const [one, two] = await inside(t, 'public', 2, ANY);
  one.send({ event: 'client-x', channel: 'public', data: { a: 1 } });
  assert.deepEqual(frameOf(await two.ear.next()), { event: 'client-x', channel: 'public', data: { a: 1 } });
  const outside = await s.wire(t, { app: ANY });
  outside.send({ event: 'client-x', channel: 'public', data: {} });
  assert.equal((await outside.ear.next()).event, 'pusher:error');
});

test('too many are dropped and told, and the connection stays', async (t) => {
  const [one, two] = await inside(t, 'private-rare', 2, RARE);
  for (let at = 0; at < 5; at += 1) one.send({ event: `client-${at}`, channel: 'private-rare', data: {} });
  for (let at = 3; at < 5; at += 1) {
    const refused = await one.ear.next();
    assert.deepEqual([refused.event, refused.channel, refused.data.code], ['pusher:error', 'private-rare', 4301]);
  }
  // Another connection has its own.
  two.send({ event: 'client-two', channel: 'private-rare', data: {} });
  assert.equal((await one.ear.next()).event, 'client-two');
  await s.rest(RARE).trigger('private-rare', 'end', {});
  assert.deepEqual([(await two.ear.next()).event, (await two.ear.next()).event, (await two.ear.next()).event], ['client-0', 'client-1', 'client-2']);
  assert.equal((await two.ear.next()).event, 'end');
  assert.equal((await one.ear.next()).event, 'end');
});
