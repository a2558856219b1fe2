// The example for Pusher's libraries, end to end: PHP that signs and publishes, pusher-js in a real browser.

import test from 'node:test';
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { promisify } from 'node:util';
import { freePort, launchBrowser, openPage, repository, start, startFanfare } from './harness.mjs';

const APP = { PUSHER_APP_ID: '4711', PUSHER_APP_KEY: 'demo-key-7f3a', PUSHER_APP_SECRET: 'demo-secret-b91c' };
const installed = existsSync(`${repository}/clients/pusher/node_modules/pusher-js/dist/web/pusher.min.js`);

/** Resolves when the page's text of `selector` is `expected`. */
const shows = (page, selector, expected) =>
  page.waitForFunction(([selector, expected]) => document.querySelector(selector)?.textContent === expected,
    [selector, expected]);

async function logIn(page, user) {
  await page.fill('input[name=user]', user);
  await Promise.all([page.waitForNavigation(), page.click('button')]);
}

/** Resolves when it has been let into everything, so that it misses nothing from now on. */
const ready = (page) => page.waitForFunction(() => lobby.subscribed && room.subscribed && pusher.user.serverToUserChannel?.subscribed);

async function say(page, text, to = '') {
  await page.fill('#say input[name=to]', to);
  await page.fill('#say input[name=text]', text);
  await page.click('#say button');
}

test('a lobby in plain PHP: who is here, what is said, and what is said to one', { skip: !installed && 'needs npm ci in clients/pusher' }, async (t) => {
  const fanfare = await startFanfare(APP);
  t.after(() => fanfare.stop());
  const [host, port] = fanfare.address.split(':');
  // PHP's own server says where it listens on its standard error.
  const serve = `exec php -S 127.0.0.1:${await freePort()} -t examples/pusher-php/public 2>&1`;
  const site = await start('bash', ['-c', `cd "${repository}" && ${serve}`], { ...APP, PUSHER_HOST: host, PUSHER_PORT: port },
    /\((http:\/\/[^)]*)\) started/);
  t.after(() => site.stop());
  const browser = await launchBrowser();
  t.after(() => browser.close());

  // Who is not logged in is signed nothing.
  const sign = (page, form) => page.evaluate(async (form) => {
    const answer = await fetch('auth.php', { method: 'POST', body: new URLSearchParams(form) });
    return answer.status;
  }, form);
  const stranger = await openPage(browser, site.address);
  for (const form of [{ socket_id: '1.2', channel_name: 'private-lobby' }, { socket_id: '1.2' }]) {
    assert.equal(await sign(stranger, form), 403);
  }

  const [anna, ben] = [await browser.newContext(), await browser.newContext()];
  const one = await openPage(anna, site.address);
  await logIn(one, 'Anna');
  await shows(one, '#members', 'Anna');
  const two = await openPage(ben, site.address);
  await logIn(two, 'Ben');
  await Promise.all([one, two].map((page) => shows(page, '#members', 'AnnaBen')));
  // A second tab is not a second member.
  const again = await openPage(anna, site.address);
  await shows(again, '#members', 'AnnaBen');
  await Promise.all([one, two, again].map(ready));
  // Other channels, and other texts than socket ids, are not signed for anybody.
  for (const form of [{ socket_id: '1.2', channel_name: 'private-other' }, { socket_id: '1.2:private-other', channel_name: 'private-lobby' },
    { socket_id: '1.2:', channel_name: 'private-lobby' }]) {
    assert.equal(await sign(one, form), 403, JSON.stringify(form));
  }

  await two.fill('#say input[name=text]', 'h');
  for (const page of [one, again]) await shows(page, '#typing', 'Ben is writing');
  await say(two, 'hello');
  for (const page of [one, two, again]) await shows(page, '#heard', 'Ben: hello');
  // To one user: on all her tabs, and on nobody else's.
  await say(two, 'psst', 'Anna');
  for (const page of [one, again]) await shows(page, '#heard', 'Ben: helloBen, to you alone: psst');
  await say(one, 'end');
  await shows(two, '#heard', 'Ben: helloBen, to Anna alone: psstAnna: end');
  // She hears it by her own connection, not by her click: later than he, sometimes.
  await shows(one, '#heard', 'Ben: helloBen, to you alone: psstAnna: end');
  if (process.env.SCREENSHOT) await two.screenshot({ path: process.env.SCREENSHOT });

  // She is gone when her last tab is.
  await again.close();
  await one.evaluate(() => fetch('publish.php', { method: 'POST', body: new URLSearchParams({ text: 'still here' }) }));
  await shows(two, '#heard', 'Ben: helloBen, to Anna alone: psstAnna: endAnna: still here');
  assert.equal(await two.textContent('#members'), 'AnnaBen');
  await one.close();
  await shows(two, '#members', 'Ben');
  assert.deepEqual(two.lines.filter((line) => /error/i.test(line)), []);
});

test('the PHP files of the example for Laravel can be read', async () => {
  const folder = `${repository}/examples/laravel`;
  const files = readdirSync(folder, { recursive: true }).filter((name) => name.endsWith('.php'));
  assert.ok(files.length >= 7, files.join(' '));
  for (const file of files) await promisify(execFile)('php', ['-l', `${folder}/${file}`]);
});
