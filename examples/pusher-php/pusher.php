<?php

/** What the pages of this example share: who is logged in, and Fanfare as the app's back end sees it. */

declare(strict_types=1);

require __DIR__ . '/../../clients/php/pusher_publish.php';

/** A setting of the environment. */
function setting(string $name, string $default): string
{
    $value = getenv($name);
    return $value === false || $value === '' ? $default : $value;
}

/** The user's name, or null. */
function visitor(): ?string
{
    session_start(['read_and_close' => true]);
    return $_SESSION['user'] ?? null;
}

function pusher(): FanfarePusher
{
    return new FanfarePusher(
        setting('PUSHER_APP_KEY', 'app-key'),
        setting('PUSHER_APP_SECRET', 'app-secret'),
        setting('PUSHER_APP_ID', '1'),
        ['host' => setting('PUSHER_HOST', '127.0.0.1'), 'port' => (int) setting('PUSHER_PORT', '8080'), 'timeout' => 2.0]
    );
}
