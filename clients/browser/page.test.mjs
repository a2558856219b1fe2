// The try-it page, as a newcomer uses it.

import test from 'node:test';
import assert from 'node:assert/strict';
import { at, launchBrowser, listenOn, openPage, problems, speakOn, startFanfare } from './harness.mjs';

for (const transport of ['websocket', 'sse', 'poll']) {
  test(`listen by ${transport} and speak by POST`, async (t) => {
    const fanfare = await startFanfare();
    t.after(() => fanfare.stop());
    const browser = await launchBrowser();
    t.after(() => browser.close());
    const page = await openPage(browser, `http://${fanfare.address}/`);
    await listenOn(page, 'orders', transport);
    await page.waitForSelector('[data-testid=state][data-state=open]');
    await speakOn(page, 'orders', '<img src=x onerror=alert(1)>', 'paid');
    const entry = page.locator('[data-testid=log-entry][data-channel=orders]');
    await entry.waitFor();
    assert.equal(await entry.getAttribute('data-text'), '<img src=x onerror=alert(1)>');
    assert.equal(await entry.locator('img').count(), 0);
    // Said from elsewhere.
    await fetch(`http://${fanfare.address}/ch/orders`, { method: 'POST', body: 'from elsewhere' });
    await page.locator('[data-testid=log-entry][data-text="from elsewhere"]').waitFor();
    assert.match(await at(page, 'snippet-curl').innerText(), /curl .*\/ch\/orders/s);
    assert.deepEqual(problems(page), []);
  });
}

test('fanfare.js falls back to an event stream, comes back, and stops at a final code', async (t) => {
  let fanfare = await startFanfare();
  const browser = await launchBrowser();
  t.after(() => browser.close());
  const page = await openPage(browser, `http://${fanfare.address}/`);
  const heard = await page.evaluate(async (address) => {
    const next = (source, name) => new Promise((resolve) => { source[name] = resolve; });
    // A WebSocket that never opens, as behind a proxy that does not know it.
    const real = window.WebSocket;
    window.WebSocket = class { constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: '' }), 0); } close() {} addEventListener(name, f) { this[`on${name}`] = f; } };
    const fallback = new Fanfare('/ch/a', { retryMin: 10 });
    await next(fallback, 'onopen');
    window.WebSocket = real;
    const message = next(fallback, 'onmessage');
    await fetch('/ch/a', { method: 'POST', body: 'by stream' });
    const data = (await message).data;
    fallback.close();
    const refused = new Fanfare('/nowhere', { retryMin: 10 });
    const end = await next(refused, 'onclose');
    return [data, end.code, end.final];
  }, fanfare.address);
  assert.deepEqual(heard, ['by stream', 4404, true]);
  await page.evaluate(() => {
    window.live = new Fanfare('/ch/a', { retryMin: 10, retryMax: 100 });
    window.opened = 0;
    live.onopen = () => { window.opened += 1; };
  });
  await page.waitForFunction(() => window.opened === 1);
  const { address } = fanfare;
  assert.equal(await fanfare.stop(), 0);
  fanfare = await startFanfare({}, address);
  t.after(() => fanfare.stop());
  await page.waitForFunction(() => window.opened === 2);
});
