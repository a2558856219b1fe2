<?php

/** php announce.php "We restart at 22:00": to everyone who is connected, whatever they listen to. */

declare(strict_types=1);

require __DIR__ . '/../../clients/php/fanfare.php';

if ($argc !== 2 || $argv[1] === '') {
    fwrite(STDERR, "usage: php announce.php TEXT\n");
    exit(64);
}
$answer = fanfare('*', $argv[1], ['event' => 'announcement', 'timeout' => 5]);
if ($answer === null) {
    fwrite(STDERR, "announce.php: no answer from Fanfare; is it running, and is FANFARE_URL right?\n");
    exit(1);
}
if (isset($answer['error'])) {
    fwrite(STDERR, "announce.php: refused: {$answer['message']}\n");
    exit(1);
}
echo "announced to {$answer['listeners']} connections\n";
