// Who is here: users, not connections, as Laravel Echo and the wire tell it.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { APP, Ear, emitted, listen, sign, stage, subscribe } from './harness.mjs';

const SMALL = { id: '4712', key: 'small-key', secret: 'small-secret', members_max: 2, user_info_bytes_max: 64 };

let s;
before(async () => { s = await stage({ apps: [APP, SMALL] }); });
after(() => s.stop());

/** Joins by Echo; `ear` hears who is here, who joins and who leaves, and an event `end`. */
async function join(t, room, member) {
  const echo = await s.echo(t, { visitor: { member } });
  const ear = new Ear();
  echo.join(room)
    .here((data) => ear.hear({ event: 'here', data }))
    .joining((data) => ear.hear({ event: 'joining', data }))
    .leaving((data) => ear.hear({ event: 'leaving', data }))
    .listen('.end', () => ear.hear({ event: 'end' }));
  return { echo, ear, here: (await ear.until('here')).data };
}

const who = (id) => ({ user_id: id, user_info: { name: `user ${id}` } });
const info = (id) => who(id).user_info;

/** All that somebody has heard, when the server has told her everything. */
async function heard({ ear }, room) {
  await s.rest().trigger(`presence-${room}`, 'end', {});
  await ear.until('end');
  return ear.heard.filter(({ event }) => event !== 'here' && event !== 'end');
}

for (const goes of ['leaves', 'disconnects']) {
  test(`here, joining and leaving, when she ${goes}`, async (t) => {
    const room = `room.${goes}`;
    const ann = await join(t, room, who('u-2'));
    assert.deepEqual(ann.here, [info('u-2')]);
    const mei = await join(t, room, who('u-17'));
    assert.deepEqual(mei.here.map(({ name }) => name).sort(), ['user u-17', 'user u-2']);
    assert.deepEqual(await ann.ear.next(), { event: 'joining', data: info('u-17') });
    if (goes === 'leaves') mei.echo.leave(room);
    else mei.echo.disconnect();
    assert.deepEqual(await ann.ear.next(), { event: 'leaving', data: info('u-17') });
    // And comes back.
    const again = await join(t, room, who('u-17'));
    assert.deepEqual(again.here.length, 2);
    assert.deepEqual(await ann.ear.next(), { event: 'joining', data: info('u-17') });
  });
}

test('two tabs of a user join once and leave once', async (t) => {
  const ann = await join(t, 'tabs', who('u-2'));
  const tabs = [await join(t, 'tabs', who('u-17')), await join(t, 'tabs', who('u-17'))];
  for (const tab of tabs) assert.equal(tab.here.length, 2);
  const joined = { event: 'joining', data: info('u-17') };
  assert.deepEqual(await heard(ann, 'tabs'), [joined]);
  tabs[0].echo.leave('tabs');
  const pusher = tabs[0].echo.connector.pusher;
  pusher.send_event('pusher:ping', {});
  await emitted(pusher.connection, 'message');
  assert.deepEqual(await heard(ann, 'tabs'), [joined]);
  tabs[1].echo.disconnect();
  await ann.ear.until('leaving');
  assert.deepEqual(await heard(ann, 'tabs'), [joined, { event: 'leaving', data: info('u-17') }]);
  // The tabs have not been told of themselves.
  assert.deepEqual(tabs[1].ear.heard.filter(({ event }) => event === 'joining'), []);
});

test('what members are told on the wire', async (t) => {
  const [one, two] = [await s.wire(t), await s.wire(t)];
  const channel = 'presence-wire';
  const first = await one.subscribe(channel, { channelData: '{"user_id":"u-2","user_info":{"name":"Ann"}}' });
  assert.deepEqual(JSON.parse(first.data), { presence: { count: 1, ids: ['u-2'], hash: { 'u-2': { name: 'Ann' } } } });
  const second = await two.subscribe(channel, { channelData: '{"user_id":"u-17","user_info":{"name":"Mei"}}' });
  const { presence } = JSON.parse(second.data);
  assert.equal(presence.count, 2);
  assert.deepEqual(presence.ids.sort(), ['u-17', 'u-2']);
  assert.deepEqual(presence.hash, { 'u-2': { name: 'Ann' }, 'u-17': { name: 'Mei' } });
  const added = await one.ear.next();
  assert.deepEqual([added.event, added.channel, typeof added.data], ['pusher_internal:member_added', channel, 'string']);
  assert.deepEqual(JSON.parse(added.data), { user_id: 'u-17', user_info: { name: 'Mei' } });
  two.send({ event: 'pusher:unsubscribe', data: { channel } });
  const removed = await one.ear.next();
  assert.deepEqual([removed.event, removed.channel, typeof removed.data], ['pusher_internal:member_removed', channel, 'string']);
  assert.deepEqual(JSON.parse(removed.data), { user_id: 'u-17' });
  assert.deepEqual(await two.settled(), []);
});

