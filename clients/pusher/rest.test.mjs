// The HTTP API: by Pusher's library for Node, and by requests that are signed by hand, well and badly.
//
// The server looks at its clock, so requests of the protocol's description, which have a fixed time, cannot be sent.
// Their signatures, and those of sockets and users, are compared with what the harness makes of the same text. What the
// harness signs is then what the server is asked.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { request as httpRequest } from 'node:http';
import { APP, channelAuth, md5, sign, signed, stage, startServer, textToSign, userAuth } from './harness.mjs';

const DISABLED = { id: '4712', key: 'disabled-key', secret: 'disabled-secret', enabled: false };
const OTHER = { id: '4713', key: 'other-key', secret: 'other-secret', events: '1/h burst 2' };
const HOSTED = { id: '4714', key: 'hosted-key', secret: 'hosted-secret', profile: 'hosted' };
const BATCHES = { id: '4715', key: 'batches-key', secret: 'batches-secret', batch_max: 20, channels_per_event_max: 3 };

let s;
before(async () => { s = await stage({ apps: [APP, DISABLED, OTHER, HOSTED, BATCHES] }); });
after(() => s.stop());

// Signatures

const MEI = '{"user_id":"u-17","user_info":{"name":"Mei","role":"editor"}}';
const ORDER = JSON.stringify({
  name: 'order.updated', channels: ['private-orders.42', 'orders'], data: '{"id":42,"state":"paid"}', socket_id: '81923.4471', info: 'subscription_count',
});
const AT = { auth_key: APP.key, auth_timestamp: '1795400000', auth_version: '1.0' };

for (const [what, made, expected] of [
  ['a private channel', () => channelAuth(APP, '81923.4471', 'private-orders.42'),
    `${APP.key}:dd528e5d9d40821a0c5b5d8a67064faf24a57c02c94fdce8b13e87c457fe193d`],
  ['a presence channel', () => channelAuth(APP, '81923.4471', 'presence-room.3', MEI),
    `${APP.key}:c62d68ab4cc29e9326aed8aa954d8424d3c3411abf86fe55d1261e55b90dbc40`],
  ['a private channel with channel_data', () => channelAuth(APP, '81923.4471', 'private-orders.42', MEI),
    `${APP.key}:3f18698276c62ad4b7210119c6eec8ce5ce3cd2a623bb3a056337124e628f3ee`],
  ['a user', () => userAuth(APP, '81923.4471', '{"id":"u-17","user_info":{"name":"Mei"},"watchlist":["u-2","u-9"]}'),
    `${APP.key}:0c88e3bfd6715adb7c088093f0b9a66aeb680b58ffcaccdeeb0be355bd3e2d47`],
  ["a request's body", () => md5(ORDER), 'bcc8811fcc59498cf1d03790c9971c70'],
  ['a POST', () => sign(APP.secret, textToSign('POST', '/apps/4711/events', { ...AT, body_md5: md5(ORDER) })),
    '640f8c6b0800176e981b86850db695b6c4ad47a1d99740d283c5b78ab6acc65d'],
  ['a GET', () => sign(APP.secret, textToSign('GET', '/apps/4711/channels', { ...AT, filter_by_prefix: 'presence-', info: 'user_count' })),
    '28d27bc801875355a577f343b0f30af4e3135d9bd5911d5e058e256222a1eaab'],
  ['a webhook', () => sign(APP.secret, '{"time_ms":1795400000123,"events":[{"name":"channel_occupied","channel":"orders"}]}'),
    '0164f6cb8a712917ed15ff3b2cc61aa4ad4e1114fc7435cae253f9cf570223fb'],
  ['a key of an encrypted channel', () => s.rest().authorizeChannel('81923.4471', 'private-encrypted-vault').shared_secret,
    'u0V/HwEMaXw1MXzYL8NtEPFPqyUSB24/LQHzwwpH7AM='],
  ["a presence channel, by Pusher's library", () => s.rest().authorizeChannel('81923.4471', 'presence-room.3', JSON.parse(MEI)).auth,
    `${APP.key}:c62d68ab4cc29e9326aed8aa954d8424d3c3411abf86fe55d1261e55b90dbc40`],
]) {
  test(`the signature of ${what}`, () => assert.equal(made(), expected));
}

