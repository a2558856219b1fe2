<?php

declare(strict_types=1);

require __DIR__ . '/../orders.php';
require __DIR__ . '/../../../clients/php/fanfare.php';

function answer(int $status, array $body): void
{
    http_response_code($status);
    header('Content-Type: application/json');
    echo json_encode($body);
}

if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
    header('Allow: POST');
    answer(405, ['error' => 'orders are paid by POST']);
    exit;
}
// A page of another site can make a visitor's browser post here; browsers say so.
if (($_SERVER['HTTP_SEC_FETCH_SITE'] ?? 'same-origin') !== 'same-origin') {
    answer(403, ['error' => 'this came from another site']);
    exit;
}

$id = filter_var($_POST['id'] ?? null, FILTER_VALIDATE_INT);
[$order, $changed] = with_orders(static function (array &$orders) use ($id): array {
    if ($id === false || !isset($orders[$id])) {
        return [null, false];
    }
    $changed = $orders[$id]['status'] === 'open';
    $orders[$id]['status'] = 'paid';
    return [$orders[$id], $changed];
});
if ($order === null) {
    answer(404, ['error' => 'no such order']);
    exit;
}
answer(200, $order);

// The order is paid and stored, so the visitor need not wait for the broadcast. With sessions, session_write_close().
if (function_exists('fastcgi_finish_request')) {
    fastcgi_finish_request();
}
if ($changed) {
    $news = json_encode(['id' => $order['id'], 'status' => $order['status']]);
    $published = fanfare('orders', $news, ['event' => 'paid']);
    if (!isset($published['id'])) {
        $why = $published['message'] ?? 'no answer from Fanfare';
        error_log("order {$order['id']} is paid, but not shown live: $why");
    }
}
