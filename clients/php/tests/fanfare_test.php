<?php

/**
 * Tests of fanfare.php:  php clients/php/tests/fanfare_test.php
 *
 * Needs nothing but PHP. It starts fake servers of its own, on ports that the system chooses. Each bad server is met
 * with the default timeout, and the promise "within a second" is judged with half a second of slack for a busy machine.
 */

declare(strict_types=1);

const SLOWEST_SECONDS = 1.5;
const GOOD = ['id' => '6f2k-42', 'listeners' => 12];
const KEY = 'a key of at least thirty-two bytes';

require __DIR__ . '/harness.php';
foreach (['FANFARE_URL', 'FANFARE_KEY'] as $name) {
    putenv($name);
    unset($_SERVER[$name], $_ENV[$name]);
}
$library = dirname(__DIR__) . '/fanfare.php';
require $library;
require $library; // twice does no harm

/** A fake server in one of the modes of fake_server.php; ends with this object. */
final class FakeServer
{
    /** @var string */
    public $url;
    private $process;
    private $pipes;

    public function __construct(string $mode, string $certificate_file = '')
    {
        $command = [PHP_BINARY, __DIR__ . '/fake_server.php', $mode];
        if ($certificate_file !== '') {
            $command[] = $certificate_file;
        }
        $this->process = proc_open($command, [['pipe', 'r'], ['pipe', 'w'], STDERR], $this->pipes);
        $port = (int) fgets($this->pipes[1]);
        $this->url = ($mode === 'tls' ? 'https' : 'http') . "://127.0.0.1:$port";
    }

    /** The next request it read, byte for byte. */
    public function request(): string
    {
        return (string) base64_decode((string) fgets($this->pipes[1]));
    }

    public function __destruct()
    {
        proc_terminate($this->process, 9);
        foreach ($this->pipes as $pipe) {
            fclose($pipe);
        }
        proc_close($this->process);
    }
}

/** What `$call` returns, or what it threw or printed instead; and that it took no longer than it may. */
function check_call(string $name, callable $call, $expected): void
{
    ob_start();
    $began = hrtime(true);
    try {
        $got = $call();
    } catch (Throwable $thrown) {
        $got = get_class($thrown) . ': ' . $thrown->getMessage();
    }
    $seconds = (hrtime(true) - $began) / 1e9;
    $printed = ob_get_clean();
    if ($printed !== '') {
        $got = "printed: $printed";
    } elseif ($seconds > SLOWEST_SECONDS) {
        $got = sprintf('took %.2f s', $seconds);
    }
    report($name, $got, $expected);
}

/** Runs PHP code in a process of its own, where every message would be printed; what it printed. */
function run_php(string $code, array $arguments = [], array $environment = []): string
{
    $command = array_merge(
        [PHP_BINARY, '-d', 'display_errors=1', '-d', 'error_reporting=-1', '-d', 'html_errors=0', '-d', 'log_errors=0'],
        $arguments,
        $code === '' ? [] : ['-r', $code]
    );
    $streams = [['file', '/dev/null', 'r'], ['pipe', 'w'], ['redirect', 1]];
    $process = proc_open($command, $streams, $pipes, null, $environment + getenv());
    $printed = (string) stream_get_contents($pipes[1]);
    fclose($pipes[1]);
    proc_close($process);
    return $printed;
}

// --- What is sent -------------------------------------------------------------------------------------------------

function check_request(
    string $name,
    FakeServer $server,
    callable $call,
    string $target,
    string $type,
    string $body,
    string $more = ''
): void {
    check_call("$name: answer", $call, GOOD);
    $host = substr($server->url, 7);
    $expected = "POST $target HTTP/1.1\r\nHost: $host\r\nContent-Type: $type\r\nContent-Length: " . strlen($body)
        . "\r\nConnection: close\r\n$more\r\n$body";
    report("$name: request", $server->request(), $expected);
}

$good = new FakeServer('good');
$url = $good->url;
putenv("FANFARE_URL=$url");

