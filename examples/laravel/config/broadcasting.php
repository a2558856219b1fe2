<?php

// The connection `pusher`, with what Fanfare can do besides: see docs/laravel.md.

return [

    // BROADCAST_DRIVER is its name in Laravel 10 and older.
    'default' => env('BROADCAST_CONNECTION', env('BROADCAST_DRIVER', 'null')),

    'connections' => [

        'pusher' => [
            'driver' => 'pusher',
            'key' => env('PUSHER_APP_KEY'),
            'secret' => env('PUSHER_APP_SECRET'),
            'app_id' => env('PUSHER_APP_ID'),
            'options' => [
                'host' => env('PUSHER_HOST', '127.0.0.1'),
                'port' => env('PUSHER_PORT', 8080),
                'scheme' => env('PUSHER_SCHEME', 'http'),
                'useTLS' => env('PUSHER_SCHEME', 'http') === 'https',
                'encryption_master_key_base64' => env('PUSHER_ENCRYPTION_KEY'),
            ],
            'client_options' => [
                // A request of a visitor waits this long for Fanfare, at most.
                'connect_timeout' => 1,
                'timeout' => 2,
                // On the same machine, without a port (`unix` in Fanfare's settings):
                // 'curl' => [CURLOPT_UNIX_SOCKET_PATH => '/run/fanfare/fanfare.sock'],
            ],
        ],

        'log' => ['driver' => 'log'],

        'null' => ['driver' => 'null'],

    ],

];
