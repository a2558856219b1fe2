<?php

declare(strict_types=1);

require __DIR__ . '/../orders.php';

header('Content-Type: application/json');
header('Cache-Control: no-store');
echo json_encode(array_values(all_orders()));
