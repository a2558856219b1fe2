<?php

/**
 * A server for fanfare_test.php that answers as its first argument says, well or badly.
 *
 * Prints its port and, when it answers well, each request it reads: base64, one a line. Ends when its standard input
 * does, so that it never outlives the test that started it.
 */

declare(strict_types=1);

error_reporting(0);
ini_set('memory_limit', '256M');
$mode = $argv[1];

$context = stream_context_create(isset($argv[2]) ? ['ssl' => ['local_cert' => $argv[2]]] : []);
$flags = STREAM_SERVER_BIND | STREAM_SERVER_LISTEN;
$server = stream_socket_server('tcp://127.0.0.1:0', $code, $text, $flags, $context);
echo substr(strrchr(stream_socket_get_name($server, false), ':'), 1), "\n";

function plain(string $status, string $body, string $more = ''): string
{
    $length = strlen($body);
    return "HTTP/1.1 $status\r\n{$more}content-type: application/json\r\nContent-length:$length\r\n\r\n$body";
}

/** Reads a request up to its Content-Length; '' if the peer went away. */
function read_request($peer, bool $head_only): string
{
    $request = '';
    while (true) {
        $end = strpos($request, "\r\n\r\n");
        if ($end !== false) {
            preg_match('/^Content-Length: (\d+)\r$/m', $request, $match);
            if ($head_only || strlen($request) >= $end + 4 + (int) ($match[1] ?? 0)) {
                return $request;
            }
        }
        $piece = fread($peer, 65536);
        if ($piece === false || $piece === '') {
            return '';
        }
        $request .= $piece;
    }
}

/** Repeats until the peer or the test goes away. */
function for_ever($peer, string $piece, int $pause_us): void
{
    while (fwrite($peer, $piece) !== false) {
        $read = [STDIN];
        $none = null;
        if (stream_select($read, $none, $none, 0, $pause_us) > 0) {
            exit;
        }
    }
}

$good = '{"id":"6f2k-42","listeners":12}';
$refusal = '{"error":"forbidden","message":"channel \"orders\" is not open to talk"}';
$kept = [];
while (true) {
    $read = [$server, STDIN];
    $none = null;
    stream_select($read, $none, $none, null);
    if (in_array(STDIN, $read, true)) {
        exit;
    }
    $peer = stream_socket_accept($server, 1);
    // Open until the test ends, unless the mode closes: no client may depend on our closing.
    $kept[] = $peer;
    if ($mode === 'closes_at_once') {
        fclose($peer);
        continue;
    }
    if ($mode === 'reads_nothing') {
        continue;
    }
    if ($mode === 'tls' && !stream_socket_enable_crypto($peer, true, STREAM_CRYPTO_METHOD_TLS_SERVER)) {
        continue;
    }
    $request = read_request($peer, $mode === 'refuses_early');
    $body = (string) substr($request, strpos($request, "\r\n\r\n") + 4);

    switch ($mode) {
        case 'good':
        case 'tls':
            fwrite($peer, plain('200 OK', $good));
            break;
        case 'good_until_close':
            fwrite($peer, "HTTP/1.0 200\r\n\r\n$good");
            fclose($peer);
            break;
        case 'good_in_bytes':
            foreach (str_split(plain('200 OK', $good)) as $byte) {
                fwrite($peer, $byte);
                usleep(500);
            }
            break;
        case 'good_chunked':
            $chunked = "1\r\n{\r\n" . dechex(strlen($good) - 1) . ";x=y\r\n" . substr($good, 1) . "\r\n0\r\n\r\n";
            fwrite($peer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            usleep(20000);
            fwrite($peer, substr($chunked, 0, 9));
            usleep(20000);
            fwrite($peer, substr($chunked, 9));
            break;
        case 'batch':
            $lines = '';
            foreach (explode("\n", trim($body)) as $number => $line) {
                $lines .= "{\"id\":\"6f2k-$number\",\"listeners\":1}\n";
            }
            fwrite($peer, plain('200 OK', $lines));
            break;
        case 'refuses':
        case 'refuses_early':
            fwrite($peer, plain('403 Forbidden', $refusal));
            break;
        case 'hangs':
            break;
        case 'drips_status':
            for_ever($peer, 'H', 100000);
            break;
        case 'drips_head':
            fwrite($peer, "HTTP/1.1 200 OK\r\nX: ");
            for_ever($peer, 'x', 100000);
            break;
        case 'drips_body':
            fwrite($peer, "HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n");
            for_ever($peer, ' ', 100000);
            break;
        case 'drips_chunks':
            fwrite($peer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for_ever($peer, "1\r\n \r\n", 100000);
            break;
        case 'garbage':
            fwrite($peer, random_bytes(3000) . "\r\n\r\n" . random_bytes(3000));
            fclose($peer);
            break;
        case 'garbage_and_waits':
            fwrite($peer, "SSH-2.0-x\r\n\r\n");
            break;
        case 'endless_head':
            for_ever($peer, str_repeat("X: y\r\n", 10000), 0);
            break;
        case 'endless_body':
            fwrite($peer, "HTTP/1.1 200 OK\r\n\r\n");
            for_ever($peer, str_repeat(' ', 60000), 0);
            break;
        case 'cut_short':
            fwrite($peer, substr(plain('200 OK', $good), 0, -1));
            fclose($peer);
            break;
        case 'redirects':
            fwrite($peer, plain('302 Found', '', "Location: http://127.0.0.1:1/\r\n"));
            break;
        case 'proxy_error':
            fwrite($peer, plain('502 Bad Gateway', '<html>no</html>'));
            break;
        case 'other_json':
            fwrite($peer, plain('200 OK', '["not","ours"]'));
            break;
        case 'no_json':
            fwrite($peer, plain('200 OK', 'hello'));
            break;
    }
    // After the answer, since a long line waits here until the test reads it.
    if (in_array($mode, ['good', 'batch'], true)) {
        echo base64_encode($request), "\n";
    }
}