// What is published

const json = async (promise) => JSON.parse(await (await promise).text());
const channelsOf = (count) => Array.from({ length: count }, (_, at) => `many-${at}`);
const event = (more = {}) => JSON.stringify({ name: 'said', channel: 'here', data: 'x', ...more });

test('one event on one channel and on a hundred', async (t) => {
  const wire = await s.wire(t);
  for (const name of ['many-0', 'many-99', 'one']) await wire.subscribe(name);
  const answer = await s.rest().trigger('one', 'said', { a: 1 });
  assert.deepEqual([answer.status, await answer.text()], [200, '{}']);
  assert.match(answer.headers.get('content-type'), /^application\/json/);
  assert.equal((await wire.ear.next()).channel, 'one');
  assert.equal(await (await s.rest().trigger(channelsOf(100), 'said', {})).text(), '{}');
  assert.deepEqual([(await wire.ear.next()).channel, (await wire.ear.next()).channel].sort(), ['many-0', 'many-99']);
  assert.deepEqual(await wire.settled(), []);
});

test('whom socket_id names does not hear it, on any channel', async (t) => {
  const [one, two] = [await s.wire(t), await s.wire(t)];
  for (const wire of [one, two]) for (const name of ['ex-1', 'ex-2']) await wire.subscribe(name);
  await s.rest().trigger(['ex-1', 'ex-2'], 'said', {}, { socket_id: one.id });
  await s.rest().trigger('ex-1', 'end', {}, { socket_id: '1.1' });
  assert.equal((await one.ear.next()).event, 'end');
  assert.deepEqual([(await two.ear.next()).event, (await two.ear.next()).event, (await two.ear.next()).event], ['said', 'said', 'end']);
});

test('info of the channels that were published to', async (t) => {
  const [one, two] = [await s.wire(t), await s.wire(t)];
  for (const wire of [one, two]) await wire.subscribe('presence-info', { channelData: '{"user_id":1}' });
  await one.subscribe('info');
  const channels = ['info', 'presence-info', 'info-empty', 'presence-info-empty'];
  for (const [info, expected] of [
    ['subscription_count,user_count', {
      'info': { subscription_count: 1 }, 'presence-info': { user_count: 1, subscription_count: 2 },
      'info-empty': { subscription_count: 0 }, 'presence-info-empty': { user_count: 0, subscription_count: 0 },
    }],
    ['subscription_count', {
      'info': { subscription_count: 1 }, 'presence-info': { subscription_count: 2 },
      'info-empty': { subscription_count: 0 }, 'presence-info-empty': { subscription_count: 0 },
    }],
    ['user_count', { 'info': {}, 'presence-info': { user_count: 1 }, 'info-empty': {}, 'presence-info-empty': { user_count: 0 } }],
  ]) {
    assert.deepEqual(await json(s.rest().trigger(channels, 'said', {}, { info })), { channels: expected });
  }
});

