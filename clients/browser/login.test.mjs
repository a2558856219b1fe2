// A site whose only truth is PHP's session, behind php-fpm and nginx: who connects, what reaches her, and her logout.

import test from 'node:test';
import assert from 'node:assert/strict';
import { freePort, launchBrowser, openPage, repository, start, startFanfare } from './harness.mjs';

const KEY = 'a-key-that-is-long-enough-for-a-test';

/** Resolves when the page's text of `selector` is `expected`. */
const shows = (page, selector, expected) =>
  page.waitForFunction(([selector, expected]) => document.querySelector(selector)?.textContent === expected,
    [selector, expected]);

async function logIn(page, user) {
  await page.fill('input[name=user]', user);
  await Promise.all([page.waitForNavigation(), page.click('button')]);
  await shows(page, '#state', 'connected');
}

test('a login of PHP is enough, and a logout is the end on all tabs', async (t) => {
  const port = await freePort();
  const fanfare = await startFanfare({
    FANFARE_KEY: KEY,
    FANFARE_HOOKS_ON_CONNECT: `http://127.0.0.1:${port}/connect.php`,
  });
  t.after(() => fanfare.stop());
  const env = { PORT: String(port), FANFARE_URL: `http://${fanfare.address}`, FANFARE_KEY: KEY };
  const site = await start(`${repository}/examples/session-login/run.sh`, [], env, /^(http:\/\/localhost:\d+\/?)$/);
  t.after(() => site.stop());
  const browser = await launchBrowser();
  t.after(() => browser.close());

  // Who is not logged in does not come in, whatever she tries.
  const stranger = await openPage(browser, site.address);
  const refused = await stranger.evaluate(() => new Promise((resolve) => {
    const socket = new WebSocket(`ws://${location.host}/ch/private%2Fmembers`);
    socket.onclose = (event) => resolve(event.code);
  }));
  assert.equal(refused, 4401);
  // Nor does somebody who calls the hook herself.
  assert.equal(await stranger.evaluate(async () => (await fetch('/connect.php', { method: 'POST', body: '{}' })).status), 400);

  // Each user in a browser profile of her own; the tabs of a profile share its cookies.
  const [anna, ben] = [await browser.newContext(), await browser.newContext()];
  const tabs = [await openPage(anna, site.address)];
  await logIn(tabs[0], 'anna');
  tabs.push(await openPage(anna, site.address));
  await shows(tabs[1], '#state', 'connected');
  const other = await openPage(ben, site.address);
  await logIn(other, 'ben');

  await other.fill('input[name=to]', 'anna');
  await other.fill('input[name=text]', 'hello');
  await other.click('form[action="send.php"] button');
  for (const tab of tabs) await shows(tab, '#heard', 'ben: hello');

  // She logs out in one tab. The other one is told, and stays out.
  const begun = performance.now();
  await Promise.all([
    shows(tabs[1], '#state', 'disconnected: disconnected by the back end'),
    tabs[0].waitForNavigation(),
    tabs[0].click('form[action="logout.php"] button'),
  ]);
  t.diagnostic(`from the click to the end of the other tab: ${Math.round(performance.now() - begun)} ms`);
  const again = await tabs[1].evaluate(() => new Promise((resolve) => {
    const socket = new WebSocket(`ws://${location.host}/ch/private%2Fmembers`);
    socket.onclose = (event) => resolve(event.code);
  }));
  assert.equal(again, 4401);
  assert.equal(await other.textContent('#state'), 'connected');
});
