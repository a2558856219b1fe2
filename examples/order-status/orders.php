<?php

/** The shop's orders, in a JSON file. A database in real life; the file keeps the example free of one. */

declare(strict_types=1);

function orders_file(): string
{
    return getenv('ORDERS_FILE') ?: sys_get_temp_dir() . '/fanfare-example-orders.json';
}

/**
 * Calls `$change` with the orders while no other request may touch them, and keeps what it leaves there.
 *
 * @return mixed what `$change` returned
 */
function with_orders(callable $change)
{
    $file = fopen(orders_file(), 'c+');
    flock($file, LOCK_EX);
    $orders = json_decode((string) stream_get_contents($file), true) ?? [
        1 => ['id' => 1, 'item' => 'Trumpet', 'status' => 'open'],
        2 => ['id' => 2, 'item' => 'Mute & mouthpiece', 'status' => 'open'],
        3 => ['id' => 3, 'item' => 'Sheet music <Fanfare>', 'status' => 'open'],
    ];
    $answer = $change($orders);
    ftruncate($file, 0);
    rewind($file);
    fwrite($file, json_encode($orders));
    fclose($file); // and with it the lock
    return $answer;
}

/** All orders, by id. */
function all_orders(): array
{
    return with_orders(static function (array $orders): array {
        return $orders;
    });
}
