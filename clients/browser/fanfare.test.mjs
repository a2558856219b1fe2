// fanfare.js in a real browser against the real server, through a network that breaks: nothing is lost,
// nothing is heard twice, and what is lost for good is told.

import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { launchBrowser, openPage, startFanfare, startProxy } from './harness.mjs';

const TRANSPORTS = ['websocket', 'sse', 'poll'];
const BLOCKED = { websocket: /^upgrade: *websocket/im, sse: /^accept: *text\/event-stream/im };
const KEY = 'a key of at least thirty-two bytes';

/** Milliseconds: longer than anything here takes on a busy machine. */
const PATIENCE = 60_000;

let browser;

before(async () => { browser = await launchBrowser(); });
after(() => browser.close());

/** A server, the network in front of it, and a browser's window. */
async function stage(t, env = {}) {
  const network = await startProxy();
  let server;
  const start = async () => {
    server = await startFanfare({ FANFARE_HISTORY_PUBLICATIONS: '1000', ...env });
    network.target = server.address;
  };
  const window = await browser.newContext();
  t.after(async () => {
    await window.close();
    network.stop();
    await server?.stop();
  });
  await start();
  const sessions = async () => {
    const text = await (await fetch(`http://${server.address}/metrics`)).text();
    return Number(text.match(/^fanfare_sessions\{transport="websocket"\} (\d+)$/m)[1]);
  };
  return {
    network,
    sessions,
    /** A page of the server's origin that has fanfare.js and nothing else. */
    async tab(functions = {}) {
      const page = await openPage(window, `http://${network.address}/health`);
      for (const [name, call] of Object.entries(functions)) await page.exposeFunction(name, call);
      await page.addScriptTag({ url: '/fanfare.js' });
      return page;
    },
    /** Publishes, not through the network that breaks. */
    async post(path, body, fields = {}) {
      const headers = env.FANFARE_KEY ? { Authorization: `Bearer ${env.FANFARE_KEY}`, ...fields } : fields;
      const response = await fetch(`http://${server.address}${path}`, { method: 'POST', body, headers });
      assert.equal(response.status, 200, await response.text());
    },
    async restart() {
      await server.stop();
      await start();
    },
    async sessionsBecome(count) {
      const end = Date.now() + PATIENCE;
      while (await sessions() !== count) assert.ok(Date.now() < end, `there never were ${count} sessions`);
    },
  };
}

/** Opens a Fanfare in a page, which writes down what happens to it; resolves when it is open. */
async function listen(page, url, options = {}) {
  await listenAnyhow(page, url, options);
  await happened(page, 'open');
}

async function listenAnyhow(page, url, options) {
  await page.evaluate(({ url, options, token }) => {
    if (token) options.token = () => window[token]();
    const fanfare = window.fanfare = new Fanfare(url, { retryMin: 20, retryMax: 200, ...options });
    window.events = [];
    for (const type of ['open', 'message', 'gap', 'error', 'close']) {
      fanfare.addEventListener(type, ({ data, id, channel, channels, event, code, final }) => {
        if (data instanceof ArrayBuffer) data = [...new Uint8Array(data)];
        const facts = { type, data, id, channel, channels, event, code, final, transport: fanfare.transport };
        window.events.push(facts);
        if (type === 'open') window.events.push({ type: `open ${fanfare.transport}` });
      });
    }
  }, { url, options: { ...options, ask: undefined }, token: options.ask });
}

/** Resolves when an event of this type, and message, has happened `count` times. */
const happened = (page, type, count = 1, data = undefined) => page.waitForFunction(
  ({ type, count, data }) => window.events.filter((event) => event.type === type && (data === undefined || event.data === data)).length >= count,
  { type, count, data },
  { polling: 20 },
);
const heard = (page, data) => happened(page, 'message', 1, data);
const events = (page, ...types) => page.evaluate((types) => window.events.filter(({ type }) => types.includes(type)), types);
const messages = async (page) => (await events(page, 'message')).map(({ data }) => data);
const send = (page, data) => page.evaluate((data) => window.fanfare.send(data), data);

