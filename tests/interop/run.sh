#!/bin/sh
# Holds what the program writes against the programs that people run it in: installs them into target/interop, in the versions of
# requirements.txt, and runs every script beside this one.
#   tests/interop/run.sh      PYTHON=the Python to use, 3.10 or later
set -u
cd "$(dirname "$0")/../.." || exit 1
program="${CARGO_TARGET_DIR:-target}/release/slicegpt-gpu"
[ -x "$program" ] || { echo "$program is missing: run make build first"; exit 1; }
venv=target/interop
requirements=tests/interop/requirements.txt
python=${PYTHON:-python3}

if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
	echo "Python with venv is missing: installing python3 and python3-venv."
	sudo=
	[ "$(id -u)" -eq 0 ] || sudo=sudo
	if command -v apt-get >/dev/null; then
		$sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv
	elif command -v dnf >/dev/null; then $sudo dnf install -y -q python3
	elif command -v pacman >/dev/null; then $sudo pacman -S --noconfirm --needed python
	else echo "No apt-get, dnf or pacman here: install Python 3.10 or later by hand, then run this again."; exit 1; fi || exit 1
fi

if ! cmp -s "$requirements" "$venv/installed"; then
	rm -rf "$venv"
	"$python" -m venv "$venv" || exit 1
	# PyPI's torch for Linux on x86 brings CUDA with it; nothing here uses that.
	cpu=https://download.pytorch.org/whl/cpu
	if "$python" -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=10)" 2>/dev/null; then
		echo "Installing $requirements into $venv, torch without CUDA."
		"$venv/bin/pip" install -q --index-url "$cpu" "$(grep '^torch==' "$requirements")" || exit 1
	else
		echo "Installing $requirements into $venv, torch from PyPI (3 GB), as $cpu cannot be reached."
	fi
	"$venv/bin/pip" install -q -r "$requirements" || exit 1
	cp "$requirements" "$venv/installed"
fi

failed=
for script in tests/interop/*.py; do
	began=$(date +%s)
	if "$venv/bin/python" "$script" --binary "$program"; then result=passed; else result=FAILED failed="$failed $script"; fi
	echo "$result: $script, $(($(date +%s) - began)) s"
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
