<?php

/**
 * Events for Pusher's clients from plain PHP, without Composer and without any extension: copy this file and
 * fanfare.php, which sends the requests, and call it as one calls pusher-php-server.
 *
 *     require 'pusher_publish.php';
 *     $pusher = new FanfarePusher('demo-key-7f3a', 'demo-secret-b91c', '4711', ['host' => '127.0.0.1', 'port' => 8080]);
 *     $pusher->trigger('orders', 'order.updated', ['id' => 42]);
 *
 * What goes over the wire is what version 7 of that library sends, with its habits: queries are percent-encoded but
 * signed as they were before, paths too, and a list among the parameters is sent as `info[0]=a&info[1]=b` and signed as
 * `info=a,b`. Names are not looked at here; the server says what it does not like.
 *
 * Like that library, and unlike fanfare(), it throws: FanfarePusherError, with the server's sentence and its HTTP status
 * as code, or code 0 if there was no usable answer in time. PHP 7.4 and later.
 */

declare(strict_types=1);

require_once __DIR__ . '/fanfare.php';

final class FanfarePusherError extends RuntimeException
{
}

final class FanfarePusher
{
    /** Most bytes of an answer that are read: those to questions about channels grow with the channels. */
    private const ANSWER_BYTES_MAX = 64 << 20;

    /** @var string */
    private $key;
    /** @var string */
    private $secret;
    /** @var string */
    private $app_id;
    /** @var array */
    private $options;

    /**
     * @param array $options All optional:
     *                       host    string  default 127.0.0.1
     *                       port    int     default 8080
     *                       scheme  string  http or https; default http
     *                       path    string  what stands before /apps; it is not signed
     *                       unix    string  path of a Unix socket, instead of host and port
     *                       timeout float   seconds for a whole request; default 30, as in pusher-php-server
     */
    public function __construct(
        string $key,
        #[\SensitiveParameter]
        string $secret,
        string $app_id,
        array $options = []
    ) {
        $this->key = $key;
        $this->secret = $secret;
        $this->app_id = $app_id;
        $this->options = $options
            + ['host' => '127.0.0.1', 'port' => 8080, 'scheme' => 'http', 'path' => '', 'unix' => '', 'timeout' => 30.0];
    }

    /**
     * @param string|string[] $channels At most 100.
     * @param mixed           $data     Sent as JSON, unless `$already_encoded`.
     * @param array           $params   socket_id (who is not to hear it), info (`subscription_count,user_count`)
     *
     * @return object Without properties, or with `channels` if there was `info`.
     */
    public function trigger($channels, string $event, $data, array $params = [], bool $already_encoded = false): object
    {
        $params['name'] = $event;
        $params['data'] = $already_encoded ? $data : json_encode($data, JSON_THROW_ON_ERROR);
        $params['channels'] = array_values((array) $channels);
        return $this->post('/events', json_encode($params, JSON_THROW_ON_ERROR));
    }

    /** @param array $batch At most 10 of ['channel' =>, 'name' =>, 'data' =>, 'socket_id' =>, 'info' =>] */
    public function triggerBatch(array $batch, bool $already_encoded = false): object
    {
        foreach ($already_encoded ? [] : $batch as $number => $event) {
            $batch[$number]['data'] = json_encode($event['data'], JSON_THROW_ON_ERROR);
        }
        return $this->post('/batch_events', json_encode(['batch' => $batch], JSON_THROW_ON_ERROR));
    }

    /** To all connections that are signed in as this user. */
    public function sendToUser(string $user_id, string $event, $data, bool $already_encoded = false): object
    {
        return $this->trigger("#server-to-user-$user_id", $event, $data, [], $already_encoded);
    }

    /** Ends all connections that are signed in as this user. */
    public function terminateUserConnections(string $user_id): object
    {
        return $this->post("/users/$user_id/terminate_connections", '{}');
    }

    /** @param array $params filter_by_prefix, info */
    public function getChannels(array $params = []): object
    {
        return $this->get('/channels', $params);
    }

    /** @param array $params info: text with commas, or a list */
    public function getChannelInfo(string $channel, array $params = []): object
    {
        return $this->get("/channels/$channel", $params);
    }