test('batches', async (t) => {
  const wire = await s.wire(t);
  await wire.subscribe('batch');
  await wire.subscribe('presence-batch', { channelData: '{"user_id":1}' });
  const events = Array.from({ length: 10 }, (_, at) => ({ channel: 'batch', name: `said-${at}`, data: { at } }));
  const answer = await s.rest().triggerBatch(events);
  assert.deepEqual([answer.status, await answer.text()], [200, '{}']);
  for (let at = 0; at < 10; at += 1) {
    const frame = await wire.ear.next();
    assert.deepEqual([frame.event, frame.data], [`said-${at}`, JSON.stringify({ at })]);
  }
  const info = await json(s.rest().triggerBatch([
    { channel: 'batch', name: 'a', data: 'x', info: 'subscription_count' },
    { channel: 'batch', name: 'b', data: 'x', socket_id: wire.id },
    { channel: 'presence-batch', name: 'c', data: 'x', info: 'user_count,subscription_count' },
  ]));
  assert.deepEqual(info, { batch: [{ subscription_count: 1 }, {}, { user_count: 1, subscription_count: 1 }] });
  assert.deepEqual((await wire.settled()).map((frame) => frame.event), ['a', 'c']);
  // None of a batch, if one cannot be.
  const bad = await s.request('POST', '/apps/4711/batch_events', {
    body: JSON.stringify({ batch: [{ channel: 'batch', name: 'never', data: 'x' }, { channel: 'b ad', name: 'never', data: 'x' }] }),
  });
  assert.equal(bad.status, 400);
  assert.deepEqual(await wire.settled(), []);
});

test('a user has a path for events too', async (t) => {
  const wire = await s.wire(t);
  const userData = '{"id":"rest-mail"}';
  wire.send({ event: 'pusher:signin', data: { auth: userAuth(APP, wire.id, userData), user_data: userData } });
  await wire.ear.until('pusher:signin_success');
  await wire.subscribe('#server-to-user-rest-mail');
  const answer = await s.request('POST', '/apps/4711/users/rest-mail/events', { body: JSON.stringify({ name: 'said', data: 'x' }) });
  assert.deepEqual([answer.status, answer.text], [200, '{}']);
  assert.deepEqual(await wire.ear.next().then(({ event, channel, data }) => [event, channel, data]), ['said', '#server-to-user-rest-mail', 'x']);
});

test('the old way to publish', async (t) => {
  const wire = await s.wire(t);
  await wire.subscribe('old');
  const answer = await s.request('POST', '/apps/4711/channels/old/events', { body: '{"raw":1.0}', params: { name: 'said' } });
  assert.equal(answer.status, 202);
  const { text, ...frame } = await wire.ear.next();
  assert.deepEqual(frame, { event: 'said', channel: 'old', data: '{"raw":1.0}' });
});

// What is asked

test('channels', async (t) => {
  const [one, two] = [await s.wire(t), await s.wire(t)];
  await one.subscribe('ask-public');
  await one.subscribe('presence-ask-1', { channelData: '{"user_id":1}' });
  await two.subscribe('presence-ask-1', { channelData: '{"user_id":2}' });
  await two.subscribe('presence-ask-2', { channelData: '{"user_id":2}' });
  await two.subscribe('private-ask');
  const get = (params) => json(s.rest().get({ path: '/channels', params }));
  const { channels } = await get({});
  for (const name of ['ask-public', 'presence-ask-1', 'presence-ask-2', 'private-ask']) assert.deepEqual(channels[name], {}, name);
  assert.equal('ask-nobody' in channels, false);
  assert.deepEqual(await get({ filter_by_prefix: 'private-ask' }), { channels: { 'private-ask': {} } });
  assert.deepEqual(await get({ filter_by_prefix: 'nothing-like-it' }), { channels: {} });
  assert.deepEqual(await get({ filter_by_prefix: 'presence-ask', info: 'user_count' }),
    { channels: { 'presence-ask-1': { user_count: 2 }, 'presence-ask-2': { user_count: 1 } } });
  // Who has gone does not count.
  two.send({ event: 'pusher:unsubscribe', data: { channel: 'presence-ask-1' } });
  await two.settled();
  assert.deepEqual((await get({ filter_by_prefix: 'presence-ask-1', info: 'user_count' })).channels, { 'presence-ask-1': { user_count: 1 } });
});

