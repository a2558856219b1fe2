// Signed-in users: what reaches them, what does not, who watches whom, and their end.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { APP, channelAuth, emitted, listen, sign, stage, subscribe, userAuth } from './harness.mjs';

const STRICT = { id: '4712', key: 'strict-key', secret: 'strict-secret', authorize_within: '1s' };
const UNWATCHED = { id: '4713', key: 'unwatched-key', secret: 'unwatched-secret', watchlist: false };

let s;
before(async () => { s = await stage({ apps: [APP, STRICT, UNWATCHED], settings: 'sessions.user_grace = "0s"' }); });
after(() => s.stop());

/** pusher-js, signed in and subscribed to what is sent to this user; `mail` hears it. */
async function signIn(t, user, who = {}) {
  const pusher = s.client(t, { visitor: { user, ...who.visitor }, ...who });
  pusher.mail = listen(pusher.user);
  pusher.seen = listen(pusher.user.watchlist);
  pusher.signin();
  await pusher.ear.until(({ event, channel }) => event.endsWith('subscription_succeeded') && channel === `#server-to-user-${user.id}`);
  return pusher;
}

/** The same by hand. */
async function signInByHand(wire, userData, auth = (wire) => userAuth(wire.app, wire.id, userData)) {
  wire.send({ event: 'pusher:signin', data: { auth: auth(wire, userData), user_data: userData } });
  return wire.ear.next();
}

test('what a sign-in is answered, word for word', async (t) => {
  for (const userData of [
    '{"id":"u-17","user_info":{"name":"Mei"}}',
    '{ "user_info" : {"n":1.0,"name":"\\u017e\\/"}, "id":"u-17" }',
  ]) {
    const wire = await s.wire(t);
    const { text, ...frame } = await signInByHand(wire, userData);
    assert.deepEqual(frame, { event: 'pusher:signin_success', data: { user_data: userData } });
    // The same user once more is no matter; another one is no longer possible.
    assert.equal((await signInByHand(wire, userData)).event, 'pusher:signin_success');
    const other = await signInByHand(wire, '{"id":"u-18"}');
    assert.deepEqual([other.event, other.data.code], ['pusher:error', 4009]);
  }
});

for (const [what, userData, auth] of [
  ['another secret', '{"id":"u-1"}', (wire, data) => userAuth({ ...APP, secret: 'another' }, wire.id, data)],
  ['another key', '{"id":"u-1"}', (wire, data) => userAuth({ ...APP, key: 'another' }, wire.id, data)],
  ['that of another socket', '{"id":"u-1"}', (wire, data) => userAuth(APP, '1.1', data)],
  ['of other user_data', '{"id":"u-1"}', (wire) => userAuth(APP, wire.id, '{"id":"u-2"}')],
  ['none', '{"id":"u-1"}', () => undefined],
  ['user_data that is no JSON', 'u-1'],
  ['user_data that is no object', '"u-1"'],
  ['no id', '{"user_info":{}}'],
  ['an empty id', '{"id":""}'],
  ['an id that is a number', '{"id":1}'],
  ['an id that is null', '{"id":null}'],
  ['an id of 129 characters', JSON.stringify({ id: 'u'.repeat(129) })],
]) {
  test(`a sign-in that ends the connection: ${what}`, async (t) => {
    const wire = await s.wire(t);
    const refused = await signInByHand(wire, userData, auth);
    assert.deepEqual([refused.event, refused.data.code], ['pusher:error', 4009], refused.text);
    assert.ok(!refused.text.includes(sign(APP.secret, `${wire.id}::user::${userData}`)));
    assert.equal((await wire.closed).code, 4009);
  });
}

test('pusher-js gives up when its sign-in is refused', async (t) => {
  const pusher = s.client(t, { visitor: { user: { id: 'u-1' }, secret: 'another' } });
  pusher.signin();
  await emitted(pusher.connection, 'disconnected');
  assert.ok(!pusher.connection.retryTimer);
});

