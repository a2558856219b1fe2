#!/usr/bin/env bash
# Starts php-fpm and nginx for this example; see ../order-status/run.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SITE=$here exec "$here/../order-status/run.sh"