test('a channel', async (t) => {
  const [one, two] = [await s.wire(t), await s.wire(t)];
  await one.subscribe('single');
  for (const wire of [one, two]) await wire.subscribe('presence-single', { channelData: '{"user_id":7}' });
  await one.subscribe('cache-single');
  const get = async (name, info) => json(s.rest().get({ path: `/channels/${name}`, params: info ? { info } : {} }));
  assert.deepEqual(await get('single'), { occupied: true });
  assert.deepEqual(await get('single', 'subscription_count'), { occupied: true, subscription_count: 1 });
  assert.deepEqual(await get('presence-single', 'user_count,subscription_count'), { occupied: true, user_count: 1, subscription_count: 2 });
  assert.deepEqual(await get('nowhere'), { occupied: false });
  assert.deepEqual(await get('cache-single', 'cache'), { occupied: true, cache: null });
  await s.rest().trigger('cache-single', 'said', { a: 1 });
  const { cache, ...rest } = await get('cache-single', 'cache');
  assert.deepEqual([rest, cache.data], [{ occupied: true }, '{"a":1}']);
  assert.ok(cache.ttl > 0 && cache.ttl <= 1800, `${cache.ttl}`);
  await s.rest().trigger('cache-single-alone', 'said', 'kept');
  assert.equal((await get('cache-single-alone', 'cache')).cache.data, 'kept');
});

test('the users of a channel', async (t) => {
  const [one, two, three] = [await s.wire(t), await s.wire(t), await s.wire(t)];
  for (const [wire, id] of [[one, 'u-2'], [two, 17], [three, '17']]) {
    await wire.subscribe('presence-users', { channelData: JSON.stringify({ user_id: id, user_info: { a: 1 } }) });
  }
  const get = (name) => json(s.rest().get({ path: `/channels/${name}/users` }));
  const { users, ...more } = await get('presence-users');
  assert.deepEqual([users.sort((a, b) => (a.id < b.id ? -1 : 1)), more], [[{ id: '17' }, { id: 'u-2' }], {}]);
  assert.deepEqual(await get('presence-nobody'), { users: [] });
});

test('the end of a user, also on the path of the library for Python', async (t) => {
  for (const path of ['/apps/4711/users/rest-1/terminate_connections', '/users/rest-1/terminate_connections', '/apps/4711/users/john doe/terminate_connections']) {
    const wire = await s.wire(t);
    const userData = JSON.stringify({ id: path.includes('john') ? 'john doe' : 'rest-1' });
    wire.send({ event: 'pusher:signin', data: { auth: userAuth(APP, wire.id, userData), user_data: userData } });
    await wire.ear.until('pusher:signin_success');
    const answer = await s.request('POST', path, { body: '{}' });
    assert.deepEqual([answer.status, answer.text], [200, '{}'], path);
    assert.equal((await wire.closed).code, 4009);
  }
});

test('what other servers answer too', async (t) => {
  const up = await (await fetch(`${s.server.url}/up`)).json();
  assert.deepEqual(up, { health: 'OK' });
  const connections = async () => JSON.parse((await s.request('GET', '/apps/4714/connections', { app: HOSTED })).text);
  assert.deepEqual(await connections(), { connections: 0 });
  const wire = await s.wire(t, { app: HOSTED });
  assert.deepEqual(await connections(), { connections: 1 });
  wire.socket.close();
  assert.equal((await s.request('GET', '/apps/4714/connections', { query: '' })).status, 401);
});

// Habits of libraries