$targets = [
    'orders' => '/ch/orders',
    'room/7' => '/ch/room%2F7',
    'a b' => '/ch/a%20b',
    'ünï' => '/ch/%C3%BCn%C3%AF',
    '100%' => '/ch/100%25',
    '*' => '/ch/%2A',
    'a+b?c#d&e=f' => '/ch/a%2Bb%3Fc%23d%26e%3Df',
    "a\r\nX: y" => '/ch/a%0D%0AX%3A%20y',
    '-_.~' => '/ch/-_.~',
    '' => '/ch/',
];
foreach ($targets as $channel => $target) {
    $channel = (string) $channel;
    check_request('channel ' . json_encode($channel), $good, static function () use ($channel): ?array {
        return fanfare($channel, 'x');
    }, $target, 'text/plain', 'x');
}
$bodies = [
    'text' => 'order 7 paid',
    'empty' => '',
    'binary' => "\x00\xff\r\n\r\n\x80",
    'large' => str_repeat('ü', 3 << 19),
];
foreach ($bodies as $name => $body) {
    check_request("$name message", $good, static function () use ($body): ?array {
        return fanfare('c', $body);
    }, '/ch/c', 'text/plain', $body);
}
check_request('binary option', $good, static function (): ?array {
    return fanfare('c', 'x', ['binary' => true]);
}, '/ch/c', 'application/octet-stream', 'x');
check_request('event', $good, static function (): ?array {
    return fanfare('c', 'x', ['event' => "order paid\n&"]);
}, '/ch/c?event=order%20paid%0A%26', 'text/plain', 'x');
check_request('no event', $good, static function (): ?array {
    return fanfare('c', 'x', ['event' => null]);
}, '/ch/c', 'text/plain', 'x');

// --- Settings -----------------------------------------------------------------------------------------------------

check_request('key option', $good, static function (): ?array {
    return fanfare('c', 'x', ['key' => 'secret~!']);
}, '/ch/c', 'text/plain', 'x', "Authorization: Bearer secret~!\r\n");
putenv('FANFARE_KEY=from-getenv');
$publish = static function (): ?array {
    return fanfare('c', 'x');
};
check_request('key from getenv', $good, $publish, '/ch/c', 'text/plain', 'x', "Authorization: Bearer from-getenv\r\n");
check_request('no key by option', $good, static function (): ?array {
    return fanfare('c', 'x', ['key' => '']);
}, '/ch/c', 'text/plain', 'x');
putenv('FANFARE_KEY');
putenv('FANFARE_URL');
$_SERVER['FANFARE_URL'] = $url;
$_ENV['FANFARE_KEY'] = 'from-env';
$sent = "Authorization: Bearer from-env\r\n";
check_request('url from $_SERVER, key from $_ENV', $good, $publish, '/ch/c', 'text/plain', 'x', $sent);
unset($_SERVER['FANFARE_URL'], $_ENV['FANFARE_KEY']);
check_request('url option with a path and a slash', $good, static function () use ($url): ?array {
    return fanfare('c', 'x', ['url' => "$url/hub/"]);
}, '/hub/ch/c', 'text/plain', 'x');

$unusable = [
    'line break in url' => ["$url/\r\nX: y", ''],
    'space in url' => ["$url/a b", ''],
    'url of another scheme' => ['ftp://127.0.0.1', ''],
    'file url' => ['file:///etc/passwd', ''],
    'url without scheme' => ['127.0.0.1:8080', ''],
    'url without host' => ['http:///ch', ''],
    'url with a password' => [str_replace('//', '//a:b@', $url), ''],
    'url with a query' => ["$url?a=b", ''],
    'url with a port that is none' => ['http://127.0.0.1:99999', ''],
    'url of another type' => [7, ''],
    'line break in key' => [$url, "secret\r\nX: y"],
    'newline at the end of key' => [$url, "secret\n"],
    'space in key' => [$url, 'a b'],
    'key of another type' => [$url, ['a']],
];
foreach ($unusable as $name => [$bad_url, $bad_key]) {
    check_call("$name is refused", static function () use ($bad_url, $bad_key): ?array {
        return fanfare('c', 'x', ['url' => $bad_url, 'key' => $bad_key]);
    }, null);
}
check_request('nothing of those was sent', $good, static function () use ($url): ?array {
    return fanfare('after', 'x', ['url' => $url]);
}, '/ch/after', 'text/plain', 'x');
check_call('options of odd types do no harm', static function () use ($url): ?array {
    return fanfare('c', 'x', ['url' => $url, 'timeout' => 'soon', 'event' => ['a']]);
}, GOOD);
$good->request();

// --- Answers ------------------------------------------------------------------------------------------------------

