<?php

require __DIR__ . '/../../clients/php/fanfare.php';

var_dump(fanfare('main', 'This is a broadcasted message'));