// The same user, whatever she is written as.
for (const [one, other, id] of [[5, '5', '5'], ['5', 5, '5'], [0, '0', '0'], [-7, '-7', '-7']]) {
  test(`a user_id of ${JSON.stringify(one)} and of ${JSON.stringify(other)}`, async (t) => {
    const channel = `presence-ids-${typeof one}-${id}`;
    const wires = [await s.wire(t), await s.wire(t), await s.wire(t)];
    await wires[0].subscribe(channel, { channelData: '{"user_id":"watcher"}' });
    for (const [at, user_id] of [one, other].entries()) {
      const { data } = await wires[at + 1].subscribe(channel, { channelData: JSON.stringify({ user_id }) });
      const { presence } = JSON.parse(data);
      assert.deepEqual([presence.count, presence.ids.sort(), Object.keys(presence.hash).sort()], [2, [id, 'watcher'].sort(), [id, 'watcher'].sort()]);
    }
    const added = await wires[0].settled();
    assert.deepEqual(added.map(({ event, data }) => [event, JSON.parse(data).user_id]), [['pusher_internal:member_added', id]]);
    const users = await s.request('GET', `/apps/4711/channels/${channel}/users`);
    assert.deepEqual(JSON.parse(users.text).users.map((user) => user.id).sort(), [id, 'watcher'].sort());
  });
}

for (const [what, member, expected] of [
  ['absent', { user_id: 'u-2' }, undefined],
  ['true', { user_id: 'u-2', user_info: true }, true],
  ['an object', { user_id: 'u-2', user_info: { name: 'Ann', roles: ['a', 'b'] } }, { name: 'Ann', roles: ['a', 'b'] }],
  ['a text', { user_id: 'u-2', user_info: 'Ann "A" 😀' }, 'Ann "A" 😀'],
  ['a number', { user_id: 'u-2', user_info: 0 }, 0],
  ['a list', { user_id: 'u-2', user_info: [1, null] }, [1, null]],
  ['null', { user_id: 'u-2', user_info: null }, undefined],
]) {
  test(`user_info that is ${what}`, async (t) => {
    const name = `presence-info-${what.replace(' ', '-')}`;
    const watcher = await subscribe(await s.connect(t, { visitor: { member: { user_id: 'w' } } }), name);
    const { channel } = await subscribe(await s.connect(t, { visitor: { member } }), name);
    assert.ok('u-2' in channel.members.members, JSON.stringify(channel.members.members));
    assert.deepEqual(channel.members.get('u-2').info ?? undefined, expected);
    assert.deepEqual(channel.members.me.id, 'u-2');
    assert.equal(channel.members.count, 2);
    const { event, data } = await watcher.ear.next();
    assert.deepEqual([event, data.id, data.info ?? undefined], ['pusher:member_added', 'u-2', expected]);
  });
}