test('habits of libraries that are no mistakes', async () => {
  const post = (more) => s.request('POST', '/apps/4711/events', { body: event(), ...more });
  const good = async (what, promise) => assert.deepEqual((await promise).status, 200, what);
  await good('the name of the library', post({ headers: { 'X-Pusher-Library': 'pusher-http-php 7.2.6' } }));
  await good('no type', post({ headers: { 'Content-Type': '' } }));
  await good('ten minutes ago, nearly', post({ time: Math.floor(Date.now() / 1000) - 590 }));
  await good('ten minutes ahead, nearly', post({ time: Math.floor(Date.now() / 1000) + 590 }));
  // PHP encodes what it sends and signs it as it was; a list it signs as one text.
  const asked = signed(APP, 'GET', '/apps/4711/channels/presence-habit', { params: { info: 'user_count,subscription_count' } });
  const { info, ...others } = asked;
  const encoded = new URLSearchParams(others).toString();
  for (const query of [
    `${encoded}&info=user_count,subscription_count`, `${encoded}&info=user_count%2Csubscription_count`, `info=user_count%2csubscription_count&${encoded}`,
    `${encoded}&info[0]=user_count&info[1]=subscription_count`, `${encoded}&info%5B0%5D=user_count&info%5B1%5D=subscription_count`,
  ]) await good(query, s.request('GET', '/apps/4711/channels/presence-habit', { query }));
  await good('space as %20 and +', s.request('GET', '/apps/4711/channels', { params: { filter_by_prefix: 'a b' } }));
  // Python sends the MD5 of nothing.
  await good('body_md5 of a GET', s.request('GET', '/apps/4711/channels', { body_md5: md5('') }));
  await good('names of parameters in capitals', s.request('GET', '/apps/4711/channels', { params: { Filter_By_Prefix: 'x' } }));
});

test('a channel in a path is signed decoded or as it is sent', async () => {
  const name = 'cache-a@b,c;d=e';
  for (const path of [`/apps/4711/channels/${name}`, `/apps/4711/channels/${encodeURIComponent(name)}`]) {
    const query = new URLSearchParams(signed(APP, 'GET', path, { params: { info: 'cache' } }));
    const answer = await fetch(`${s.server.url}/apps/4711/channels/${encodeURIComponent(name)}?${query}`);
    assert.deepEqual(await answer.json(), { occupied: false, cache: null }, path);
  }
});

test('a body that comes in pieces', async () => {
  const body = event();
  const query = new URLSearchParams(signed(APP, 'POST', '/apps/4711/events', { body }));
  const status = await new Promise((resolve, reject) => {
    const request = httpRequest(`${s.server.url}/apps/4711/events?${query}`, { method: 'POST' }, ({ statusCode }) => resolve(statusCode));
    request.on('error', reject);
    request.write(body.slice(0, 10));
    request.end(body.slice(10));
  });
  assert.equal(status, 200);
});

test('data that is no text is published as JSON', async (t) => {
  const wire = await s.wire(t);
  await wire.subscribe('no-text');
  for (const data of [{ a: [1, 'x'] }, [1, 2], 7, true]) {
    await s.request('POST', '/apps/4711/events', { body: event({ channel: 'no-text', data }) });
    assert.deepEqual(JSON.parse((await wire.ear.next()).data), data);
  }
});

// Refusals

const EVENTS = '/apps/4711/events';
const CHANNELS = '/apps/4711/channels';
const now = () => Math.floor(Date.now() / 1000);
const query = (...parts) => new URLSearchParams(signed(...parts)).toString();
const batchOf = (count) => JSON.stringify({ batch: Array.from({ length: count }, () => ({ name: 'said', channel: 'here', data: 'x' })) });

