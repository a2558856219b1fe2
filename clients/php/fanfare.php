<?php

/**
 * Fanfare from PHP, in one file: copy it, require it, call it. No Composer, no extension, PHP 7.4 and later.
 *
 *     require 'fanfare.php';
 *     fanfare('orders', 'order 7 paid');
 *
 * Settings come from the environment (getenv, else $_SERVER, else $_ENV, where PHP-FPM and .env loaders put them):
 *
 *     FANFARE_URL   where the server listens; default http://127.0.0.1:8080. http or https, a path in front is allowed.
 *     FANFARE_KEY   the server's key; default none, as for a server on loopback that has none.
 *
 * A broadcast must not break the order that caused it. So fanfare() and fanfare_batch() neither throw nor raise a
 * warning, not even into an error handler that turns warnings into exceptions, and they come back within the timeout,
 * one second in total, whatever the server does. That is why sockets are used here and not file_get_contents(), whose
 * `timeout` counts anew with each byte that arrives. One thing no PHP program can bound is the system's resolver: with
 * a host name in FANFARE_URL a dead name server can take longer (`options timeout:` of resolv.conf). An address, or a
 * name in /etc/hosts, has no such risk.
 */

declare(strict_types=1);

if (!function_exists('fanfare')) {
    /**
     * Publishes one message to everyone who listens to a channel.
     *
     * @param string $channel Name of 1 to 200 bytes of UTF-8, such as `orders` or `room/7`. `*` is everyone who is
     *                        connected, whatever they listen to.
     * @param string $message The message itself, at most 64 KiB unless the server is set otherwise. Valid UTF-8
     *                        arrives as text, anything else as binary.
     * @param array  $options All optional:
     *                        event   string  name of what happened; EventSource listeners hear it under that name
     *                        binary  bool    deliver as binary although it is valid UTF-8; default false
     *                        timeout float   seconds for everything together; default 1
     *                        url     string  instead of FANFARE_URL
     *                        key     string  instead of FANFARE_KEY; '' sends none
     *
     * @return array|null One of three:
     *                    ['id' => '6f2k-42', 'listeners' => 12]   published; `listeners` is a hint only
     *                    ['error' => 'forbidden', 'message' => '…', 'status' => 403]   refused; message says why
     *                    null   no usable answer in time: down, hung, not Fanfare, or a url or key that cannot be
     *                           sent (spaces, line breaks). The message may or may not have been published.
     */
    function fanfare(string $channel, string $message, array $options = []): ?array
    {
        $event = $options['event'] ?? '';
        $target = '/ch/' . rawurlencode($channel);
        if (is_scalar($event) && (string) $event !== '') {
            $target .= '?event=' . rawurlencode((string) $event);
        }
        $type = empty($options['binary']) ? 'text/plain' : 'application/octet-stream';
        $answer = _fanfare_request('POST', $target, $type, $message, $options, 65536);
        if ($answer === null) {
            return null;
        }
        return $answer[0] === 200 ? _fanfare_published($answer[1]) : _fanfare_refused($answer[0], $answer[1]);
    }
}

if (!function_exists('fanfare_batch')) {
    /**
     * Publishes many messages in one request, in the order given: all of them, or none if one cannot be used.
     *
     *     fanfare_batch([
     *         ['channel' => 'orders', 'data' => 'order 7 paid', 'event' => 'paid'],
     *         ['channels' => ['room/7', 'room/8'], 'data' => $jpeg],
     *     ]);
     *
     * @param array $messages Each an array of
     *                        channel   string    where to; `*` is everyone. Or
     *                        channels  string[]  several places for one message
     *                        data      string    the message; what is not valid UTF-8 is sent as binary. Or
     *                        base64    string    a binary message, already encoded
     *                        binary    bool      send `data` as binary although it is valid UTF-8; optional
     *                        event     string    name of what happened; optional
     *                        At most 1,000 messages and a body of 1 MiB, unless the server is set otherwise.
     * @param array $options  timeout, url, key as for fanfare()
     *
     * @return array|null As fanfare(), but what was published answers with a list, one entry for each message:
     *                    [['id' => '6f2k-42', 'listeners' => 12], …]. No messages: [], without asking the server.
     *                    A message that JSON cannot express is refused here, with status 400 and nothing sent.
     */
    function fanfare_batch(array $messages, array $options = []): ?array
    {
        $body = '';
        $number = 0;
        foreach ($messages as $message) {
            $number++;
            $line = _fanfare_line($message);
            if ($line === null) {
                return [
                    'error' => 'bad_request',
                    'message' => "message $number: channel, data and event must be strings, and names valid UTF-8",
                    'status' => 400,
                ];
            }
            $body .= $line . "\n";
        }
        if ($number === 0) {
            return [];
        }
        $answer = _fanfare_request('POST', '/ch', 'application/x-ndjson', $body, $options, 4 << 20);
        if ($answer === null) {
            return null;
        }
        if ($answer[0] !== 200) {
            return _fanfare_refused($answer[0], $answer[1]);
        }
        $published = array_map('_fanfare_published', explode("\n", trim($answer[1])));
        return count($published) === $number && !in_array(null, $published, true) ? $published : null;
    }
}

