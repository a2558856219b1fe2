<?php

/**
 * Webhooks, received by PHP:  FANFARE_BIN=target/debug/fanfare php clients/php/tests/webhooks_test.php
 *
 * Starts the server and a receiver (webhook_receiver.php under `php -S`), takes the receiver away for a while, and
 * judges that every event has arrived once it is back, in order.
 *
 * With AWAY_SECONDS=60 the receiver is away for a minute, and the server tries again when it would for anybody.
 */

declare(strict_types=1);

const KEY = 'demo-key-7f3a';
const SECRET = 'demo-secret-b91c';
const PATIENCE_SECONDS = 60;
define('AWAY_SECONDS', (int) getenv('AWAY_SECONDS'));

require __DIR__ . '/harness.php';

/** A process that ends with this object. */
final class Process
{
    private $process;
    /** @var resource[] */
    public $pipes = [];

    /** @param array<string, string> $environment */
    public function __construct(array $command, array $environment, array $streams)
    {
        $all = array_filter(getenv(), static fn (string $name): bool => strncmp($name, 'FANFARE_', 8) !== 0, ARRAY_FILTER_USE_KEY);
        $this->process = proc_open($command, $streams, $this->pipes, null, $environment + $all);
    }

    public function __destruct()
    {
        foreach ($this->pipes as $pipe) {
            fclose($pipe);
        }
        proc_terminate($this->process, 9);
        proc_close($this->process);
    }
}

/** Asks again and again until the answer is true. */
function wait_until(string $what, callable $is_so): void
{
    $end = microtime(true) + PATIENCE_SECONDS;
    while (!$is_so()) {
        if (microtime(true) > $end) {
            throw new RuntimeException("$what did not happen");
        }
        usleep(2000);
    }
}

/** A request on a connection of its own: status and body; null if nobody is there. */
function request(string $address, string $head, string $body = ''): ?array
{
    try {
        $peer = stream_socket_client("tcp://$address", $code, $text, 1);
    } catch (ErrorException $error) {
        return null;
    }
    fwrite($peer, "$head\r\nHost: $address\r\nConnection: close\r\nContent-Length: " . strlen($body) . "\r\n\r\n$body");
    $answer = (string) stream_get_contents($peer);
    return sscanf($answer, 'HTTP/1.%d %d')[1] ? [(int) substr($answer, 9, 3), $answer] : null;
}

$received = tempnam(sys_get_temp_dir(), 'webhooks');
register_shutdown_function(static function () use ($received): void {
    unlink($received);
});
// A port that is free, for a receiver that comes and goes.
$free = stream_socket_server('tcp://127.0.0.1:0');
$receiver_address = stream_socket_get_name($free, false);
fclose($free);

$start_receiver = static function () use ($receiver_address, $received): Process {
    $environment = ['PUSHER_APP_KEY' => KEY, 'PUSHER_APP_SECRET' => SECRET, 'RECEIVED' => $received];
    $command = [PHP_BINARY, '-S', $receiver_address, __DIR__ . '/webhook_receiver.php'];
    $null = ['file', '/dev/null', 'w'];
    $process = new Process($command, $environment, [['file', '/dev/null', 'r'], $null, $null]);
    wait_until('the receiver', static fn (): bool => request($receiver_address, 'GET / HTTP/1.1') !== null);
    return $process;
};
/** What has arrived so far, in short: "occupied orders.1". */
$events = static function () use ($received): array {
    $short = static function (string $line): string {
        $event = json_decode($line, true);
        return substr($event['name'], strlen('channel_')) . ' ' . $event['channel'];
    };
    return array_map($short, file($received, FILE_IGNORE_NEW_LINES));
};

$fanfare = new Process([getenv('FANFARE_BIN') ?: 'target/debug/fanfare'], [
    'FANFARE_LISTEN' => '127.0.0.1:0',
    'FANFARE_APPS' => sprintf(
        '[{ id = "4711", key = "%s", secret = "%s", webhooks = [{ url = "http://%s/hook" }] }]',
        KEY,
        SECRET,
        $receiver_address
    ),
    'FANFARE_PUSHER_WEBHOOK_PRIVATE_NETWORKS' => 'true',
] + (AWAY_SECONDS > 0 ? [] : [
    'FANFARE_PUSHER_WEBHOOK_DELAY' => '50ms',
    'FANFARE_PUSHER_WEBHOOK_RETRY_PAUSE' => '100ms',
]), [['file', '/dev/null', 'r'], ['pipe', 'w'], ['pipe', 'w']]);
// The log says where metrics are before the server says that it is ready.
$doors = trim(substr((string) fgets($fanfare->pipes[1]), strlen('listening on http://')));
stream_set_blocking($fanfare->pipes[2], false);
preg_match('/metrics are served here.* address=(\S+)/', (string) stream_get_contents($fanfare->pipes[2]), $match);
$admin = $match[1];

/** Listens to a channel, which so is occupied until the stream is closed. */
$listen = static function (string $channel) use ($doors) {
    $peer = stream_socket_client("tcp://$doors");
    fwrite($peer, "GET /ch/$channel HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    $line = fgets($peer);
    if (strpos((string) $line, ' 200 ') === false) {
        throw new RuntimeException((string) $line);
    }
    return $peer;
};
$failures = static function () use ($admin): int {
    preg_match('/webhook_requests_total\{outcome="failed"\} (\d+)/', request($admin, 'GET /metrics HTTP/1.1')[1], $match);
    return (int) ($match[1] ?? 0);
};

$receiver = $start_receiver();
$bad = "POST /hook HTTP/1.1\r\nContent-Type: application/json\r\nX-Pusher-Key: " . KEY . "\r\nX-Pusher-Signature: ";
$body = sprintf('{"time_ms":%d,"events":[{"name":"channel_occupied","channel":"forged"}]}', microtime(true) * 1000);
report('what others sign is refused', request($receiver_address, $bad . hash_hmac('sha256', $body, 'x'), $body)[0], 401);

$streams = [1 => $listen('orders.1')];
wait_until('the first event', static fn (): bool => count($events()) === 1);
report('an event arrives', $events(), ['occupied orders.1']);

$receiver = null;
$expected = ['occupied orders.1'];
for ($number = 2; $number <= 30; $number++) {
    $streams[$number] = $listen("orders.$number");
    $expected[] = "occupied orders.$number";
}
wait_until('a failure', static fn (): bool => $failures() >= 3);
sleep(AWAY_SECONDS);
report('nothing arrives while the receiver is away', count($events()), 1);
$receiver = $start_receiver();
wait_until('the other events', static fn (): bool => count($events()) >= count($expected));
report('everything arrives once it is back, in order', $events(), $expected);

$receiver = null;
fclose($streams[7]);
$before = $failures();
wait_until('a failure', static fn (): bool => $failures() > $before);
$streams[7] = $listen('orders.7');
$receiver = $start_receiver();
array_push($expected, 'vacated orders.7', 'occupied orders.7');
wait_until('the last events', static fn (): bool => count($events()) >= count($expected));
report('also what has changed meanwhile', $events(), $expected);

finish('php');