$refused = ['status' => 403, 'error' => 'forbidden', 'message' => 'channel "orders" is not open to talk'];
$answers = [
    'good_until_close' => GOOD,
    'good_in_bytes' => GOOD,
    'good_chunked' => GOOD,
    'refuses' => $refused,
    'hangs' => null,
    'drips_status' => null,
    'drips_head' => null,
    'drips_body' => null,
    'drips_chunks' => null,
    'garbage' => null,
    'garbage_and_waits' => null,
    'closes_at_once' => null,
    'cut_short' => null,
    'endless_head' => null,
    'endless_body' => null,
    'redirects' => null,
    'proxy_error' => null,
    'other_json' => null,
    'no_json' => null,
];
foreach ($answers as $mode => $expected) {
    $server = new FakeServer($mode);
    check_call("mode {$mode}", static function () use ($server): ?array {
        return fanfare('orders', 'x', ['url' => $server->url]);
    }, $expected);
    if ($expected === null && $mode !== 'hangs' && $mode !== 'no_json') {
        continue; // a batch travels the same way; no need to wait for each of these again
    }
    $batch = $expected === GOOD ? [GOOD] : $expected;
    check_call("mode {$mode}, batch", static function () use ($server): ?array {
        return fanfare_batch([['channel' => 'orders', 'data' => 'x']], ['url' => $server->url]);
    }, $batch);
}
$large = str_repeat('x', 16 << 20);
foreach (['refuses_early' => $refused, 'reads_nothing' => null] as $mode => $expected) {
    $server = new FakeServer($mode);
    check_call("mode {$mode}, large message", static function () use ($server, $large): ?array {
        return fanfare('orders', $large, ['url' => $server->url]);
    }, $expected);
}

/** A port on which nobody listens. */
function closed_port(): string
{
    $socket = stream_socket_server('tcp://127.0.0.1:0');
    $address = stream_socket_get_name($socket, false);
    fclose($socket);
    return $address;
}

$down = 'http://' . closed_port();
check_call('a server that is down', static function () use ($down): ?array {
    return fanfare('orders', 'x', ['url' => $down]);
}, null);
check_call('a name that does not exist', static function (): ?array {
    return fanfare('orders', 'x', ['url' => 'http://nobody.invalid']);
}, null);

// A listener whose queue is full drops what comes: to a client, a black hole.
$hole = stream_socket_server(
    'tcp://127.0.0.1:0',
    $code,
    $text,
    STREAM_SERVER_BIND | STREAM_SERVER_LISTEN,
    stream_context_create(['socket' => ['backlog' => 1]])
);
$hole_url = 'http://' . stream_socket_get_name($hole, false);
$filling = [];
for ($i = 0; $i < 10; $i++) {
    $filling[] = stream_socket_client(
        'tcp' . substr($hole_url, 4),
        $code,
        $text,
        1,
        STREAM_CLIENT_ASYNC_CONNECT | STREAM_CLIENT_CONNECT
    );
}
$began = hrtime(true);
check_call('a server that swallows connects', static function () use ($hole_url): ?array {
    return fanfare('orders', 'x', ['url' => $hole_url]);
}, null);
report('… and was waited for', (hrtime(true) - $began) / 1e9 > 0.9, true);
unset($filling, $hole);

$hung = new FakeServer('hangs');
$began = hrtime(true);
fanfare('orders', 'x', ['url' => $hung->url, 'timeout' => 0.2]);
$seconds = (hrtime(true) - $began) / 1e9;
report('timeout option', $seconds > 0.19 && $seconds < 0.7, true);

// --- Beside the call ----------------------------------------------------------------------------------------------

$mine = static function (): bool {
    return false;
};
set_error_handler($mine);
fanfare('orders', 'x', ['url' => $down]);
fanfare('orders', 'x', ['url' => "bad\n"]);
report('the error handler of the caller is back', set_error_handler(null) === $mine, true);
restore_error_handler();
restore_error_handler();
error_clear_last();
fanfare('orders', 'x', ['url' => $down]);
report('error_get_last() stays empty', error_get_last(), null);

$code = 'declare(strict_types=1);'
    . 'require ' . var_export($library, true) . '; require ' . var_export($library, true) . ';'
    . '$r = fanfare("c", "x"); fanfare_batch([["channel" => "c", "data" => "\xff"]]);'
    . 'fanfare_token(["sub" => "1"], "k");'
    . 'echo json_encode($r);';
report('prints nothing, down', run_php($code, [], ['FANFARE_URL' => $down]), 'null');
report('prints nothing, good', run_php($code, [], ['FANFARE_URL' => $url]), json_encode(GOOD));
$good->request();
$good->request();
report(
    'without any extension that PHP can be built without',
    run_php($code, ['-n'], ['FANFARE_URL' => $url]),
    json_encode(GOOD)
);
$good->request();
$good->request();
report(
    'with sockets switched off',
    run_php($code, ['-d', 'disable_functions=stream_socket_client'], ['FANFARE_URL' => $url]),
    'null'
);
report('php -l', run_php('', ['-l', $library]), "No syntax errors detected in $library\n");