    public function getPresenceUsers(string $channel): object
    {
        return $this->get("/channels/$channel/users");
    }

    /** What lets a socket into a channel: the answer of an application's own endpoint, as JSON. */
    public function authorizeChannel(string $channel, string $socket_id, ?string $channel_data = null): string
    {
        $signed = "$socket_id:$channel" . ($channel_data === null ? '' : ":$channel_data");
        $answer = ['auth' => $this->key . ':' . hash_hmac('sha256', $signed, $this->secret)];
        return json_encode($answer + ($channel_data === null ? [] : ['channel_data' => $channel_data]), JSON_UNESCAPED_SLASHES);
    }

    /** What says who a socket is: the answer of an application's own endpoint, as JSON. */
    public function authenticateUser(string $socket_id, array $user): string
    {
        $data = json_encode($user, JSON_THROW_ON_ERROR);
        $auth = $this->key . ':' . hash_hmac('sha256', "$socket_id::user::$data", $this->secret);
        return json_encode(['auth' => $auth, 'user_data' => $data], JSON_UNESCAPED_SLASHES);
    }

    /** A question of the HTTP API, such as `/channels`. */
    public function get(string $path, array $params = []): object
    {
        return $this->request('GET', $path, $params, '');
    }

    private function post(string $path, string $body): object
    {
        return $this->request('POST', $path, ['body_md5' => md5($body)], $body);
    }

    /** The query of a request, signed: parameters by name, of which a list is signed as one text. */
    public function signedQuery(string $method, string $path, array $params, int $time): string
    {
        $params += ['auth_key' => $this->key, 'auth_timestamp' => (string) $time, 'auth_version' => '1.0'];
        ksort($params);
        $pairs = [];
        foreach ($params as $name => $value) {
            $pairs[] = "$name=" . (is_array($value) ? implode(',', $value) : $value);
        }
        $params['auth_signature'] = hash_hmac('sha256', "$method\n$path\n" . implode('&', $pairs), $this->secret);
        return http_build_query($params, '', '&', PHP_QUERY_RFC3986);
    }

    private function request(string $method, string $path, array $params, string $body): object
    {
        $path = "/apps/$this->app_id$path";
        $query = $this->signedQuery($method, $path, $params, time());
        $unsafe = '~[^A-Za-z0-9_\-.\~!$&\'()*+,;=:@/]~';
        $encoded = preg_replace_callback($unsafe, static function (array $match): string {
            return rawurlencode($match[0]);
        }, $this->options['path'] . $path);
        $unix = $this->options['unix'];
        $server = $unix === ''
            ? _fanfare_server("{$this->options['scheme']}://{$this->options['host']}:{$this->options['port']}")
            : ['tls' => false, 'host' => 'localhost', 'address' => "unix://$unix", 'authority' => 'localhost'];
        if ($server === null) {
            throw new FanfarePusherError('the host and port are no address');
        }
        $request = "$method $encoded?$query HTTP/1.1\r\nHost: {$server['authority']}\r\n"
            . "Content-Type: application/json\r\nX-Pusher-Library: pusher-http-php 7.2.6\r\n"
            . 'Content-Length: ' . strlen($body) . "\r\nConnection: close\r\n\r\n$body";
        $answer = $this->send($server, $request);
        if ($answer === null) {
            throw new FanfarePusherError('the server gave no usable answer in time');
        }
        if ($answer[0] !== 200) {
            throw new FanfarePusherError($answer[1], $answer[0]);
        }
        $decoded = json_decode($answer[1]);
        if (!is_object($decoded)) {
            throw new FanfarePusherError('the answer is no JSON object');
        }
        return $decoded;
    }

    /** [status, body], or null. Connecting warns when nobody is there; that is told by the exception. */
    private function send(array $server, string $request): ?array
    {
        set_error_handler(static function (): bool {
            return true;
        });
        $stream = null;
        try {
            $deadline = _fanfare_now() + (float) $this->options['timeout'];
            $stream = _fanfare_connect($server, $deadline);
            return is_resource($stream) ? _fanfare_exchange($stream, $request, self::ANSWER_BYTES_MAX, $deadline) : null;
        } finally {
            if (is_resource($stream)) {
                fclose($stream);
            }
            restore_error_handler();
        }
    }
}
