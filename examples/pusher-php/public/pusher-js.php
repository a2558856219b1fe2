<?php

/** pusher-js from this machine: the file PUSHER_JS, else the one that npm has put into clients/pusher. */

declare(strict_types=1);

require __DIR__ . '/../pusher.php';

$installed = __DIR__ . '/../../../clients/pusher/node_modules/pusher-js/dist/web/pusher.min.js';
$file = setting('PUSHER_JS', $installed);
header('Content-Type: text/javascript; charset=utf-8');
if (!is_file($file)) {
    http_response_code(404);
    exit('console.error("pusher-js is not installed: see the README");');
}
readfile($file);