// --- TLS ----------------------------------------------------------------------------------------------------------

$https = str_replace('http:', 'https:', $hung->url);
check_call('https to a server that hangs in the handshake', static function () use ($https): ?array {
    return fanfare('orders', 'x', ['url' => $https]);
}, null);
$drips = new FakeServer('drips_status');
$https = str_replace('http:', 'https:', $drips->url);
check_call('https to a server that does not speak it', static function () use ($https): ?array {
    return fanfare('orders', 'x', ['url' => $https]);
}, null);
if (extension_loaded('openssl')) {
    $folder = sys_get_temp_dir() . '/fanfare-php-' . bin2hex(random_bytes(8));
    mkdir($folder, 0700);
    $settings = "[req]\ndistinguished_name=d\n[d]\n[v]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=CA:true\n";
    file_put_contents("$folder/openssl.cnf", $settings);
    $config = ['config' => "$folder/openssl.cnf", 'x509_extensions' => 'v', 'digest_alg' => 'sha256'];
    $private = openssl_pkey_new(['private_key_bits' => 2048] + $config);
    $request = openssl_csr_new(['commonName' => '127.0.0.1'], $private, $config);
    $certificate = openssl_csr_sign($request, null, $private, 2, $config, 7);
    openssl_x509_export($certificate, $certificate_text);
    openssl_pkey_export($private, $private_text, null, $config);
    file_put_contents("$folder/server.pem", $certificate_text . $private_text);

    $tls = new FakeServer('tls', "$folder/server.pem");
    check_call('https with a certificate nobody vouches for', static function () use ($tls): ?array {
        return fanfare('orders', 'x', ['url' => $tls->url]);
    }, null);
    $trusting = ['-d', "openssl.cafile=$folder/server.pem"];
    report('https', run_php($code, $trusting, ['FANFARE_URL' => $tls->url]), json_encode(GOOD));
    $other_name = str_replace('127.0.0.1', 'localhost', $tls->url);
    $printed = run_php($code, $trusting, ['FANFARE_URL' => $other_name]);
    report('https with a certificate for another name', $printed, 'null');
    array_map('unlink', ["$folder/openssl.cnf", "$folder/server.pem"]);
    rmdir($folder);
}

// --- Batch --------------------------------------------------------------------------------------------------------

$batch = new FakeServer('batch');
$options = ['url' => $batch->url, 'key' => 'k'];
check_call('batch: answer', static function () use ($options): ?array {
    return fanfare_batch([
        ['channel' => 'orders', 'data' => "a\n\"ü/"],
        'named' => ['channel' => 'orders', 'data' => '', 'event' => 'paid'],
        ['channels' => ['a', 'b'], 'data' => "\xff\x00"],
        ['channel' => '*', 'data' => 'x', 'binary' => true, 'event' => null],
        ['channel' => 'c', 'base64' => '/w==', 'binary' => false],
    ], $options);
}, [
    ['id' => '6f2k-0', 'listeners' => 1],
    ['id' => '6f2k-1', 'listeners' => 1],
    ['id' => '6f2k-2', 'listeners' => 1],
    ['id' => '6f2k-3', 'listeners' => 1],
    ['id' => '6f2k-4', 'listeners' => 1],
]);
$lines = <<<'LINES'
{"channel":"orders","data":"a\n\"ü/"}
{"channel":"orders","data":"","event":"paid"}
{"channels":["a","b"],"base64":"/wA="}
{"channel":"*","base64":"eA=="}
{"channel":"c","base64":"/w=="}