test('sendToUser reaches all connections of the user, and nobody else', async (t) => {
  const [one, two] = [await signIn(t, { id: 'sent-42' }), await signIn(t, { id: 'sent-42', user_info: { a: 1 } })];
  const [other, nobody] = [await signIn(t, { id: 'sent-43' }), await s.connect(t)];
  const answer = await s.rest().sendToUser('sent-42', 'mail', { subject: 'for "you"' });
  assert.equal(await answer.text(), '{}');
  for (const pusher of [one, two]) {
    assert.deepEqual(await pusher.mail.next(), { event: 'mail', data: { subject: 'for "you"' } });
    assert.equal(pusher.ear.heard.filter(({ event }) => event === 'mail')[0].channel, '#server-to-user-sent-42');
  }
  // A batch and several channels go the same way.
  await s.rest().triggerBatch([{ channel: '#server-to-user-sent-42', name: 'batch', data: 'x' }]);
  assert.deepEqual(await one.mail.next(), { event: 'batch', data: 'x' });
  await subscribe(nobody, 'sent-marker');
  await subscribe(other, 'sent-marker');
  await s.rest().trigger('sent-marker', 'end', {});
  for (const pusher of [other, nobody]) {
    await pusher.ear.until('end');
    assert.deepEqual(pusher.ear.heard.filter(({ event }) => /mail|batch/.test(event)), []);
  }
});

test("nobody else may listen to a user's mail", async (t) => {
  const [nobody, other] = [await s.wire(t), await s.wire(t)];
  await signInByHand(other, '{"id":"spied-2"}');
  const mei = await signIn(t, { id: 'spied-1' });
  const channel = '#server-to-user-spied-1';
  for (const wire of [nobody, other]) {
    for (const [auth, channelData] of [
      [''], [channelAuth(APP, wire.id, channel)],
      [channelAuth(APP, wire.id, channel, '{"user_id":"spied-1"}'), '{"user_id":"spied-1"}'],
    ]) {
      const refused = await wire.subscribe(channel, { auth, channelData });
      assert.equal(refused.event, 'pusher:subscription_error', refused.text);
      wire.send({ event: 'pusher:unsubscribe', data: { channel } });
    }
    // Names that could be taken for it.
    for (const name of ['#server-to-user-spied-1 ', '#SERVER-TO-USER-spied-1', 'private-#server-to-user-spied-1', '%23server-to-user-spied-1']) {
      await wire.subscribe(name, { auth: channelAuth(APP, wire.id, name) });
    }
    // Nor say something there.
    wire.send({ event: 'client-mail', channel, data: {} });
  }
  await s.rest().sendToUser('spied-1', 'mail', 'secret');
  assert.deepEqual(await mei.mail.next(), { event: 'mail', data: 'secret' });
  for (const wire of [nobody, other]) {
    assert.deepEqual((await wire.settled()).filter(({ text }) => text.includes('secret')), []);
  }
  assert.deepEqual(mei.mail.heard.length, 1);
});

test('the app ends all connections of a user, and they stay away', async (t) => {
  const [one, two] = [await signIn(t, { id: 'ended-1' }), await signIn(t, { id: 'ended-1' })];
  const other = await signIn(t, { id: 'ended-2' });
  // She is a member here, but has not signed in with this connection.
  const member = await s.connect(t, { visitor: { member: { user_id: 'ended-1' } } });
  await subscribe(member, 'presence-ended');
  const ends = [one, two].map(async (pusher) => {
    const error = emitted(pusher.connection, 'error');
    await emitted(pusher.connection, 'disconnected');
    assert.equal((await error).data.code, 4009);
    assert.ok(!pusher.connection.retryTimer);
  });
  assert.equal(await (await s.rest().terminateUserConnections('ended-1')).text(), '{}');
  await Promise.all(ends);
  assert.deepEqual([other.connection.state, member.connection.state], ['connected', 'connected']);
  await s.rest().sendToUser('ended-2', 'still', {});
  await other.mail.until('still');
  // On the wire: the error, then the close.
  const wire = await s.wire(t);
  await signInByHand(wire, '{"id":"ended-3"}');
  await s.rest().terminateUserConnections('ended-3');
  assert.equal((await wire.ear.until('pusher:error')).data.code, 4009);
  assert.equal((await wire.closed).code, 4009);
  // Nobody there is no error.
  assert.equal(await (await s.rest().terminateUserConnections('ended-9')).text(), '{}');
});

