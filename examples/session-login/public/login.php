<?php

/** Logs in. A real site asks for more than a name. */

declare(strict_types=1);

$user = trim((string) ($_POST['user'] ?? ''));
if ($_SERVER['REQUEST_METHOD'] === 'POST' && preg_match('/^[\p{L}\p{N} ._-]{1,40}$/u', $user) === 1) {
    session_start(['cookie_httponly' => true, 'cookie_samesite' => 'Lax']);
    session_regenerate_id(true);
    $_SESSION['user'] = $user;
}
header('Location: index.php', true, 303);