if (!function_exists('fanfare_token')) {
    /**
     * Makes a token that says who a visitor is and what she may hear: a JWT, signed with HS256.
     *
     *     fanfare_token(['sub' => '42', 'listen' => ['orders', 'room/*'], 'exp' => time() + 3600])
     *
     * This one throws: it is called while a page is made, where a missing key should be seen at once.
     *
     * @param array       $claims `sub` (the user's id, a string), `listen` and `speak` (lists of channel names; `*` at
     *                            the end matches the rest of a name), `exp` (Unix time in seconds)
     * @param string|null $key    default FANFARE_KEY. At least 32 bytes: shorter ones can be guessed from one token.
     *
     * @throws InvalidArgumentException without a key
     * @throws JsonException            for claims that JSON cannot express, such as text that is not UTF-8
     */
    function fanfare_token(
        array $claims,
        #[\SensitiveParameter]
        ?string $key = null
    ): string {
        $key = $key ?? _fanfare_setting('FANFARE_KEY');
        if ($key === '') {
            throw new InvalidArgumentException('fanfare_token() needs a key: set FANFARE_KEY or pass one');
        }
        $encode = static function (string $bytes): string {
            return rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
        };
        $claims = json_encode((object) $claims, JSON_UNESCAPED_SLASHES | JSON_THROW_ON_ERROR);
        $signed = $encode('{"alg":"HS256","typ":"JWT"}') . '.' . $encode($claims);
        return $signed . '.' . $encode(hash_hmac('sha256', $signed, $key, true));
    }
}

if (!function_exists('fanfare_disconnect')) {
    /**
     * Ends all open connections of a user, on all her tabs and devices: when she logs out, or must go.
     *
     * @param string $user    the user's id, as in a token's `sub` or in the answer of on_connect
     * @param array  $options timeout, url, key as for fanfare()
     *
     * @return array|null As fanfare(), but what was done answers with how many there were: ['connections' => 3]
     */
    function fanfare_disconnect(string $user, array $options = []): ?array
    {
        $answer = _fanfare_request('DELETE', '/user/' . rawurlencode($user), 'text/plain', '', $options, 65536);
        if ($answer === null) {
            return null;
        }
        if ($answer[0] !== 200) {
            return _fanfare_refused($answer[0], $answer[1]);
        }
        $done = json_decode($answer[1], true, 16);
        return is_array($done) && is_int($done['connections'] ?? null) ? $done : null;
    }
}

if (!function_exists('fanfare_hook')) {
    /**
     * Reads what Fanfare asks or tells in the current request: the body of a hook.
     *
     *     if (($asked = fanfare_hook()) === null) {
     *         http_response_code(400);
     *         exit;
     *     }
     *
     * @param string|null $key default FANFARE_KEY. Only what is signed with it counts, and only for five minutes. For a
     *                         server without a key, whose hooks are not signed, pass '' to take anything.
     *
     * @return array|null null: it is not from Fanfare, or not now, or there is no key to tell by
     */
    function fanfare_hook(
        #[\SensitiveParameter]
        ?string $key = null
    ): ?array {
        $signature = $_SERVER['HTTP_FANFARE_SIGNATURE'] ?? '';
        if ($key === null) {
            $key = _fanfare_setting('FANFARE_KEY');
            if ($key === '') {
                return null; // most likely PHP-FPM hides the environment: see docs/php.md
            }
        }
        return _fanfare_hook((string) file_get_contents('php://input'), $signature, $key, time());
    }
}

// What follows is not for callers.

