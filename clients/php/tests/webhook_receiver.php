<?php

/**
 * A receiver of webhooks, as an application that uses Pusher has one: a router script for `php -S`.
 *
 * Checks the signature over the body as it came, and writes each event into a file, a line each. Its environment says
 * whose events they are (PUSHER_APP_KEY, PUSHER_APP_SECRET) and which file (RECEIVED).
 */

declare(strict_types=1);

$body = (string) file_get_contents('php://input');
$signature = hash_hmac('sha256', $body, (string) getenv('PUSHER_APP_SECRET'));
// Pusher's library is given these, and knows the names only in this spelling.
$headers = getallheaders();
if (
    !hash_equals($signature, $headers['X-Pusher-Signature'] ?? '')
    || ($headers['X-Pusher-Key'] ?? '') !== getenv('PUSHER_APP_KEY')
    || ($headers['Content-Type'] ?? '') !== 'application/json'
) {
    http_response_code(401);
    return;
}
$webhook = json_decode($body, true, 512, JSON_THROW_ON_ERROR);
// As one library does: what is older than five minutes may be somebody's recording.
if (abs(microtime(true) - $webhook['time_ms'] / 1000) > 300) {
    http_response_code(401);
    return;
}
$lines = '';
foreach ($webhook['events'] as $event) {
    $lines .= json_encode($event, JSON_UNESCAPED_SLASHES | JSON_THROW_ON_ERROR) . "\n";
}
file_put_contents((string) getenv('RECEIVED'), $lines, FILE_APPEND | LOCK_EX);
http_response_code(204);