// Watchlists

const names = ({ user_ids: ids }) => [...ids].sort();

test('who is watched: first how it is, then what changes', async (t) => {
  await signIn(t, { id: 'seen-1' });
  const watcher = await signIn(t, { id: 'watcher', watchlist: ['seen-1', 'seen-2', 'seen-3'] });
  const state = {};
  while (!state.online || !state.offline) {
    const { event, data } = await watcher.seen.next();
    state[event] = names(data);
  }
  assert.deepEqual(state, { online: ['seen-1'], offline: ['seen-2', 'seen-3'] });
  const [first, second] = [await signIn(t, { id: 'seen-2' }), await signIn(t, { id: 'seen-2' })];
  assert.deepEqual(names((await watcher.seen.until('online')).data), ['seen-2']);
  await signIn(t, { id: 'not-watched' });
  first.disconnect();
  // Her other connection is still there; so the next that is heard is somebody else.
  const third = await signIn(t, { id: 'seen-3' });
  const next = await watcher.seen.next();
  assert.deepEqual([next.event, names(next.data)], ['online', ['seen-3']]);
  second.disconnect();
  assert.deepEqual(names((await watcher.seen.until('offline')).data), ['seen-2']);
  third.disconnect();
  assert.deepEqual(names((await watcher.seen.until('offline')).data), ['seen-3']);
});

test('what a watchlist is told on the wire', async (t) => {
  const wire = await s.wire(t);
  const userData = '{"id":"wire-watcher","watchlist":["wire-1"]}';
  assert.equal((await signInByHand(wire, userData)).event, 'pusher:signin_success');
  const frame = await wire.ear.next();
  assert.deepEqual([frame.event, frame.channel], ['pusher_internal:watchlist_events', undefined]);
  const data = typeof frame.data === 'string' ? JSON.parse(frame.data) : frame.data;
  assert.deepEqual(data, { events: [{ name: 'offline', user_ids: ['wire-1'] }] });
});

test('a watchlist has 100 users at most', async (t) => {
  const wire = await s.wire(t);
  const watchlist = Array.from({ length: 101 }, (_, at) => `many-${at}`);
  const frames = [await signInByHand(wire, JSON.stringify({ id: 'many-watcher', watchlist })), ...await wire.settled()];
  assert.ok(frames.some(({ event }) => event === 'pusher:signin_success'));
  assert.ok(frames.some(({ event, data }) => event === 'pusher:error' && data.code === 4302), JSON.stringify(frames));
  const lists = frames.filter(({ event }) => event === 'pusher_internal:watchlist_events').map(({ text }) => text).join('');
  const told = (at) => lists.includes(`many-${at}"`) || lists.includes(`many-${at}\\"`);
  assert.deepEqual([told(0), told(99), told(100)], [true, true, false]);
});

test('watchlists that are none, and apps that have none', async (t) => {
  for (const watchlist of ['u-1', { a: 1 }, [1, null, {}], null]) {
    const wire = await s.wire(t);
    const answer = await signInByHand(wire, JSON.stringify({ id: 'odd', watchlist }));
    assert.match(answer.event, /^pusher:(signin_success|error)$/);
  }
  const wire = await s.wire(t, { app: UNWATCHED });
  assert.equal((await signInByHand(wire, '{"id":"u-1","watchlist":["u-2"]}')).event, 'pusher:signin_success');
  assert.deepEqual(await wire.settled(), []);
});

// Apps that want to know everybody

test('who neither signs in nor joins a private channel in time is sent away', async (t) => {
  const signedIn = await s.wire(t, { app: STRICT });
  await signInByHand(signedIn, '{"id":"u-1"}');
  const onPrivate = await s.wire(t, { app: STRICT });
  await onPrivate.subscribe('private-x');
  const onPublic = await s.wire(t, { app: STRICT });
  await onPublic.subscribe('public');
  assert.equal((await onPublic.closed).code, 4009);
  assert.deepEqual([await signedIn.settled(), await onPrivate.settled()], [[], []]);
});
