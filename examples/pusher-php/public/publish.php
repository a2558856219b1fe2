<?php

/** Says something to everybody in the lobby but the connection that asks for it, or to one user on all her connections. */

declare(strict_types=1);

require __DIR__ . '/../pusher.php';

$user = visitor();
$text = trim((string) ($_POST['text'] ?? ''));
$to = trim((string) ($_POST['to'] ?? ''));
if ($_SERVER['REQUEST_METHOD'] !== 'POST' || $user === null || $text === '') {
    http_response_code(403);
    exit;
}
$said = ['from' => $user, 'text' => $text];
try {
    if ($to === '') {
        pusher()->trigger('private-lobby', 'said', $said, ['socket_id' => (string) ($_POST['socket_id'] ?? '')]);
    } else {
        pusher()->sendToUser($to, 'mail', $said);
    }
    http_response_code(204);
} catch (FanfarePusherError $error) {
    error_log("not published: {$error->getMessage()}");
    http_response_code(502);
}
