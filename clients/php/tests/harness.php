<?php

/** What the tests of PHP share: what PHP has to say, and what passed. */

declare(strict_types=1);

error_reporting(-1);
// As frameworks do it: anything PHP has to say becomes an exception, `@` or not.
set_error_handler(static function (int $level, string $text, string $file, int $line): bool {
    throw new ErrorException($text, 0, $level, $file, $line);
});

$passed = 0;
$failed = 0;

/** Says whether something is as it should be, and counts it. */
function report(string $name, $got, $expected): void
{
    global $passed, $failed;
    if ($got === $expected) {
        $passed++;
        echo "ok - $name\n";
        return;
    }
    $failed++;
    [$got, $expected] = [var_export($got, true), var_export($expected, true)];
    echo "not ok - $name\n    got      $got\n    expected $expected\n";
}

/** Ends the process, with the totals. */
function finish(string $what): void
{
    global $passed, $failed;
    echo "$what: $passed passed, $failed failed\n";
    exit($failed === 0 ? 0 : 1);
}