LINES;
report(
    'batch: request',
    $batch->request(),
    "POST /ch HTTP/1.1\r\nHost: " . substr($batch->url, 7) . "\r\nContent-Type: application/x-ndjson\r\n"
        . 'Content-Length: ' . strlen($lines) . "\r\nConnection: close\r\nAuthorization: Bearer k\r\n\r\n" . $lines
);
check_call('batch of a thousand', static function () use ($options): int {
    $messages = array_fill(0, 1000, ['channel' => 'c', 'data' => str_repeat('x', 900)]);
    return count(fanfare_batch($messages, $options) ?? []);
}, 1000);
check_call('batch of nothing', static function () use ($down): ?array {
    return fanfare_batch([], ['url' => $down]);
}, []);
check_call('batch with fewer answers than messages', static function () use ($url): ?array {
    return fanfare_batch([['channel' => 'a', 'data' => ''], ['channel' => 'b', 'data' => '']], ['url' => $url]);
}, null);
final class Bomb implements JsonSerializable
{
    #[\ReturnTypeWillChange]
    public function jsonSerialize()
    {
        throw new RuntimeException('never');
    }
}
$inexpressible = [
    'text' => 'x',
    'name that is no UTF-8' => ['channel' => "\xff", 'data' => ''],
    'number' => ['channel' => 'a', 'data' => 7],
    'object' => ['channel' => 'a', 'data' => new Bomb()],
    'nested object' => ['channels' => [new Bomb()], 'data' => ''],
];
foreach ($inexpressible as $name => $message) {
    check_call("batch: $name is refused", static function () use ($message, $options): ?array {
        $answer = fanfare_batch([['channel' => 'a', 'data' => ''], $message], $options);
        $answer['message'] = substr($answer['message'] ?? '', 0, 9);
        return $answer;
    }, ['error' => 'bad_request', 'message' => 'message 2', 'status' => 400]);
}

// --- Tokens -------------------------------------------------------------------------------------------------------

// Signed by another program, from the same claims and key.
$claims = ['sub' => '42', 'listen' => ['orders', 'room/*'], 'speak' => ['room/7'], 'exp' => 1764547200];
$token = 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.'
    . 'eyJzdWIiOiI0MiIsImxpc3RlbiI6WyJvcmRlcnMiLCJyb29tLyoiXSwic3BlYWsiOlsicm9vbS83Il0sImV4cCI6MTc2NDU0NzIwMH0.'
    . 'skX4fTRunmbN1QHG-AoUspPrMtfkD8I2SsFRTPyJ1TI';
report('token', fanfare_token($claims, KEY), $token);
// The server's tests show this one to a server.
report(
    'token until 2100',
    fanfare_token(array_replace($claims, ['exp' => 4102444800]), KEY),
    'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.'
        . 'eyJzdWIiOiI0MiIsImxpc3RlbiI6WyJvcmRlcnMiLCJyb29tLyoiXSwic3BlYWsiOlsicm9vbS83Il0sImV4cCI6NDEwMjQ0NDgwMH0.'
        . 'EvxXa1zTxYMpfcZ-htbXlyldCptZsLaiUPSrmzD4YLk'
);
putenv('FANFARE_KEY=' . KEY);
report('token with the key of the environment', fanfare_token($claims), $token);
putenv('FANFARE_KEY');
report(
    'token without claims',
    fanfare_token([], KEY),
    'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.zCsROz0dxBrgG1yAM0_KY_-kSnhc96JP0_iEt5waV1U'
);
report(
    'token with letters beyond ASCII and of the URL-safe alphabet',
    fanfare_token(['sub' => 'ü>?~', 'listen' => []], KEY),
    'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJcdTAwZmM-P34iLCJsaXN0ZW4iOltdfQ.'
        . 'lnvq-SdD3p6yGtZYa2b1vN-qgeinF_rJBWbOq70l1qQ'
);
$thrown = static function (callable $call): string {
    try {
        return $call();
    } catch (Throwable $thrown) {
        return get_class($thrown);
    }
};
report('token without a key', $thrown(static function (): string {
    return fanfare_token([]);
}), 'InvalidArgumentException');
report('token with an empty key', $thrown(static function (): string {
    return fanfare_token([], '');
}), 'InvalidArgumentException');
report('token with claims that are no UTF-8', $thrown(static function (): string {
    return fanfare_token(['sub' => "\xff"], KEY);
}), 'JsonException');

// --- Hooks --------------------------------------------------------------------------------------------------------

