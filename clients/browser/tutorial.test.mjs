// The tutorial, end to end: its page as it is, in a real browser, and PHP from elsewhere.

import test from 'node:test';
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { freePort, launchBrowser, openPage, repository, start, startFanfare } from './harness.mjs';

const run = promisify(execFile);
const page = `file://${repository}/examples/tutorial-chat/index.html`;
const php = (args, address, env = {}) =>
  run('php', args, { env: { ...process.env, FANFARE_URL: `http://${address}`, ...env }, cwd: repository });

test('two pages hear each other and not themselves', async (t) => {
  const fanfare = await startFanfare();
  const browser = await launchBrowser(fanfare.address);
  t.after(() => browser.close());
  const [one, two] = [await openPage(browser, page), await openPage(browser, page)];
  await one.said('Connection established!');
  await two.said('Connection established!');
  await one.evaluate(() => conn.send('from one'));
  await two.said('from one');
  await two.evaluate(() => conn.send('from two'));
  await one.said('from two');
  assert.ok(!one.lines.includes('from one') && !two.lines.includes('from two'));
  // The last step of the tutorial, from another process, reaches both.
  await php(['examples/tutorial-chat/broadcast.php'], fanfare.address);
  await Promise.all([one.said('This is a broadcasted message'), two.said('This is a broadcasted message')]);
  // And so does an announcement from a shell.
  await php(['examples/announcement/announce.php', 'We restart at 22:00'], fanfare.address);
  await Promise.all([one.said('We restart at 22:00'), two.said('We restart at 22:00')]);
  // When the server goes, the page can read why.
  const code = await fanfare.stop();
  assert.equal(code, 0, fanfare.log());
  await one.said('Connection closed: 1012 the server is shutting down');
});

test('three lines of PHP without a library reach a browser', async (t) => {
  const fanfare = await startFanfare();
  t.after(() => fanfare.stop());
  const browser = await launchBrowser(fanfare.address);
  t.after(() => browser.close());
  const listener = await openPage(browser, page);
  await listener.said('Connection established!');
  const lines = `file_get_contents('http://${fanfare.address}/ch/main', false, stream_context_create(['http' => [
    'method' => 'POST', 'content' => 'order 7 paid', 'header' => 'Content-Type: text/plain', 'timeout' => 1]]));`;
  await php(['-r', lines], fanfare.address);
  await listener.said('order 7 paid');
});

test('a PHP-FPM request behind nginx updates every open browser', async (t) => {
  const fanfare = await startFanfare();
  t.after(() => fanfare.stop());
  const port = await freePort();
  const env = { PORT: String(port), FANFARE_URL: `http://${fanfare.address}` };
  const shop = await start(`${repository}/examples/order-status/run.sh`, [], env, /^(http:\/\/localhost:\d+\/?)$/);
  t.after(() => shop.stop());
  const browser = await launchBrowser();
  t.after(() => browser.close());
  const [one, two] = [await openPage(browser, shop.address), await openPage(browser, shop.address)];
  const listen = (page) => page.evaluate(() => new Promise((connected) => {
    const source = new EventSource('/ch/orders');
    source.onopen = () => connected();
    window.paid = new Promise((resolve) => source.addEventListener('paid', (event) => resolve(event.data)));
  }));
  await Promise.all([listen(one), listen(two)]);
  const answer = await one.evaluate(async () => (await fetch('/pay.php', { method: 'POST', body: new URLSearchParams({ id: '2' }) })).status);
  assert.equal(answer, 200);
  for (const page of [one, two]) {
    assert.equal(JSON.parse(await page.evaluate(() => window.paid)).status, 'paid');
  }
});

test('a server that is down does not hold up the order that caused the message', async () => {
  const port = await freePort();
  const begun = process.hrtime.bigint();
  const { stdout } = await php(['-r', "require 'clients/php/fanfare.php'; var_dump(fanfare('main', 'x'));"], `127.0.0.1:${port}`);
  assert.equal(stdout.trim(), 'NULL');
  assert.ok(process.hrtime.bigint() - begun < 10_000_000_000n);
});
