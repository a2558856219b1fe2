<?php

/** Logs out: forget first, then cut off, so that nobody can come back in between. */

declare(strict_types=1);

require __DIR__ . '/../../../clients/php/fanfare.php';

session_start();
$user = $_SESSION['user'] ?? null;
if ($_SERVER['REQUEST_METHOD'] === 'POST' && $user !== null) {
    $_SESSION = [];
    session_destroy();
    if (!isset(fanfare_disconnect($user)['connections'])) {
        error_log("$user has logged out, but may be connected still");
    }
}
header('Location: index.php', true, 303);