// Signed by another program, from the same body and key.
$body = '{"user":"42"}';
$signed = static function (int $time, string $key) use ($body): string {
    return "t=$time,v1=" . hash_hmac('sha256', "$time.$body", $key);
};
foreach (
    [
        ['right', $signed(1000, KEY), KEY, 1000, ['user' => '42']],
        ['five minutes old', $signed(1000, KEY), KEY, 1300, ['user' => '42']],
        ['older', $signed(1000, KEY), KEY, 1301, null],
        ['from the future', $signed(1301, KEY), KEY, 1000, null],
        ['of another key', $signed(1000, 'x'), KEY, 1000, null],
        ['missing', '', KEY, 1000, null],
        ['cut', substr($signed(1000, KEY), 0, -1), KEY, 1000, null],
        ['with more behind it', $signed(1000, KEY) . "\n", KEY, 1000, null],
        ['of another time', str_replace('t=1000', 't=1001', $signed(1000, KEY)), KEY, 1000, null],
        ['the second of two', $two = $signed(1000, 'old') . substr($signed(1000, KEY), 6), KEY, 1000, ['user' => '42']],
        ['the first of two', $two, 'old', 1000, ['user' => '42']],
        ['neither of two', $two, 'other', 1000, null],
        ['not needed without a key', '', '', 1000, ['user' => '42']],
        ['there and there is no key', $signed(1000, KEY), '', 1000, null],
    ] as [$name, $signature, $key, $now, $expected]
) {
    report("a hook's signature is $name", _fanfare_hook($body, $signature, $key, $now), $expected);
}
report(
    'the same signature as the server makes',
    _fanfare_hook(
        '{"a":1}',
        't=1700000000,v1=f05f2539e3ae1c49aec5f8cfdad75ef6b06480b133973ffbb7ec9e18827af177',
        '0123456789abcdef0123456789abcdef',
        1700000000
    ),
    ['a' => 1]
);
report('a hook without a key to tell by', fanfare_hook(), null);
report('a hook that is no JSON', _fanfare_hook('<b>', '', '', 0), null);
report('a hook that is no object', _fanfare_hook('7', '', '', 0), null);

// --- A real server at a Unix socket -------------------------------------------------------------------------------

$program = getenv('FANFARE_BIN');
if ($program !== false && is_executable($program)) {
    $socket = sys_get_temp_dir() . '/fanfare-' . getmypid() . '.sock';
    $settings = ['FANFARE_LISTEN' => '127.0.0.1:0', 'FANFARE_UNIX' => $socket, 'FANFARE_KEY' => KEY];
    $streams = [['file', '/dev/null', 'r'], ['pipe', 'w'], ['file', '/dev/null', 'w']];
    $server = proc_open([$program], $streams, $pipes, null, $settings + getenv());
    fgets($pipes[1]);
    report('a server says that it is at a Unix socket', fgets($pipes[1]), "listening on unix:$socket\n");
    $published = static function (string $answer): bool {
        return preg_match('/"id":"[^"]+","listeners":0}/', $answer) === 1;
    };
    $connection = stream_socket_client("unix://$socket");
    fwrite($connection, "POST /ch/orders HTTP/1.0\r\nHost: localhost\r\nContent-Length: 4\r\nAuthorization: Bearer "
        . KEY . "\r\n\r\npaid");
    report('a POST over a Unix socket', $published((string) stream_get_contents($connection)), true);
    if (extension_loaded('curl')) {
        $curl = curl_init('http://localhost/ch/orders');
        curl_setopt_array($curl, [
            CURLOPT_UNIX_SOCKET_PATH => $socket, CURLOPT_POSTFIELDS => 'paid', CURLOPT_RETURNTRANSFER => true,
            CURLOPT_HTTPHEADER => ['Content-Type: text/plain', 'Authorization: Bearer ' . KEY],
        ]);
        report('the same with curl', $published((string) curl_exec($curl)), true);
    }
    proc_terminate($server);
    stream_get_contents($pipes[1]);
    fclose($pipes[1]);
    proc_close($server);
    report('the socket is gone with its server', file_exists($socket), false);
}

// --- PHP 7.4 ------------------------------------------------------------------------------------------------------

if (extension_loaded('tokenizer')) {
    $newer = [
        'T_MATCH', 'T_ENUM', 'T_READONLY', 'T_NULLSAFE_OBJECT_OPERATOR', 'mixed', 'never',
        'str_contains', 'str_starts_with', 'str_ends_with', 'array_is_list', 'get_debug_type', 'fdiv',
    ];
    $source = file($library, FILE_IGNORE_NEW_LINES);
    $used = [];
    foreach (array_filter(token_get_all(implode("\n", $source)), 'is_array') as [$kind, $text, $line]) {
        $word = $kind === T_STRING ? $text : token_name($kind);
        // 7.4 reads an attribute as a comment: fine on a line of its own, and only there.
        $in_code = $word === 'T_ATTRIBUTE' && preg_match('/^ *#\[.*\]$/', $source[$line - 1]) !== 1;
        if ($in_code || in_array($word, $newer, true)) {
            $used[] = "$text in line $line";
        }
    }
    report('nothing newer than PHP 7.4', $used, []);
}

finish('php');
