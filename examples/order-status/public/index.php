<?php

declare(strict_types=1);

require __DIR__ . '/../orders.php';

header("Content-Security-Policy: default-src 'self'");
header('Cache-Control: no-store');

function text($value): string
{
    return htmlspecialchars((string) $value, ENT_QUOTES, 'UTF-8');
}
?>
<!DOCTYPE html>
<html lang="en">
<head>
    <meta charset="utf-8">
    <title>Orders</title>
    <script src="/orders.js" defer></script>
</head>
<body>
<h1>Orders</h1>
<p>Open this page twice and pay an order in one of them. <span id="live">Connecting…</span></p>
<table id="orders">
    <tr><th>No.</th><th>Item</th><th>Status</th><th></th></tr>
<?php foreach (all_orders() as $order) { ?>
    <tr data-id="<?= text($order['id']) ?>">
        <td><?= text($order['id']) ?></td>
        <td><?= text($order['item']) ?></td>
        <td class="status"><?= text($order['status']) ?></td>
        <td><button type="button"<?= $order['status'] === 'open' ? '' : ' disabled' ?>>Pay</button></td>
    </tr>
<?php } ?>
</table>
</body>
</html>
