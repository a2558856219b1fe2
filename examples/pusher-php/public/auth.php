<?php

/**
 * Asked by pusher-js, with the visitor's cookies: may this connection (socket_id) listen to this channel (channel_name)?
 * Without a channel: who is it? A yes is a signature made with the app's secret; Fanfare checks it and asks nobody.
 */

declare(strict_types=1);

require __DIR__ . '/../pusher.php';

$user = visitor();
$socket = (string) ($_POST['socket_id'] ?? '');
$channel = $_POST['channel_name'] ?? null;
// A socket id is two numbers. What else somebody sends here must not be signed: it could be a text of another meaning.
if ($_SERVER['REQUEST_METHOD'] !== 'POST' || $user === null || preg_match('/^\d+\.\d+\z/', $socket) !== 1) {
    http_response_code(403);
    exit;
}
header('Content-Type: application/json');
if ($channel === null) {
    echo pusher()->authenticateUser($socket, ['id' => $user]);
} elseif ($channel === 'private-lobby') {
    echo pusher()->authorizeChannel($channel, $socket);
} elseif ($channel === 'presence-lobby') {
    $member = json_encode(['user_id' => $user, 'user_info' => ['since' => date('H:i')]], JSON_THROW_ON_ERROR);
    echo pusher()->authorizeChannel($channel, $socket, $member);
} else {
    http_response_code(403);
}
