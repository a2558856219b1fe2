// What the back end is told, as Pusher's library for Node reads it, of what pusher-js does.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { APP, Ear, settled, stage, startHttp, subscribe } from './harness.mjs';

const ALL = ['channel_occupied', 'channel_vacated', 'member_added', 'member_removed', 'client_event', 'cache_miss',
  'subscription_count'];

let s, receiver;
const ear = new Ear();

before(async () => {
  receiver = await startHttp((request, rawBody) => {
    const webhook = s.rest().webhook({ headers: request.headers, rawBody });
    if (!webhook.isValid()) ear.hear({ name: 'not valid', rawBody });
    else for (const event of webhook.getEvents()) ear.hear(event);
    return {};
  });
  s = await stage({
    apps: [{ ...APP, webhooks: [{ url: receiver.url, events: ALL }] }],
    settings: '[pusher]\nwebhook_private_networks = true\nwebhook_delay = "10ms"',
  });
});
after(() => {
  receiver.stop();
  return s.stop();
});

/** All that is told of a channel, up to an event with this name. */
async function told(channel, last) {
  await ear.until((event) => event.name === last && event.channel === channel);
  return ear.heard.filter((event) => event.channel === channel).map(({ channel, ...event }) => event);
}

test('a channel is occupied, counted and vacated', async (t) => {
  const pusher = await s.connect(t);
  await subscribe(pusher, 'orders');
  pusher.unsubscribe('orders');
  assert.deepEqual(await told('orders', 'channel_vacated'), [
    { name: 'channel_occupied' },
    { name: 'subscription_count', subscription_count: 1 },
    { name: 'subscription_count', subscription_count: 0 },
    { name: 'channel_vacated' },
  ]);
});

test('a member comes, speaks and goes, with two tabs', async (t) => {
  const visitor = { member: { user_id: 'u-17', user_info: { name: 'Mei' } } };
  const tabs = [await s.connect(t, { visitor }), await s.connect(t, { visitor })];
  const rooms = [];
  for (const tab of tabs) rooms.push(await subscribe(tab, 'presence-room'));
  const said = { text: 'h\u00e9' };
  rooms[1].channel.trigger('client-typing', said);
  const socket = tabs[1].connection.socket_id;
  await settled(tabs[1]);
  tabs[0].disconnect();
  await settled(tabs[1]);
  tabs[1].disconnect();
  assert.deepEqual(await told('presence-room', 'channel_vacated'), [
    { name: 'channel_occupied' },
    { name: 'member_added', user_id: 'u-17' },
    { name: 'client_event', event: 'client-typing', data: JSON.stringify(said), socket_id: socket, user_id: 'u-17' },
    { name: 'member_removed', user_id: 'u-17' },
    { name: 'channel_vacated' },
  ]);
});

test('nothing is cached, and that is told once until something is', async (t) => {
  const pusher = await s.connect(t);
  await subscribe(pusher, 'cache-price');
  await subscribe(await s.connect(t), 'cache-price');
  await s.rest().trigger('cache-price', 'price', { euro: 7 });
  await subscribe(await s.connect(t), 'cache-price');
  // The last that there is to tell.
  await ear.until((event) => event.channel === 'cache-price' && event.subscription_count === 3);
  assert.deepEqual(ear.heard.filter(({ channel }) => channel === 'cache-price').map(({ name }) => name),
    ['channel_occupied', 'subscription_count', 'cache_miss', 'subscription_count', 'subscription_count']);
});
