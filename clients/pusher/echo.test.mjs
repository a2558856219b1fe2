// All that Laravel Echo can do, with both of its names for this protocol.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { Ear, emitted, settled, stage } from './harness.mjs';

let s;
before(async () => { s = await stage(); });
after(() => s.stop());

const MEI = { member: { user_id: 17, user_info: { name: 'Mei' } }, user: { id: '17', user_info: { name: 'Mei' } } };
const ANN = { member: { user_id: 2, user_info: { name: 'Ann' } }, user: { id: '2' } };

/** Resolves when a channel of Echo's is subscribed. */
const subscribed = (channel) => new Promise((resolve, reject) => {
  channel.subscribed(resolve);
  channel.error((error) => reject(new Error(JSON.stringify(error))));
});

/** Resolves when everything that this Echo has asked for is done. */
const done = async (echo) => {
  const { pusher } = echo.connector;
  pusher.ear ??= new Ear();
  const hear = (frame) => pusher.ear.hear(frame);
  pusher.connection.bind('message', hear);
  await settled(pusher);
  pusher.connection.unbind('message', hear);
};

const occupied = async (name) => JSON.parse((await s.request('GET', `/apps/4711/channels/${name}`)).text).occupied;

for (const broadcaster of ['reverb', 'pusher']) {
  const echoOf = (t, visitor, more = {}) => s.echo(t, { broadcaster, visitor, ...more });
  const named = (name) => `${broadcaster}.${name}`;

  for (const [kind, method, prefix] of [
    ['channel', 'channel', ''], ['private', 'private', 'private-'],
    ['encryptedPrivate', 'encryptedPrivate', 'private-encrypted-'], ['join', 'join', 'presence-'],
  ]) {
    test(`${broadcaster}: ${kind} listens, to one event, to all, and to none any more`, async (t) => {
      const echo = await echoOf(t, MEI);
      const name = named(`listen.${kind}`);
      const channel = echo[method](name);
      await subscribed(channel);
      const ear = new Ear();
      const hear = (event) => (data) => ear.hear({ event, data });
      const paid = hear('namespace');
      assert.equal(channel.listen('OrderPaid', paid), channel);
      channel.listen('.order.paid', hear('dot')).listen('\\Other\\Event', hear('backslash'));
      channel.notification(hear('notification'));
      channel.listenToAll((event, data) => ear.hear({ event: `all ${event}`, data }));
      const rest = s.rest();
      for (const [event, ...expected] of [
        ['App\\Events\\OrderPaid', 'all OrderPaid', 'namespace'],
        ['order.paid', 'all .order.paid', 'dot'],
        ['Other\\Event', 'all .Other\\Event', 'backslash'],
        ['Illuminate\\Notifications\\Events\\BroadcastNotificationCreated',
          'all .Illuminate\\Notifications\\Events\\BroadcastNotificationCreated', 'notification'],
        ['OrderPaid', 'all .OrderPaid'],
      ]) {
        await rest.trigger(prefix + name, event, { n: event.length });
        const heard = [];
        while (heard.length < expected.length) heard.push(await ear.next());
        assert.deepEqual(heard.map((item) => item.event).sort(), expected.sort());
        for (const { data } of heard) assert.deepEqual(data, { n: event.length });
      }
      channel.stopListening('OrderPaid', paid);
      channel.stopListeningToAll();
      await rest.trigger(prefix + name, 'App\\Events\\OrderPaid', {});
      await rest.trigger(prefix + name, 'order.paid', {});
      assert.equal((await ear.next()).event, 'dot');
      assert.deepEqual(ear.rest(), []);
    });
  }

  test(`${broadcaster}: another namespace, and Echo's own listen`, async (t) => {
    const echo = await echoOf(t, MEI, { namespace: 'Shop.Domain' });
    const ear = new Ear();
    await subscribed(echo.listen(named('namespace'), 'Order.Paid', (data) => ear.hear({ event: 'paid', data })));
    await s.rest().trigger(named('namespace'), 'Shop\\Domain\\Order\\Paid', { id: 1 });
    assert.deepEqual(await ear.next(), { event: 'paid', data: { id: 1 } });
  });

  test(`${broadcaster}: a notification to a user`, async (t) => {
    const echo = await echoOf(t, MEI);
    const channel = echo.private(`App.Models.User.${broadcaster}17`);
    await subscribed(channel);
    const ear = new Ear();
    channel.notification((data) => ear.hear(data));
    await s.rest().trigger(`private-App.Models.User.${broadcaster}17`,
      'Illuminate\\Notifications\\Events\\BroadcastNotificationCreated', { id: 'n1', type: 'App\\Notifications\\Paid' });
    assert.deepEqual(await ear.next(), { id: 'n1', type: 'App\\Notifications\\Paid' });
  });

  for (const [what, visitor, status] of [
    ['the server', { ...MEI, secret: 'another' }, 401], ['the back end', { ...MEI, refused: true }, 403],
  ]) {
    test(`${broadcaster}: error, when ${what} refuses`, async (t) => {
      const echo = await echoOf(t, visitor);
      for (const [method, name] of [['private', 'p'], ['encryptedPrivate', 'e'], ['join', 'j']]) {
        const error = await new Promise((resolve) => echo[method](named(`error.${name}`)).error(resolve));
        assert.deepEqual([error.type, error.status], ['AuthError', status]);
      }
      await subscribed(echo.channel(named('error.public')));
    });
  }

  for (const [method, prefix] of [['private', 'private-'], ['join', 'presence-']]) {
    test(`${broadcaster}: ${method} whispers to others`, async (t) => {
      const [mei, ann] = [await echoOf(t, MEI), await echoOf(t, ANN)];
      const name = named(`whisper.${method}`);
      const ears = [];
      for (const echo of [mei, ann]) {
        const channel = echo[method](name);
        await subscribed(channel);
        const ear = new Ear();
        channel.listenForWhisper('typing', (data) => ear.hear(data)).listen('.end', () => ear.hear('end'));
        ears.push(ear);
      }
      mei[method](name).whisper('typing', { name: 'Mei', keys: [1, 2] });
      assert.deepEqual(await ears[1].next(), { name: 'Mei', keys: [1, 2] });
      ann[method](name).whisper('typing', 'text');
      assert.deepEqual(await ears[0].next(), 'text');
      ann[method](name).stopListeningForWhisper('typing');
      mei[method](name).whisper('typing', {});
      await done(mei);
      await s.rest().trigger(prefix + name, 'end', {});
      assert.deepEqual([await ears[1].next(), await ears[0].next()], ['end', 'end']);
    });
  }

  test(`${broadcaster}: leave, leaveChannel, leaveAllChannels`, async (t) => {
    const echo = await echoOf(t, MEI);
    const name = named('leave');
    const enter = async (...methods) => {
      for (const method of methods) await subscribed(echo[method](name));
    };
    const there = async () => {
      await done(echo);
      const names = ['', 'private-', 'private-encrypted-', 'presence-'].map((prefix) => prefix + name);
      return Promise.all(names.map(occupied));
    };
    await enter('channel', 'private', 'encryptedPrivate', 'join');
    assert.deepEqual(await there(), [true, true, true, true]);
    echo.leaveChannel(`private-${name}`);
    assert.deepEqual(await there(), [true, false, true, true]);
    await enter('private');
    echo.leave(name);
    assert.deepEqual(await there(), [false, false, false, false]);
    await enter('channel', 'join');
    assert.deepEqual(await there(), [true, false, false, true]);
    echo.leaveAllChannels();
    assert.deepEqual(await there(), [false, false, false, false]);
  });

  test(`${broadcaster}: toOthers leaves out the socket that axios has told`, async (t) => {
    const asks = [];
    globalThis.axios = Object.assign(() => {}, { interceptors: { request: { use: (change) => asks.push(change) } } });
    t.after(() => { delete globalThis.axios; });
    const [mei, ann] = [await echoOf(t, MEI), await echoOf(t, ANN)];
    const ears = [];
    for (const echo of [mei, ann]) {
      const channel = echo.channel(named('others'));
      await subscribed(channel);
      const ear = new Ear();
      channel.listenToAll((event, data) => ear.hear({ event, data }));
      ears.push(ear);
    }
    assert.match(mei.socketId(), /^\d+\.\d+$/);
    assert.notEqual(mei.socketId(), ann.socketId());
    const { headers } = asks[0]({ headers: {} });
    assert.equal(headers['X-Socket-Id'], mei.socketId());
    await s.rest().trigger(named('others'), 'mine', {}, { socket_id: headers['X-Socket-Id'] });
    await s.rest().triggerBatch([{ channel: named('others'), name: 'batch', data: {}, socket_id: headers['X-Socket-Id'] }]);
    await s.rest().trigger(named('others'), 'end', {});
    assert.deepEqual([await ears[0].next(), ears[0].rest()], [{ event: '.end', data: {} }, []]);
    assert.deepEqual([(await ears[1].next()).event, (await ears[1].next()).event, (await ears[1].next()).event], ['.mine', '.batch', '.end']);
  });

  test(`${broadcaster}: signin`, async (t) => {
    const echo = await echoOf(t, { user: { id: `${broadcaster}-42` } });
    const ear = new Ear();
    const { pusher } = echo.connector;
    pusher.user.bind('greeting', (data) => ear.hear(data));
    const ready = new Promise((resolve) => {
      pusher.connection.bind('message', ({ event, channel }) => {
        if (event === 'pusher_internal:subscription_succeeded' && channel?.startsWith('#')) resolve();
      });
    });
    echo.connector.signin();
    await ready;
    await s.rest().sendToUser(`${broadcaster}-42`, 'greeting', { hello: 'you' });
    assert.deepEqual(await ear.next(), { hello: 'you' });
  });

  test(`${broadcaster}: connectionStatus and onConnectionChange`, async (t) => {
    const echo = await echoOf(t, MEI);
    assert.equal(echo.connectionStatus(), 'connected');
    const states = [];
    const stop = echo.connector.onConnectionChange((state) => states.push(state));
    echo.disconnect();
    assert.equal(echo.connectionStatus(), 'disconnected');
    const before = echo.socketId();
    echo.connector.pusher.connect();
    await emitted(echo.connector.pusher.connection, 'connected');
    assert.equal(echo.connectionStatus(), 'connected');
    assert.notEqual(echo.socketId(), before);
    assert.deepEqual([...new Set(states)], ['disconnected', 'connecting', 'connected']);
    stop();
    echo.disconnect();
    assert.equal(states.at(-1), 'connected');
  });
}
