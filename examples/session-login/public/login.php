<?php

/** Logs in. A real site asks for more than a name. Fanfare takes ids of up to 128 bytes. */

declare(strict_types=1);

$user = trim((string) ($_POST['user'] ?? ''));
if ($_SERVER['REQUEST_METHOD'] === 'POST' && preg_match('/^[\p{L}\p{N} ._-]+\z/u', $user) === 1 && strlen($user) <= 128) {
    session_start(['cookie_httponly' => true, 'cookie_samesite' => 'Lax']);
    session_regenerate_id(true);
    $_SESSION['user'] = $user;
}
header('Location: index.php', true, 303);
