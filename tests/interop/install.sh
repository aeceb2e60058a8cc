#!/bin/sh
# Installs the programs that the scripts beside this one need into target/interop, in the versions of requirements.txt, unless they are
# there.
#   tests/interop/install.sh      PYTHON=the Python to use, 3.10 or later; pip's own variables, such as PIP_EXTRA_INDEX_URL, say where packages are from
# Exit code 75 if pip can get no packages here.
set -u
cd "$(dirname "$0")/../.." || exit 1
venv=target/interop
requirements=tests/interop/requirements.txt
python=${PYTHON:-python3}

if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
	echo "Python with venv is missing: installing python3 and python3-venv."
	sudo=
	[ "$(id -u)" -eq 0 ] || sudo=sudo
	if [ -n "$sudo" ] && ! command -v sudo >/dev/null; then
		echo "Neither root nor sudo here: have them installed (Debian, Ubuntu: apt-get install python3 python3-venv), then run this again."
		exit 1
	fi
	if command -v apt-get >/dev/null; then
		$sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv
	elif command -v dnf >/dev/null; then $sudo dnf install -y -q python3
	elif command -v pacman >/dev/null; then $sudo pacman -S --noconfirm --needed python
	else echo "No apt-get, dnf or pacman here: install Python 3.10 or later by hand, then run this again."; exit 1; fi || exit 1
fi

if [ ! -x "$venv/bin/python" ] || [ "$(cat "$requirements")" != "$(cat "$venv/installed" 2>/dev/null)" ]; then
	rm -rf "$venv"
	"$python" -m venv "$venv" || exit 1
	# The smallest of them tells whether any can be had; after that, a failure is one.
	probe=$(mktemp -d)
	"$venv/bin/pip" download -q --no-deps --no-cache-dir --disable-pip-version-check -d "$probe" "$(grep '^safetensors==' "$requirements")"
	code=$?
	rm -rf "$probe"
	[ "$code" -eq 0 ] || { echo "pip can get no packages here."; exit 75; }
	echo "Installing $requirements into $venv: some gigabytes, as torch brings CUDA with it on Linux; an index that has it without is given by PIP_EXTRA_INDEX_URL."
	"$venv/bin/pip" install -q --no-compile -r "$requirements" || exit 1
	cp "$requirements" "$venv/installed"
fi