/** A token, as a back end makes it. */
function token(claims, seconds) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp: Math.floor(Date.now() / 1000) + seconds, ...claims })}`;
  return `${signed}.${createHmac('sha256', KEY).update(signed).digest('base64url')}`;
}

// Each goes from the first transport to the last of the list, whose predecessors the network then refuses.
for (const [transports, then] of [
  ...TRANSPORTS.map((name) => [[name], name]), [['websocket', 'sse'], 'sse'], [['websocket', 'poll'], 'poll'],
  [['sse', 'poll'], 'poll'], [TRANSPORTS, 'poll'],
]) {
  test(`a cut in the midst loses and doubles nothing: ${transports.join(', then ')}`, async (t) => {
    const { network, tab, post } = await stage(t);
    const page = await tab();
    await listen(page, '/ch/orders', { transports });
    await post('/ch/orders', 'before');
    await heard(page, 'before');
    const expected = ['before'];
    const publish = async () => {
      for (let number = 0; number < 200; number++) {
        expected.push(String(expected.length));
        await post('/ch/orders', expected.at(-1));
      }
    };
    network.cut();
    await publish();
    await happened(page, 'close');
    const blocked = transports.filter((name) => name !== then).map((name) => BLOCKED[name].source);
    if (blocked.length) network.blocked = new RegExp(blocked.join('|'), 'im');
    network.mend();
    await heard(page, expected.at(-1));
    assert.equal(await page.evaluate(() => window.fanfare.transport), then);
    // Back to the first, while messages come. A poll is never cut off, but looks for it after some minutes.
    network.blocked = null;
    network.cut();
    network.mend();
    await page.evaluate((at) => { performance.now = () => at + 600_000; }, await page.evaluate(() => performance.now()));
    await publish();
    await heard(page, expected.at(-1));
    await happened(page, `open ${transports[0]}`, 2);
    assert.deepEqual(await messages(page), expected);
    assert.deepEqual(await events(page, 'gap', 'error'), []);
  });
}

for (const transport of TRANSPORTS) {
  const options = { transports: [transport] };

  test(`${transport}: a server that was started anew is a gap, once`, async (t) => {
    const { tab, post, restart } = await stage(t);
    const page = await tab();
    await listen(page, '/ch?name=orders&name=stock', options);
    await post('/ch/orders', 'before');
    await heard(page, 'before');
    await restart();
    await happened(page, 'gap');
    await post('/ch/orders', 'after');
    await heard(page, 'after');
    const [gap, ...others] = await events(page, 'gap');
    assert.deepEqual([gap.channels, others], [['orders', 'stock'], []]);
    assert.deepEqual(await messages(page), ['before', 'after']);
  });

  test(`${transport}: what is no longer kept is a gap`, async (t) => {
    const { network, tab, post } = await stage(t, { FANFARE_HISTORY_PUBLICATIONS: '2' });
    const page = await tab();
    await listen(page, '/ch/orders', options);
    network.cut();
    for (let number = 0; number < 10; number++) await post('/ch/orders', 'missed');
    await happened(page, 'close');
    network.mend();
    await happened(page, 'gap');
    await post('/ch/orders', 'after');
    await heard(page, 'after');
    assert.deepEqual((await events(page, 'gap')).map(({ channel }) => channel), ['orders']);
    assert.deepEqual(await messages(page), ['after']);
  });

  test(`${transport}: what is said here is heard elsewhere, also after coming back`, async (t) => {
    const { network, tab, post } = await stage(t);
    const [one, two] = [await tab(), await tab()];
    await listen(one, '/ch/talk/x', options);
    await listen(two, '/ch/talk/x', { ...options, echo: true });
    await send(two, 'by two');
    await heard(one, 'by two');
    await send(one, 'by one');
    await heard(two, 'by one');
    network.cut();
    await happened(one, 'close');
    network.mend();
    await happened(one, 'open', 2);
    await post('/ch/talk/x', 'end');
    for (const page of [one, two]) await heard(page, 'end');
    assert.deepEqual(await messages(one), ['by two', 'end']);
    assert.deepEqual((await messages(two)).sort(), ['by one', 'by two', 'end']);
  });

  test(`${transport}: a message is a message, whatever is in it`, async (t) => {
    const { tab, post } = await stage(t);
    const page = await tab();
    await listen(page, '/ch/orders', { ...options, meta: true });
    const notice = '{"event":"gap","channel":"orders","id":"zzzz-1"}';
    await post('/ch/orders?event=gap', 'named gap');
    await post('/ch/orders?event=open', '');
    await post('/ch/orders', notice);
    await post('/ch/orders?event=gap', new Uint8Array([0, 255]), { 'Content-Type': 'application/octet-stream' });
    await post('/ch/*', 'end');
    await heard(page, 'end');
    const got = (await events(page, 'message')).map(({ channel, event, data }) => [channel, event, data]);
    assert.deepEqual(JSON.parse(JSON.stringify(got)), [
      ['orders', 'gap', 'named gap'], ['orders', 'open', ''], ['orders', null, notice], ['orders', 'gap', [0, 255]], ['*', null, 'end'],
    ]);
    assert.equal((await events(page, 'gap')).length, 0);
    await page.evaluate(() => window.fanfare.close());
    assert.deepEqual((await events(page, 'close')).map(({ final, transport }) => [final, transport]), [[true, null]]);
  });

  test(`${transport}: fresh tokens keep a private channel open`, async (t) => {
    const { tab, post } = await stage(t, { FANFARE_KEY: KEY });
    let asked = 0;
    const fresh = () => {
      asked += 1;
      return token({ sub: '42', listen: ['private/x'] }, 3);
    };
    const page = await tab({ fresh });
    await listen(page, '/ch/private/x', { ...options, ask: 'fresh' });
    const end = Date.now() + 4000; // the first has run out by then
    let number = 0;
    for (; Date.now() < end || asked < 3; number++) {
      await post('/ch/private/x', String(number));
      await heard(page, String(number));
    }
    assert.deepEqual(await messages(page), Array.from({ length: number }, (_, at) => String(at)));
    if (transport !== 'sse') assert.deepEqual(await events(page, 'close'), []);
    assert.deepEqual(await events(page, 'gap'), []);
  });

  test(`${transport}: a refused token is final, with a function after one more try`, async (t) => {
    const { tab } = await stage(t, { FANFARE_KEY: KEY });
    let asked = 0;
    const page = await tab({ fresh() { asked += 1; return 'no.good.token'; } });
    const ends = async () => {
      await page.waitForFunction(() => window.events.at(-1)?.final, null, { polling: 20 });
      return (await events(page, 'open', 'close')).map(({ type, code, final }) => [type, code, final]);
    };
    await listenAnyhow(page, '/ch/private/x', { ...options, token: 'no.good.token' });
    assert.deepEqual(await ends(), [['close', 4401, true]]);
    await listenAnyhow(page, '/ch/private/x', { ...options, ask: 'fresh' });
    assert.deepEqual(await ends(), [['close', 4401, false], ['close', 4401, true]]);
    assert.equal(asked, 2);
  });
}

test('a text that looks like a fresh token is said all the same', async (t) => {
  const { tab } = await stage(t, { FANFARE_KEY: KEY });
  const page = await tab();
  await listen(page, '/ch/talk/x', { token: token({ sub: '42' }, 60), echo: true });
  const text = '{"token":"mine"}';
  await send(page, text);
  await send(page, text);
  await heard(page, text);
});

test('who has closed asks for no token any more', async (t) => {
  const { tab } = await stage(t);
  const timers = await (await tab()).evaluate(async (token) => {
    let give;
    new Fanfare('/ch/orders', { token: () => new Promise((go) => { give = go; }) }).close();
    const [wait, timers] = [window.setTimeout, []];
    window.setTimeout = (call, time) => timers.push(time);
    give(token);
    await new Promise((go) => { wait(go); });
    return timers;
  }, token({ sub: '42' }, 60));
  assert.deepEqual(timers, []);
});

test('tabs share one connection until the last is gone', async (t) => {
  const { network, tab, post, sessions, sessionsBecome } = await stage(t);
  const [one, two] = [await tab(), await tab()];
  for (const page of [one, two]) await listen(page, '/ch/talk/x', { shared: true });
  assert.equal(await sessions(), 1);
  await post('/ch/talk/x', 'to both');
  await Promise.all([heard(one, 'to both'), heard(two, 'to both')]);
  assert.equal(await send(one, 'by one'), true);
  await heard(two, 'by one');
  await two.evaluate(() => window.fanfare.send(new Uint8Array([1, 2]).subarray(1)));
  await happened(one, 'message', 2);
  network.cut();
  await Promise.all([happened(one, 'close'), happened(two, 'close')]);
  network.mend();
  await Promise.all([happened(one, 'open', 2), happened(two, 'open', 2)]);
  await post('/ch/talk/x', 'by one'); // the same words, of another
  await Promise.all([happened(one, 'message', 3), happened(two, 'message', 3)]);
  assert.deepEqual(await messages(one), ['to both', [2], 'by one']);
  await one.close();
  await post('/ch/talk/x', 'to the other');
  await heard(two, 'to the other');
  assert.deepEqual(await messages(two), ['to both', 'by one', 'by one', 'to the other']);
  assert.equal(await sessions(), 1);
  await two.evaluate(() => window.fanfare.close());
  await sessionsBecome(0);
  // And begins anew.
  await listen(two, '/ch/talk/x', { shared: true });
  assert.equal(await sessions(), 1);
  await two.close();
  await sessionsBecome(0);
});

test('the tabs that are left answer for the token of a shared connection', async (t) => {
  const { tab, post } = await stage(t, { FANFARE_KEY: KEY });
  const asked = [0, 0];
  const fresh = () => token({ sub: '42', listen: ['private/x'] }, 6);
  const one = await tab({ fresh() { asked[0] += 1; return fresh(); } });
  const two = await tab({ fresh() { asked[1] += 1; return new Promise(() => {}); } }); // goes without an answer
  const options = { shared: true, ask: 'fresh' };
  await listen(one, '/ch/private/x', options);
  await listen(two, '/ch/private/x', options);
  const hear = async (page, until) => {
    for (let number = 0; !until(); number++) {
      await post('/ch/private/x', `${until} ${number}`);
      await heard(page, `${until} ${number}`);
    }
  };
  await hear(two, () => asked[1] > 0);
  await two.close();
  const before = asked[0];
  await hear(one, () => asked[0] > before + 2);
  assert.deepEqual(await events(one, 'close', 'gap'), []);
});

test('a tab that cannot share has its own connection', async (t) => {
  const { tab, sessions } = await stage(t);
  const [one, two, three] = [await tab(), await tab(), await tab()];
  await one.evaluate(() => { delete window.SharedWorker; });
  await two.evaluate(() => {
    const Real = window.SharedWorker;
    window.SharedWorker = function (url, name) { return new Real('/nowhere', name); };
  });
  for (const page of [one, two]) await listen(page, '/ch/talk/x', { shared: true });
  await listen(three, '/ch/talk/x?last=5', { shared: true });
  assert.equal(await sessions(), 3);
  await send(one, 'by one');
  await Promise.all([heard(two, 'by one'), heard(three, 'by one')]);
  await two.evaluate(() => window.fanfare.close());
});