// Signed well, and yet no member.
for (const [what, channelData] of [
  ['no JSON', 'user'],
  ['no object', '["u-2"]'],
  ['null', 'null'],
  ['empty', ''],
  ['without user_id', '{"user_info":{"name":"Ann"}}'],
  ['a user_id that is null', '{"user_id":null}'],
  ['a user_id that is a truth', '{"user_id":true}'],
  ['a user_id that is an object', '{"user_id":{"id":1}}'],
  ['an empty user_id', '{"user_id":""}'],
  ['a user_id of 129 characters', JSON.stringify({ user_id: 'u'.repeat(129) })],
  ['a user_info that is too large', JSON.stringify({ user_id: 'u-2', user_info: 'x'.repeat(3000) })],
]) {
  test(`channel_data that is refused: ${what}`, async (t) => {
    const wire = await s.wire(t);
    const refused = await wire.subscribe('presence-refused', { channelData });
    assert.equal(refused.event, 'pusher:subscription_error', refused.text);
    assert.deepEqual([typeof refused.data.type, typeof refused.data.error, typeof refused.data.status], ['string', 'string', 'number']);
    assert.equal((await s.request('GET', '/apps/4711/channels/presence-refused/users')).text, '{"users":[]}');
    const good = await wire.subscribe('presence-refused-not', { channelData: JSON.stringify({ user_id: 'u'.repeat(128) }) });
    assert.equal(good.event, 'pusher_internal:subscription_succeeded');
  });
}

test('a channel that is full, and a user object that is too big, are limits', async (t) => {
  const wires = await Promise.all(Array.from({ length: 5 }, () => s.wire(t, { app: SMALL })));
  const enter = (wire, member) => wire.subscribe('presence-full', { channelData: JSON.stringify(member) });
  assert.equal((await enter(wires[0], { user_id: 1 })).event, 'pusher_internal:subscription_succeeded');
  assert.equal((await enter(wires[1], { user_id: 2 })).event, 'pusher_internal:subscription_succeeded');
  const full = await enter(wires[2], { user_id: 3 });
  assert.deepEqual([full.event, full.data.type, full.data.status], ['pusher:subscription_error', 'LimitReached', 4100]);
  // Another connection of a member is none more.
  assert.equal((await enter(wires[3], { user_id: '2' })).event, 'pusher_internal:subscription_succeeded');
  const big = await enter(wires[4], { user_id: 1, user_info: 'x'.repeat(65) });
  assert.deepEqual([big.event, big.data.type, big.data.status], ['pusher:subscription_error', 'LimitReached', 4301]);
  // Who leaves makes room.
  wires[0].send({ event: 'pusher:unsubscribe', data: { channel: 'presence-full' } });
  await wires[0].settled();
  wires[2].send({ event: 'pusher:unsubscribe', data: { channel: 'presence-full' } });
  assert.equal((await enter(wires[2], { user_id: 3 })).event, 'pusher_internal:subscription_succeeded');
});

test('a cache channel says who is here, and then what was last', async (t) => {
  const wire = await s.wire(t);
  const answer = await wire.subscribe('presence-cache-both', { channelData: '{"user_id":"u-2"}' });
  assert.equal(JSON.parse(answer.data).presence.count, 1);
  assert.equal((await wire.ear.next()).event, 'pusher:cache_miss');
});

test('a user who has signed in is a member as herself', async (t) => {
  const [watcher, wire] = [await s.wire(t), await s.wire(t)];
  await watcher.subscribe('presence-signed-in', { channelData: '{"user_id":"w"}' });
  const user_data = '{"id":"u-17","user_info":{"name":"Mei"}}';
  wire.send({ event: 'pusher:signin', data: { auth: `${APP.key}:${sign(APP.secret, `${wire.id}::user::${user_data}`)}`, user_data } });
  await wire.ear.until('pusher:signin_success');
  const answer = await wire.subscribe('presence-signed-in');
  assert.deepEqual(JSON.parse(answer.data).presence.hash['u-17'], { name: 'Mei' });
  assert.deepEqual(JSON.parse((await watcher.ear.next()).data), { user_id: 'u-17', user_info: { name: 'Mei' } });
  // What the back end says of her in particular counts more.
  const other = await wire.subscribe('presence-signed-in-2', { channelData: '{"user_id":"u-3","user_info":{"name":"Eve"}}' });
  assert.deepEqual(JSON.parse(other.data).presence.hash, { 'u-3': { name: 'Eve' } });
});

test('who has not signed in needs channel_data', async (t) => {
  const pusher = await s.connect(t, { visitor: {} });
  const ear = listen(pusher.subscribe('presence-nobody'));
  const wire = await s.wire(t);
  const refused = await wire.subscribe('presence-nobody');
  assert.equal(refused.event, 'pusher:subscription_error');
  // This one pusher-js decides by itself.
  assert.equal((await ear.next()).event, 'pusher:subscription_error');
});
