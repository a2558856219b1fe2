#!/usr/bin/env bash
# Starts php-fpm and nginx for this example in a temporary folder, prints the page's address, and stops both on Ctrl-C.
#
#   PORT          where nginx listens, on 127.0.0.1; default 8000
#   FANFARE_URL   where Fanfare already runs, http://host:port; default http://127.0.0.1:8080
#   FANFARE_KEY   its key; default none
#   PHP_FPM       the php-fpm to use; default the newest in the path
#   SITE          the example's folder, with the site in `public`; default this one
#   RUN_AS        as root only: the user of the workers; default www-data if it can read this folder, else root
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
public=${SITE:-$here}/public
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
port=${PORT:-8000}
export FANFARE_URL=${FANFARE_URL:-http://127.0.0.1:8080} FANFARE_KEY=${FANFARE_KEY:-}

die() {
    echo "run.sh: $*" >&2
    exit 1
}

[[ $port =~ ^[0-9]+$ ]] || die "PORT is not a number: $port"
[[ $FANFARE_URL =~ ^http://([][A-Za-z0-9.:-]+)/?$ ]] || die "FANFARE_URL is not http://host:port: $FANFARE_URL"
fanfare=${BASH_REMATCH[1]}
fpm=${PHP_FPM:-$(compgen -c php-fpm | sort -rV | head -n 1)}
[[ -n $fpm ]] || die "php-fpm is not installed"
command -v nginx > /dev/null || die "nginx is not installed"

run=$(mktemp -d)
pids=()
stop() {
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2> /dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null || true; done
    rm -rf "$run"
}
trap stop EXIT
trap 'exit 0' INT TERM

mkdir "$run/data"
fill() {
    local text
    text=$(< "$here/$1")
    text=${text//@RUN@/"$run"}
    text=${text//@PUBLIC@/"$public"}
    text=${text//@FANFARE@/"$fanfare"}
    text=${text//@PORT@/"$port"}
    printf '%s\n' "$text" > "$run/$1"
}
fill nginx.conf
fill php-fpm.conf

fpm_options=()
nginx_options=()
if [[ $EUID -eq 0 ]]; then
    user=${RUN_AS:-www-data}
    if [[ -z ${RUN_AS:-} ]] && ! runuser -u "$user" -- test -r "$public/index.php" 2> /dev/null; then
        user=root
    fi
    group=$(id -gn "$user")
    printf '%s\n' "user = $user" "group = $group" "listen.owner = $user" "listen.group = $group" >> "$run/php-fpm.conf"
    [[ $user != root ]] || fpm_options+=(-R)
    nginx_options+=(-g "user $user $group;")
    chmod 711 "$run"
    chown "$user:$group" "$run/data"
fi

"$fpm" --force-stderr -p "$run" -y "$run/php-fpm.conf" "${fpm_options[@]}" &
pids+=($!)
for _ in {1..100}; do
    [[ -S $run/fpm.sock ]] && break
    kill -0 "${pids[0]}" 2> /dev/null || die "php-fpm did not start"
    sleep 0.05
done
nginx -e stderr -p "$run" -c "$run/nginx.conf" "${nginx_options[@]}" &
pids+=($!)
for _ in {1..100}; do
    (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break
    kill -0 "${pids[1]}" 2> /dev/null || die "nginx did not start; is port $port free?"
    sleep 0.05
done
kill -0 "${pids[1]}" 2> /dev/null || die "nginx did not start; is port $port free?"

echo "http://localhost:$port/"
wait -n || true
die "php-fpm or nginx ended"