/** What is asked, what it is answered, and what the sentence must have in it. */
const REFUSED = {
  // Who asks
  'no signature at all': [['POST', EVENTS, { body: event(), query: '' }], 401],
  'another secret': [['POST', EVENTS, { body: event(), app: { ...APP, secret: 'another' } }], 401],
  'another key': [['POST', EVENTS, { body: event(), app: { ...APP, key: 'another' } }], 401],
  'the key of another app': [['POST', EVENTS, { body: event(), app: BATCHES }], 401],
  'a signature in other letters': [['GET', CHANNELS, () => ({ query: query(APP, 'GET', CHANNELS).replace(/signature=.*/, (all) => all.toUpperCase()) })], 401],
  'half of a signature': [['GET', CHANNELS, () => ({ query: query(APP, 'GET', CHANNELS).slice(0, -1) })], 401],
  'a parameter that was not signed': [['GET', CHANNELS, () => ({ query: `${query(APP, 'GET', CHANNELS)}&info=user_count` })], 401],
  'signed for another method': [['POST', EVENTS, () => ({ body: event(), query: query(APP, 'PUT', EVENTS, { body: event() }) })], 401],
  'signed for another path': [['POST', EVENTS, () => ({ body: event(), query: query(APP, 'POST', '/apps/4711/batch_events', { body: event() }) })], 401],
  'an old time': [['POST', EVENTS, () => ({ body: event(), time: now() - 620 })], 401],
  'a time to come': [['POST', EVENTS, () => ({ body: event(), time: now() + 620 })], 401],
  'a time that is none': [['POST', EVENTS, { body: event(), auth_timestamp: 'soon' }], 401],
  'no time': [['POST', EVENTS, { body: event(), auth_timestamp: null }], 401],
  'no key': [['POST', EVENTS, { body: event(), auth_key: null }], 401],
  'another version': [['POST', EVENTS, { body: event(), auth_version: '2.0' }], 401],
  'no body_md5': [['POST', EVENTS, { body: event(), body_md5: null }], 401],
  'the body_md5 of something else': [['POST', EVENTS, { body: event(), body_md5: md5('else') }], 401],
  'a body_md5 in capitals of something else': [['POST', EVENTS, { body: event(), body_md5: md5('else').toUpperCase() }], 401],
  'a disabled app': [['POST', '/apps/4712/events', { body: event(), app: DISABLED }], 403],
  // What for
  'an unknown app': [['POST', '/apps/9999/events', { body: event(), app: { ...APP, id: '9999' } }], 404],
  'an unknown path': [['GET', '/apps/4711/nothing', {}], 404],
  'an unknown path of a channel': [['GET', `${CHANNELS}/a/nothing`, {}], 404],
  // The body
  'no JSON': [['POST', EVENTS, { body: '{"name":' }], 400],
  'no body': [['POST', EVENTS, { body: '' }], 400],
  'a list': [['POST', EVENTS, { body: '[]' }], 400],
  'a body that is not UTF-8': [['POST', EVENTS, { body: Buffer.from('{"name":"\xff","channel":"a","data":"x"}', 'latin1') }], 400],
  'a body that is too deep': [['POST', EVENTS, { body: '['.repeat(20_000) }], 400],
  'no name': [['POST', EVENTS, { body: event({ name: undefined }) }], 400],
  'a name that is a number': [['POST', EVENTS, { body: event({ name: 7 }) }], 400],
  'an empty name': [['POST', EVENTS, { body: event({ name: '' }) }], 400],
  'a name of 201 characters': [['POST', EVENTS, { body: event({ name: 'n'.repeat(201) }) }], 400],
  'a name with a line break': [['POST', EVENTS, { body: event({ name: 'said\ndata: more' }) }], 400],
  'a name that is half a character': [['POST', EVENTS, { body: event().replace('said', '\\ud800') }], 400],
  'a name of the protocol': [['POST', EVENTS, { body: event({ name: 'pusher:ping' }) }], 400],
  'an inner name of the protocol': [['POST', EVENTS, { body: event({ name: 'pusher_internal:member_added' }) }], 400],
  'data that is half a character': [['POST', EVENTS, { body: event().replace('"x"', '"\\ud800"') }], 400],
  'no data': [['POST', EVENTS, { body: event({ data: undefined }) }], 400],
  'no channel': [['POST', EVENTS, { body: event({ channel: undefined }) }], 400],
  'no channels': [['POST', EVENTS, { body: event({ channel: undefined, channels: [] }) }], 400],
  'channels that are none': [['POST', EVENTS, { body: event({ channel: undefined, channels: 'a' }) }], 400],
  'a channel that is a number': [['POST', EVENTS, { body: event({ channel: 7 }) }], 400],
  'a channel with a space': [['POST', EVENTS, { body: event({ channel: 'a b' }) }], 400],
  'a channel of other letters': [['POST', EVENTS, { body: event({ channel: 'žlutý' }) }], 400],
  'a channel of 201 characters': [['POST', EVENTS, { body: event({ channel: 'c'.repeat(201) }) }], 400],
  'a channel with a #': [['POST', EVENTS, { body: event({ channel: '#other' }) }], 400],
  'a user channel of nobody': [['POST', EVENTS, { body: event({ channel: '#server-to-user-' }) }], 400],
  'one bad channel of two': [['POST', EVENTS, { body: event({ channel: undefined, channels: ['a', 'b c'] }) }], 400],
  '101 channels': [['POST', EVENTS, { body: event({ channel: undefined, channels: channelsOf(101) }) }], 400],
  '4 channels, where 3 may be': [['POST', '/apps/4715/events', { app: BATCHES, body: event({ channel: undefined, channels: channelsOf(4) }) }], 400],
  'an encrypted channel and another': [['POST', EVENTS, { body: event({ channel: undefined, channels: ['private-encrypted-a', 'b'] }) }], 400],
  'a socket_id that is none': [['POST', EVENTS, { body: event({ socket_id: 'me' }) }], 400],
  'an unknown info': [['POST', EVENTS, { body: event({ info: 'everything' }) }], 400],
  'data that is too large': [['POST', EVENTS, { body: event({ data: 'x'.repeat(102_401) }) }], 413, /content of this event/],
  'data that is too large for the hosted profile': [['POST', '/apps/4714/events', { app: HOSTED, body: event({ data: 'x'.repeat(10_241) }) }], 413, /content of this event.*10240/s],
  'a name that is too long for the hosted profile': [['POST', '/apps/4714/events', { app: HOSTED, body: event({ channel: 'c'.repeat(165) }) }], 400],
  'a body that is too large for anything': [['POST', EVENTS, { body: event({ data: 'x'.repeat(8 << 20) }) }], 413],
  'a batch of 11': [['POST', '/apps/4711/batch_events', { body: batchOf(11) }], 400, /Batch too large/],
  'a batch of 21, where 20 may be': [['POST', '/apps/4715/batch_events', { app: BATCHES, body: batchOf(21) }], 400, /Batch too large/],
  'a batch that is none': [['POST', '/apps/4711/batch_events', { body: '{"batch":{}}' }], 400],
  'no batch': [['POST', '/apps/4711/batch_events', { body: '{}' }], 400],
  'a batch of numbers': [['POST', '/apps/4711/batch_events', { body: '{"batch":[1]}' }], 400],
  'a batch with too much data': [['POST', '/apps/4711/batch_events', { body: JSON.stringify({ batch: [{ name: 'n', channel: 'c', data: 'x'.repeat(102_401) }] }) }], 413, /content of this event/],
  // What is asked
  'a parameter twice': [['GET', CHANNELS, () => ({ query: `${query(APP, 'GET', CHANNELS)}&auth_key=${APP.key}` })], 400],
  'an unknown info of channels': [['GET', CHANNELS, { params: { info: 'everything' } }], 400],
  'user_count of all channels': [['GET', CHANNELS, { params: { info: 'user_count' } }], 400],
  'user_count of channels that are not presence': [['GET', CHANNELS, { params: { info: 'user_count', filter_by_prefix: 'private-' } }], 400],
  'user_count of a channel that is not presence': [['GET', `${CHANNELS}/orders`, { params: { info: 'user_count' } }], 400],
  'an unknown info of a channel': [['GET', `${CHANNELS}/orders`, { params: { info: 'everything' } }], 400],
  'the cache of a channel that has none': [['GET', `${CHANNELS}/orders`, { params: { info: 'cache' } }], 400],
  'a channel of a bad name': [['GET', `${CHANNELS}/a b`, {}], 400],
  'the users of a channel that is not presence': [['GET', `${CHANNELS}/orders/users`, {}], 400],
};

