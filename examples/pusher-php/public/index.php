<?php

/** The page; before that, a form to log in. A real site asks for more than a name. */

declare(strict_types=1);

require __DIR__ . '/../pusher.php';

if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $name = trim((string) ($_POST['user'] ?? ''));
    if (preg_match('/^[\p{L}\p{N} ._-]{1,40}\z/u', $name) === 1) {
        session_start(['cookie_httponly' => true, 'cookie_samesite' => 'Lax']);
        session_regenerate_id(true);
        $_SESSION['user'] = $name;
    }
    header('Location: index.php', true, 303);
    exit;
}
$user = visitor();
$data = [
    'key' => setting('PUSHER_APP_KEY', 'app-key'),
    'host' => setting('PUSHER_HOST', '127.0.0.1'),
    'port' => setting('PUSHER_PORT', '8080'),
    'user' => $user,
];
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Lobby</title>
<link rel="stylesheet" href="site.css">
<?php if ($user === null) : ?>
<form method="post">
    <label>Your name <input name="user" required maxlength="40" autofocus></label>
    <button>Log in</button>
</form>
<?php else : ?>
<main<?php foreach ($data as $name => $value) : ?> data-<?= $name ?>="<?= htmlspecialchars($value) ?>"<?php endforeach ?>>
    <h1>Hello, <?= htmlspecialchars($user) ?> <small id="state">connecting</small></h1>
    <h2>In the lobby</h2>
    <ul id="members"></ul>
    <h2>Said here</h2>
    <ul id="heard"></ul>
    <p id="typing"></p>
    <form id="say">
        <label>Say <input name="text" required maxlength="200" autocomplete="off"></label>
        <label>to <input name="to" maxlength="40" placeholder="everybody" autocomplete="off"></label>
        <button>Send</button>
    </form>
</main>
<script src="pusher-js.php"></script>
<script src="site.js"></script>
<?php endif ?>
