<?php

/**
 * Tests of pusher_publish.php against the real server:  php clients/php/tests/pusher_test.php
 *
 * Needs nothing but PHP and the server's program, which is FANFARE_BIN, else what `cargo build` leaves behind. The
 * server has a port and a Unix socket of its own. Whatever is waited for has PATIENCE to come.
 */

declare(strict_types=1);

const KEY = 'demo-key-7f3a';
const SECRET = 'demo-secret-b91c';
const PATIENCE = 15;

require __DIR__ . '/harness.php';
require dirname(__DIR__) . '/pusher_publish.php';

/** The server with one app; ends with this object. */
final class Server
{
    /** @var string */
    public $host;
    /** @var int */
    public $port;
    /** @var string */
    public $unix;
    private $folder;
    private $process;
    private $pipes;

    public function __construct()
    {
        $this->folder = sys_get_temp_dir() . '/fanfare-php-' . bin2hex(random_bytes(8));
        mkdir($this->folder, 0700);
        $this->unix = "$this->folder/fanfare.sock";
        $settings = 'unix = ' . json_encode($this->unix, JSON_UNESCAPED_SLASHES)
            . "\n[[apps]]\nid = \"4711\"\nkey = \"" . KEY . "\"\nsecret = \"" . SECRET . "\"\n"
            . "[[apps]]\nid = \"4712\"\nkey = \"disabled\"\nsecret = \"disabled\"\nenabled = false\n";
        file_put_contents("$this->folder/fanfare.toml", $settings);
        $program = getenv('FANFARE_BIN') ?: dirname(__DIR__, 3) . '/target/debug/fanfare';
        $command = [$program, '--listen', '127.0.0.1:0', '--config', "$this->folder/fanfare.toml"];
        $streams = [['file', '/dev/null', 'r'], ['pipe', 'w'], ['file', "$this->folder/log", 'w']];
        $this->process = proc_open($command, $streams, $this->pipes);
        while (($line = fgets($this->pipes[1])) !== false) {
            if (preg_match('~^listening on http://(.*):(\d+)$~', trim($line), $match) === 1) {
                [$this->host, $this->port] = [$match[1], (int) $match[2]];
                return;
            }
        }
        throw new RuntimeException('the server ended: ' . file_get_contents("$this->folder/log"));
    }

    public function publisher(array $options = [], string $secret = SECRET, string $id = '4711', string $key = KEY): FanfarePusher
    {
        return new FanfarePusher($key, $secret, $id, $options + ['host' => $this->host, 'port' => $this->port]);
    }

    public function __destruct()
    {
        proc_terminate($this->process); // SIGTERM
        proc_close($this->process); // which waits for its end
        foreach (glob("$this->folder/*") as $file) {
            unlink($file);
        }
        rmdir($this->folder);
    }
}

/** A WebSocket that speaks Pusher's protocol: just enough of it to hear what is published. */
final class Subscriber
{
    /** @var string */
    public $socket_id;
    private $stream;