for (const [what, [[method, path, options], status, sentence]] of Object.entries(REFUSED)) {
  test(`refused: ${what}`, async (t) => {
    const wire = await s.wire(t);
    await wire.subscribe('here');
    const answer = await s.request(method, path, typeof options === 'function' ? options() : options);
    assert.equal(answer.status, status, answer.text);
    assert.match(answer.type ?? '', /^text\/plain/);
    // One sentence, which people get to read.
    assert.match(answer.text, /^\S[^\n]{5,1000}$/);
    if (sentence) assert.match(answer.text, sentence);
    if (status === 401) {
      const { app = APP, body } = typeof options === 'function' ? options() : options;
      assert.ok(!answer.text.includes(signed({ ...app, secret: APP.secret }, method, path, { body }).auth_signature), answer.text);
    }
    assert.deepEqual(await wire.settled(), []);
  });
}

test("what Pusher's library makes of a refusal", async () => {
  for (const [call, status, sentence] of [
    [() => s.rest(APP, 'another').trigger('a', 'said', {}), 401, /./],
    [() => s.rest().trigger('a', 'said', 'x'.repeat(102_401)), 413, /content of this event/],
    [() => s.rest().triggerBatch(JSON.parse(batchOf(11)).batch), 400, /Batch too large/],
    [() => s.rest().get({ path: '/channels/orders/users' }), 400, /./],
    [() => s.rest({ ...APP, id: '9999' }).trigger('a', 'said', {}), 404, /./],
    [() => s.rest(DISABLED).trigger('a', 'said', {}), 403, /./],
  ]) {
    await assert.rejects(call, (error) => {
      assert.deepEqual([error.name, error.status], ['PusherRequestError', status]);
      assert.match(error.body, sentence);
      return true;
    });
  }
});

