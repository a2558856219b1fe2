<?php

file_get_contents('http://127.0.0.1:8080/ch/orders', false, stream_context_create(['http' => [
    'method' => 'POST', 'content' => 'order 7 paid', 'header' => 'Content-Type: text/plain', 'timeout' => 1]]));