    public function __construct(Server $server)
    {
        $this->stream = stream_socket_client("tcp://$server->host:$server->port", $code, $text, PATIENCE);
        stream_set_timeout($this->stream, PATIENCE);
        fwrite($this->stream, 'GET /app/' . KEY . "?protocol=7 HTTP/1.1\r\nHost: $server->host:$server->port\r\n"
            . "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            . 'Sec-WebSocket-Key: ' . base64_encode(random_bytes(16)) . "\r\n\r\n");
        while (trim($this->read_line()) !== '') {
            continue;
        }
        $this->socket_id = json_decode($this->next()['data'], true)['socket_id'];
    }

    private function read_line(): string
    {
        $line = fgets($this->stream);
        if ($line === false) {
            throw new RuntimeException('the connection ended');
        }
        return $line;
    }

    private function read(int $length): string
    {
        $bytes = $length === 0 ? '' : stream_get_contents($this->stream, $length);
        if (strlen((string) $bytes) !== $length) {
            throw new RuntimeException('the connection ended, or nothing came');
        }
        return $bytes;
    }

    public function send(array $event): void
    {
        $text = json_encode($event, JSON_UNESCAPED_SLASHES);
        $length = strlen($text) < 126 ? chr(0x80 | strlen($text)) : "\xfe" . pack('n', strlen($text));
        $mask = random_bytes(4);
        fwrite($this->stream, "\x81$length$mask" . ($text ^ str_repeat($mask, intdiv(strlen($text), 4) + 1)));
    }

    /** The next event, or ['close' => code]. */
    public function next(): array
    {
        for (;;) {
            [$first, $second] = array_values(unpack('C2', $this->read(2)));
            $length = $second === 126 ? unpack('n', $this->read(2))[1] : ($second === 127 ? unpack('J', $this->read(8))[1] : $second);
            $bytes = $this->read($length);
            if (($first & 15) === 1) {
                return json_decode($bytes, true);
            }
            if (($first & 15) === 8) {
                return ['close' => unpack('n', $bytes)[1]];
            }
        }
    }

    /** Subscribes with what an application's endpoint would answer; the answer of the server. */
    public function subscribe(string $channel, string $authorization = '{"auth":""}'): array
    {
        $this->send(['event' => 'pusher:subscribe', 'data' => ['channel' => $channel] + json_decode($authorization, true)]);
        return $this->next();
    }
}

/** Compares what `$call` returns, or what it threw, with what is expected. Objects are compared as arrays. */
function check(string $name, callable $call, $expected): void
{
    try {
        $got = $call();
        $got = is_object($got) ? json_decode(json_encode($got), true) : $got;
    } catch (FanfarePusherError $error) {
        $got = [$error->getCode(), $error->getMessage()];
        if (is_array($expected) && isset($expected[1]) && is_string($expected[1]) && preg_match($expected[1], $got[1]) === 1) {
            $got[1] = $expected[1];
        }
    } catch (Throwable $thrown) {
        $got = get_class($thrown) . ': ' . $thrown->getMessage();
    }
    report($name, $got, $expected);
}

// --- Signatures ---------------------------------------------------------------------------------------------------

$signer = new FanfarePusher(KEY, SECRET, '4711');
$order = '{"name":"order.updated","channels":["private-orders.42","orders"],"data":"{\"id\":42,\"state\":\"paid\"}",'
    . '"socket_id":"81923.4471","info":"subscription_count"}';
$time = 1795400000;
check('signature of a POST', static function () use ($signer, $order, $time): string {
    return $signer->signedQuery('POST', '/apps/4711/events', ['body_md5' => md5($order)], $time);
}, 'auth_key=demo-key-7f3a&auth_timestamp=1795400000&auth_version=1.0&body_md5=bcc8811fcc59498cf1d03790c9971c70'
    . '&auth_signature=640f8c6b0800176e981b86850db695b6c4ad47a1d99740d283c5b78ab6acc65d');
check('signature of a GET', static function () use ($signer, $time): string {
    $params = ['filter_by_prefix' => 'presence-', 'info' => 'user_count'];
    return substr($signer->signedQuery('GET', '/apps/4711/channels', $params, $time), -64);
}, '28d27bc801875355a577f343b0f30af4e3135d9bd5911d5e058e256222a1eaab');
check('a list is signed as one text and sent as several', static function () use ($signer, $time): array {
    $list = $signer->signedQuery('GET', '/x', ['info' => ['user_count', 'cache']], $time);
    $text = $signer->signedQuery('GET', '/x', ['info' => 'user_count,cache'], $time);
    return [substr($list, -64) === substr($text, -64), strpos($list, 'info%5B0%5D=user_count&info%5B1%5D=cache') > 0];
}, [true, true]);
check('authorisation of a presence channel', static function () use ($signer): string {
    $data = '{"user_id":"u-17","user_info":{"name":"Mei","role":"editor"}}';
    return json_decode($signer->authorizeChannel('presence-room.3', '81923.4471', $data))->auth;
}, KEY . ':c62d68ab4cc29e9326aed8aa954d8424d3c3411abf86fe55d1261e55b90dbc40');

// --- What is published --------------------------------------------------------------------------------------------

$server = new Server();
$tcp = $server->publisher();
$unix = $server->publisher(['unix' => $server->unix]);
$one = new Subscriber($server);
$two = new Subscriber($server);
$succeeded = static function (string $channel): array {
    return ['event' => 'pusher_internal:subscription_succeeded', 'channel' => $channel, 'data' => '{}'];
};
foreach (['orders', 'private-orders'] as $channel) {
    foreach ([$one, $two] as $subscriber) {
        check("subscribed to $channel", static function () use ($subscriber, $tcp, $channel): array {
            $answer = $subscriber->subscribe($channel, $tcp->authorizeChannel($channel, $subscriber->socket_id));
            ksort($answer);
            return $answer;
        }, (static function (array $answer): array {
            ksort($answer);
            return $answer;
        })($succeeded($channel)));
    }
}

/** What a subscriber hears next: event, channel, data. */
function heard(Subscriber $subscriber): array
{
    $event = $subscriber->next();
    return [$event['event'] ?? 'close', $event['channel'] ?? '', $event['data'] ?? $event['close'] ?? null];
}

foreach (['over TCP' => $tcp, 'over a Unix socket' => $unix] as $way => $pusher) {
    $data = ['id' => 42, 'path' => 'a/b', 'name' => 'žluť 😀', 'price' => 1.0];
    check("trigger, $way", static function () use ($pusher, $data): object {
        return $pusher->trigger('orders', 'App\\Events\\OrderPaid', $data);
    }, []);
    check("… heard as it was encoded, $way", static function () use ($one, $two): array {
        return [heard($one), heard($two)];
    }, array_fill(0, 2, ['App\\Events\\OrderPaid', 'orders', json_encode($data)]));
    check("trigger on several channels, but not for one, $way", static function () use ($pusher, $one): object {
        return $pusher->trigger(['orders', 'private-orders'], 'said', 'raw {', ['socket_id' => $one->socket_id], true);
    }, []);
    check("… heard by the other, $way", static function () use ($two): array {
        $both = [heard($two), heard($two)];
        sort($both);
        return $both;
    }, [['said', 'orders', 'raw {'], ['said', 'private-orders', 'raw {']]);
    check("trigger with info, $way", static function () use ($pusher): object {
        return $pusher->trigger(['orders', 'presence-nobody'], 'said', 1, ['info' => 'subscription_count,user_count']);
    }, ['channels' => [
        'orders' => ['subscription_count' => 2],
        'presence-nobody' => ['user_count' => 0, 'subscription_count' => 0],
    ]]);
    check("… heard by both, $way", static function () use ($one, $two): array {
        return [heard($one), heard($two)];
    }, array_fill(0, 2, ['said', 'orders', '1']));
    check("triggerBatch, $way", static function () use ($pusher, $one): object {
        return $pusher->triggerBatch([
            ['channel' => 'orders', 'name' => 'first', 'data' => ['a' => 1]],
            ['channel' => 'orders', 'name' => 'second', 'data' => 'x', 'socket_id' => $one->socket_id],
            ['channel' => 'private-orders', 'name' => 'third', 'data' => null],
        ]);
    }, []);
    check("… heard in order, $way", static function () use ($one, $two): array {
        return [heard($one), heard($one), heard($two), heard($two), heard($two)];
    }, [
        ['first', 'orders', '{"a":1}'], ['third', 'private-orders', 'null'],
        ['first', 'orders', '{"a":1}'], ['second', 'orders', '"x"'], ['third', 'private-orders', 'null'],
    ]);
    check("triggerBatch with info, $way", static function () use ($pusher): object {
        return $pusher->triggerBatch([
            ['channel' => 'nobody', 'name' => 'a', 'data' => 1, 'info' => 'subscription_count'],
            ['channel' => 'nobody', 'name' => 'b', 'data' => 1],
        ]);
    }, ['batch' => [['subscription_count' => 0], []]]);
}

// --- What is asked ------------------------------------------------------------------------------------------------

$member = '{"user_id":17,"user_info":{"name":"\u017elu\u0165","path":"a\/b"}}';
check('a member, signed as PHP escapes', static function () use ($one, $tcp, $member): array {
    $answer = $one->subscribe('presence-php', $tcp->authorizeChannel('presence-php', $one->socket_id, $member));
    return json_decode($answer['data'], true)['presence'];
}, ['count' => 1, 'ids' => ['17'], 'hash' => [17 => ['name' => 'žluť', 'path' => 'a/b']]]);
check('getPresenceUsers', static function () use ($tcp): object {
    return $tcp->getPresenceUsers('presence-php');
}, ['users' => [['id' => '17']]]);
check('getChannels', static function () use ($tcp): array {
    $channels = array_keys((array) $tcp->getChannels()->channels);
    sort($channels);
    return $channels;
}, ['orders', 'presence-php', 'private-orders']);
check('getChannels with a prefix that needs encoding, and info', static function () use ($tcp): object {
    return $tcp->getChannels(['filter_by_prefix' => 'presence-', 'info' => 'user_count']);
}, ['channels' => ['presence-php' => ['user_count' => 1]]]);
check('getChannels with a prefix of every character', static function () use ($tcp): array {
    return (array) $tcp->getChannels(['filter_by_prefix' => 'a b&c=d%,;@+ž'])->channels;
}, []);
foreach (['a text' => 'user_count,subscription_count', 'a list' => ['user_count', 'subscription_count']] as $what => $info) {
    check("getChannelInfo with info as $what", static function () use ($tcp, $info): object {
        return $tcp->getChannelInfo('presence-php', ['info' => $info]);
    }, ['occupied' => true, 'user_count' => 1, 'subscription_count' => 1]);
}
check('getChannelInfo of nothing', static function () use ($unix): object {
    return $unix->getChannelInfo('a-@,.;=_');
}, ['occupied' => false]);

// --- Users --------------------------------------------------------------------------------------------------------

foreach (['u-42', 'john doe'] as $user) {
    $subscriber = new Subscriber($server);
    check("sign-in of $user", static function () use ($subscriber, $tcp, $user): string {
        $answer = json_decode($tcp->authenticateUser($subscriber->socket_id, ['id' => $user]), true);
        $subscriber->send(['event' => 'pusher:signin', 'data' => $answer]);
        return $subscriber->next()['event'];
    }, 'pusher:signin_success');
    if ($user === 'u-42') { // the name of a channel has no space
        check("sendToUser $user", static function () use ($subscriber, $tcp): array {
            $subscriber->subscribe('#server-to-user-u-42');
            $answer = (array) $tcp->sendToUser('u-42', 'mail', ['a' => 1]);
            return [$answer, heard($subscriber)];
        }, [[], ['mail', '#server-to-user-u-42', '{"a":1}']]);
    }
    check("terminateUserConnections $user", static function () use ($subscriber, $tcp, $user): array {
        $answer = (array) $tcp->terminateUserConnections($user);
        return [$answer, heard($subscriber)[2]['code'], heard($subscriber)[2]];
    }, [[], 4009, 4009]);
}

// --- Errors, as PHP sees them -------------------------------------------------------------------------------------

$event = ['channel' => 'a', 'name' => 'n', 'data' => 1];
$refused = [
    'another secret' => [401, '/^\S.{5,}/', static function () use ($server): object {
        return $server->publisher([], 'another')->trigger('a', 'n', 1);
    }],
    'another secret, asking' => [401, '/^\S.{5,}/', static function () use ($server): object {
        return $server->publisher([], 'another')->getChannels();
    }],
    'another key' => [401, '/^\S.{5,}/', static function () use ($server): object {
        return $server->publisher([], SECRET, '4711', 'another')->trigger('a', 'n', 1);
    }],
    'an unknown app' => [404, '/^\S.{5,}/', static function () use ($server): object {
        return $server->publisher([], SECRET, '9999')->trigger('a', 'n', 1);
    }],
    'a disabled app' => [403, '/^\S.{5,}/', static function () use ($server): object {
        return $server->publisher([], 'disabled', '4712', 'disabled')->trigger('a', 'n', 1);
    }],
    'an unknown path' => [404, '/^\S.{5,}/', static function () use ($tcp): object {
        return $tcp->get('/nothing');
    }],
    'too much data' => [413, '/content of this event/', static function () use ($tcp): object {
        return $tcp->trigger('a', 'n', str_repeat('x', 102_401));
    }],
    'too much data over the Unix socket' => [413, '/content of this event/', static function () use ($unix): object {
        return $unix->trigger('a', 'n', str_repeat('x', 102_401));
    }],
    'a batch of 11' => [400, '/Batch too large/', static function () use ($tcp, $event): object {
        return $tcp->triggerBatch(array_fill(0, 11, $event));
    }],
    '101 channels' => [400, '/^\S.{5,}/', static function () use ($tcp): object {
        return $tcp->trigger(range(1, 101), 'n', 1);
    }],
    'a bad name' => [400, '/^\S.{5,}/', static function () use ($tcp): object {
        return $tcp->trigger('a b', 'n', 1);
    }],
    'users of a public channel' => [400, '/^\S.{5,}/', static function () use ($tcp): object {
        return $tcp->getPresenceUsers('orders');
    }],
    'a server that is not there' => [0, '/no usable answer/', static function () use ($server): object {
        return $server->publisher(['unix' => "$server->unix.gone"])->trigger('a', 'n', 1);
    }],
];
foreach ($refused as $name => [$status, $sentence, $call]) {
    check("refused: $name", $call, [$status, $sentence]);
}
check('nothing of that was heard', static function () use ($tcp, $one): array {
    $tcp->trigger('orders', 'end', 1);
    return heard($one);
}, ['end', 'orders', '1']);

finish('php-pusher');