test('too many events are told to wait', async () => {
  const post = (path, body) => s.request('POST', `/apps/4713/${path}`, { app: OTHER, body });
  const answers = [await post('events', event()), await post('events', event()), await post('events', event())];
  assert.deepEqual(answers.map(({ status }) => status), [200, 200, 429]);
  assert.ok(Number(answers[2].headers.get('retry-after')) >= 1);
});

test('10 of a batch and 20, as each app may', async () => {
  for (const [app, count] of [[APP, 10], [BATCHES, 20]]) {
    const answer = await s.request('POST', `/apps/${app.id}/batch_events`, { app, body: batchOf(count) });
    assert.deepEqual([answer.status, answer.text], [200, '{}']);
  }
});

test('data as large as may be', async () => {
  for (const [app, bytes] of [[APP, 102_400], [HOSTED, 10_240]]) {
    const answer = await s.request('POST', `/apps/${app.id}/events`, { app, body: event({ data: 'x'.repeat(bytes) }) });
    assert.deepEqual([answer.status, answer.text], [200, '{}']);
  }
});

for (const prefix of ['PUSHER', 'REVERB']) {
  test(`an app of the environment, ${prefix}`, async (t) => {
    const env = Object.fromEntries(Object.entries({ ID: '99', KEY: 'env-key', SECRET: 'env-secret' }).map(([name, value]) => [`${prefix}_APP_${name}`, value]));
    const server = await startServer({ apps: [], env });
    t.after(() => server.stop());
    const app = { id: '99', key: 'env-key', secret: 'env-secret' };
    const body = event();
    const answer = await fetch(`${server.url}/apps/99/events?${new URLSearchParams(signed(app, 'POST', '/apps/99/events', { body }))}`, { method: 'POST', body });
    assert.deepEqual([answer.status, await answer.text()], [200, '{}']);
  });
}