if (!function_exists('_fanfare_setting')) {
    function _fanfare_setting(string $name): string
    {
        foreach ([getenv($name), $_SERVER[$name] ?? null, $_ENV[$name] ?? null] as $value) {
            if (is_string($value) && $value !== '') {
                return $value;
            }
        }
        return '';
    }

    /** Seconds of a clock that nobody sets. */
    function _fanfare_now(): float
    {
        return hrtime(true) / 1e9;
    }

    /** The body of a hook, if it is signed with this key, and lately. */
    function _fanfare_hook(string $body, string $signature, string $key, int $now): ?array
    {
        if ($key !== '' || $signature !== '') {
            if (
                preg_match('/^t=([0-9]{1,12})((?:,v1=[0-9a-f]{64}){1,4})\z/', $signature, $parts) !== 1
                || abs($now - (int) $parts[1]) > 300
            ) {
                return null;
            }
            // While a key is changed there is a signature with the new one and one with the old one.
            $own = hash_hmac('sha256', $parts[1] . '.' . $body, $key);
            $is_own = false;
            foreach (explode(',v1=', substr($parts[2], 4)) as $shown) {
                $is_own = hash_equals($own, $shown) || $is_own;
            }
            if ($key === '' || !$is_own) {
                return null;
            }
        }
        $asked = json_decode($body, true, 16);
        return is_array($asked) ? $asked : null;
    }

    /** A message of a batch as JSON, or null if it cannot be. What it lacks, the server says. */
    function _fanfare_line($message): ?string
    {
        if (!is_array($message)) {
            return null;
        }
        $data = $message['data'] ?? null;
        if (is_string($data) && (!empty($message['binary']) || preg_match('//u', $data) !== 1)) {
            $message['base64'] = base64_encode($data);
            unset($message['data']);
        }
        unset($message['binary']);
        foreach ($message as $name => $value) {
            if ($value === null) {
                unset($message[$name]);
            } elseif (!is_string($value) && !(is_array($value) && array_filter($value, 'is_string') === $value)) {
                return null;
            }
        }
        $line = json_encode((object) $message, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE);
        return $line === false ? null : $line;
    }

    /** One line of a good answer, or null if it is none. */
    function _fanfare_published(string $json): ?array
    {
        $answer = json_decode($json, true, 16);
        return is_array($answer) && isset($answer['id']) && is_string($answer['id']) ? $answer : null;
    }

    /** Why the server refused, or null if the answer is not the server's (a proxy's error page, say). */
    function _fanfare_refused(int $status, string $json): ?array
    {
        $answer = json_decode($json, true, 16);
        if (!is_array($answer) || !isset($answer['error']) || !is_string($answer['error'])) {
            return null;
        }
        return ['status' => $status] + $answer + ['message' => ''];
    }

    /** Sends a request; [status, body] of the answer, or null without one. */
    function _fanfare_request(
        string $method,
        string $target,
        string $type,
        string $body,
        array $options,
        int $answer_max
    ): ?array {
        // `@` hides warnings from the log but not from an error handler, so ours stands in front of it for a moment.
        set_error_handler(static function (): bool {
            return true;
        });
        $stream = null;
        try {
            $timeout = $options['timeout'] ?? 1;
            $timeout = is_numeric($timeout) && $timeout > 0 ? min((float) $timeout, 86400.0) : 1.0;
            $deadline = _fanfare_now() + $timeout;

            $url = $options['url'] ?? _fanfare_setting('FANFARE_URL');
            $key = $options['key'] ?? _fanfare_setting('FANFARE_KEY');
            $server = _fanfare_server($url === '' ? 'http://127.0.0.1:8080' : $url);
            // Only what a header may hold; a line break would let the rest of the key pose as further headers.
            if ($server === null || !is_string($key) || preg_match('/^[\x21-\x7e]*\z/', $key) !== 1) {
                return null;
            }
            $request = "$method {$server['path']}$target HTTP/1.1\r\nHost: {$server['authority']}\r\n"
                . "Content-Type: $type\r\nContent-Length: " . strlen($body) . "\r\nConnection: close\r\n"
                . ($key === '' ? '' : "Authorization: Bearer $key\r\n") . "\r\n" . $body;

            $stream = _fanfare_connect($server, $deadline);
            return is_resource($stream) ? _fanfare_exchange($stream, $request, $answer_max, $deadline) : null;
        } finally {
            if (is_resource($stream)) {
                fclose($stream);
            }
            restore_error_handler();
        }
    }

    /** Takes a base URL apart; null if it is not one. */
    function _fanfare_server($url): ?array
    {
        if (!is_string($url) || preg_match('/^[\x21-\x7e]+\z/', $url) !== 1) {
            return null;
        }
        $parts = parse_url($url);
        $scheme = strtolower($parts['scheme'] ?? '');
        $host = $parts['host'] ?? '';
        if (
            !is_array($parts) || ($scheme !== 'http' && $scheme !== 'https')
            || isset($parts['user']) || isset($parts['pass']) || isset($parts['query']) || isset($parts['fragment'])
            || preg_match('/^([a-z0-9._-]+|\[[0-9a-f:.]+\])\z/i', $host) !== 1
        ) {
            return null;
        }
        $usual_port = $scheme === 'https' ? 443 : 80;
        $port = $parts['port'] ?? $usual_port;
        return [
            'tls' => $scheme === 'https',
            'host' => $host,
            'address' => "tcp://$host:$port",
            'authority' => $port === $usual_port ? $host : "$host:$port",
            'path' => rtrim($parts['path'] ?? '', '/'),
        ];
    }

    /** An open connection that never blocks, or anything else. */
    function _fanfare_connect(array $server, float $deadline)
    {
        if (!function_exists('stream_socket_client')) {
            return null; // switched off by disable_functions
        }
        $context = stream_context_create([
            'socket' => ['tcp_nodelay' => true],
            'ssl' => [
                'verify_peer' => true,
                'verify_peer_name' => true,
                'allow_self_signed' => false,
                'peer_name' => trim($server['host'], '[]'),
            ],
        ]);
        $left = $deadline - _fanfare_now();
        $stream = stream_socket_client($server['address'], $code, $text, $left, STREAM_CLIENT_CONNECT, $context);
        if (!is_resource($stream) || !stream_set_blocking($stream, false) || !$server['tls']) {
            return $stream;
        }
        // Not ssl:// in one step, which gives the handshake a whole timeout of its own.
        while (($done = stream_socket_enable_crypto($stream, true, STREAM_CRYPTO_METHOD_TLS_CLIENT)) === 0) {
            if (!_fanfare_wait($stream, false, $deadline)) {
                break;
            }
        }
        if ($done === true) {
            return $stream;
        }
        fclose($stream);
        return null;
    }

    /** Waits until there is something to do, however little; false: the time is up. */
    function _fanfare_wait($stream, bool $writing, float $deadline): bool
    {
        $left = $deadline - _fanfare_now();
        if ($left <= 0) {
            return false;
        }
        $read = [$stream];
        $write = $writing ? [$stream] : null;
        $except = null;
        if (stream_select($read, $write, $except, (int) $left, (int) (fmod($left, 1.0) * 1e6)) === false) {
            usleep(1000); // a signal, or more open files than select() can name: look again soon
        }
        return true;
    }

    /** Writes the request and reads until the answer is whole. */
    function _fanfare_exchange($stream, string $request, int $answer_max, float $deadline): ?array
    {
        $sent = 0;
        $length = strlen($request);
        $answer = '';
        do {
            if ($sent < $length) {
                // false is "not now" as well as "never again", and of the latter the reading below learns. It learns
                // of a refusal too that comes while we still write, as for a message that is too large.
                $sent += (int) fwrite($stream, substr($request, $sent, 65536));
            }
            do {
                $chunk = (string) fread($stream, 65536);
                $answer .= $chunk;
                if (strlen($answer) > $answer_max) {
                    return null;
                }
            } while ($chunk !== '' && _fanfare_now() < $deadline);
            $ended = stream_get_meta_data($stream)['eof'];
            $whole = _fanfare_answer($answer, $ended);
            if ($whole !== null || $ended) {
                return $whole;
            }
        } while (_fanfare_wait($stream, $sent < $length, $deadline));
        return null;
    }

    /** Reads an HTTP answer: [status, body], or null as long as it is not whole, or if it is none. */
    function _fanfare_answer(string $bytes, bool $ended): ?array
    {
        $head_bytes = strpos($bytes, "\r\n\r\n");
        if ($head_bytes === false || preg_match('~^HTTP/1\.[01] ([2-5][0-9]{2})[ \r]~', $bytes, $status) !== 1) {
            return null;
        }
        $head = substr($bytes, 0, $head_bytes + 2);
        $body = (string) substr($bytes, $head_bytes + 4);
        if (preg_match('/^Transfer-Encoding:[ \t]*chunked[ \t]*\r$/mi', $head) === 1) {
            $body = _fanfare_unchunk($body);
        } elseif (preg_match('/^Content-Length:[ \t]*([0-9]{1,9})[ \t]*\r$/mi', $head, $match) === 1) {
            $body = strlen($body) >= (int) $match[1] ? substr($body, 0, (int) $match[1]) : null;
        } elseif (!$ended) {
            $body = null;
        }
        return $body === null ? null : [(int) $status[1], (string) $body];
    }

    /** Joins the pieces of a chunked body, as proxies like to send it; null as long as the last is missing. */
    function _fanfare_unchunk(string $bytes): ?string
    {
        if (substr($bytes, -4) !== "\r\n\r\n") {
            return null;
        }
        $body = '';
        $at = 0;
        while (preg_match('/\G([0-9a-f]{1,7})[^\r\n]*\r\n/i', $bytes, $match, 0, $at) === 1) {
            $size = (int) hexdec($match[1]);
            if ($size === 0) {
                return $body;
            }
            $at += strlen($match[0]);
            $body .= substr($bytes, $at, $size);
            $at += $size + 2;
        }
        return null;
    }
}
