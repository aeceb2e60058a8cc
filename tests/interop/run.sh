#!/bin/sh
# Holds what the program writes against the programs that people run it in: has install.sh install them, which says how, and runs every
# script beside this one.
#   tests/interop/run.sh
# Exit code 75, and nothing is run, if pip can get no packages here.
set -u
cd "$(dirname "$0")/../.." || exit 1
program="${CARGO_TARGET_DIR:-target}/release/slicegpt-gpu"
[ -x "$program" ] || { echo "$program is missing: run make build first"; exit 1; }
venv=target/interop
tests/interop/install.sh || exit $?

# Two at a time: much of each is one thread that starts programs and compiles shaders. What one says is kept together.
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export logs program venv
printf '%s\n' tests/interop/*.py | xargs -P 2 -I '{}' sh -c '
	began=$(date +%s)
	name=$logs/$(basename "$1")
	if "$venv/bin/python" "$1" --binary "$program" >"$name.log" 2>&1; then result=passed; else result=FAILED; : >"$name.failed"; fi
	cat "$name.log"
	echo "$result: $1, $(($(date +%s) - began)) s"
' run.sh '{}'
failed=$(find "$logs" -name '*.failed' -exec basename {} .failed ';')
[ -z "$failed" ] || { echo "failed:" $failed; exit 1; }
