<?php

/**
 * The hook `on_connect`: Fanfare asks, for everybody who connects, with the cookies of her browser.
 *
 * 2xx lets her in, as whom and to what the body says; 401 and 403 do not.
 */

declare(strict_types=1);

require __DIR__ . '/../../../clients/php/fanfare.php';

if (fanfare_hook() === null) {
    http_response_code(400); // not from Fanfare
    exit;
}
session_start(['read_and_close' => true]);
if (!isset($_SESSION['user'])) {
    http_response_code(401);
    exit;
}
header('Content-Type: application/json');
echo json_encode([
    'user' => $_SESSION['user'],
    'listen' => ['private/members'],
    // The session may be over before the connection is.
    'exp' => time() + 3600,
]);
