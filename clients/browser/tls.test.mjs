// The try-it page over https and wss, in a browser that checks certificates.

import test from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { launchBrowser, listenOn, openPage, problems, program, speakOn, start } from './harness.mjs';

/** A server with TLS only, and the certificate that `fanfare dev-cert` made for it. */
async function startWithTls(t) {
  const folder = mkdtempSync(join(tmpdir(), 'fanfare-'));
  t.after(() => rmSync(folder, { recursive: true }));
  execFileSync(program, ['dev-cert', '--dir', folder]);
  const [cert, key] = ['cert.pem', 'key.pem'].map((name) => join(folder, name));
  const settings = ['--listen', 'off', '--tls-listen', '127.0.0.1:0', '--tls-cert', cert, '--tls-key', key];
  const fanfare = await start(program, settings, {}, /^listening on https:\/\/(.*)$/);
  t.after(() => fanfare.stop());
  const url = `https://localhost:${fanfare.address.split(':').pop()}/`;
  return { url, certificate: new X509Certificate(readFileSync(cert)) };
}

/** Trusts the one key of this certificate, and judges all others as ever. */
function trusting(certificate) {
  const key = certificate.publicKey.export({ type: 'spki', format: 'der' });
  return [`--ignore-certificate-errors-spki-list=${createHash('sha256').update(key).digest('base64')}`];
}

test('a browser that does not trust the authority does not come in', async (t) => {
  const { url } = await startWithTls(t);
  const { certificate: other } = await startWithTls(t);
  const browser = await launchBrowser(undefined, trusting(other));
  t.after(() => browser.close());
  await assert.rejects(openPage(browser, url), /ERR_CERT_AUTHORITY_INVALID/);
});

for (const transport of ['websocket', 'sse']) {
  test(`listen by ${transport} and speak by POST, over TLS`, async (t) => {
    const { url, certificate } = await startWithTls(t);
    const browser = await launchBrowser(undefined, trusting(certificate));
    t.after(() => browser.close());
    const page = await openPage(browser, url);
    assert.equal(await page.evaluate(() => window.isSecureContext), true);
    const sockets = [];
    page.on('websocket', (socket) => sockets.push(socket.url()));
    await listenOn(page, 'orders', transport);
    await page.waitForSelector('[data-testid=state][data-state=open]');
    await speakOn(page, 'orders', 'only for us');
    await page.locator('[data-testid=log-entry][data-channel=orders][data-text="only for us"]').waitFor();
    assert.ok(sockets.every((socket) => socket.startsWith('wss://')), sockets.join(' '));
    assert.equal(sockets.some((socket) => socket.includes('orders')), transport === 'websocket');
    assert.deepEqual(problems(page), []);
  });
}
