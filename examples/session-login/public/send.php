<?php

/** Says something to a user, on all her tabs. */

declare(strict_types=1);

require __DIR__ . '/../../../clients/php/fanfare.php';

session_start(['read_and_close' => true]);
$to = trim((string) ($_POST['to'] ?? ''));
$text = trim((string) ($_POST['text'] ?? ''));
if ($_SERVER['REQUEST_METHOD'] !== 'POST' || !isset($_SESSION['user']) || $to === '' || $text === '') {
    http_response_code(403);
    exit;
}
$answer = fanfare("user/$to", "{$_SESSION['user']}: $text");
http_response_code(isset($answer['id']) ? 204 : 502);
